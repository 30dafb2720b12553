"""Metrics since the last report, and what in them is wrong."""

from __future__ import annotations

import collections
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

_SPIKE_STEPS, _SPIKE_SIGMAS = 128, 6.0
_WATCHED = ("loss", "grad_norm")
_FLAGS = ("nonfinite", "spike")


class Diverged(RuntimeError):
    """The loss or the parameters are no longer finite."""


class Bad(NamedTuple):
    """An update that was left out.

    Attributes:
      step: updates made before it.
      loss: of the batch.
      grad_norm: of the batch.
      examples: of the batch.
    """

    step: int
    loss: float
    grad_norm: float
    examples: list[int]


class TooManyBad(Diverged):
    """More updates were left out than the recipe allows.

    Attributes:
      bad: the last of them, all in a row.
    """

    def __init__(self, message: str, bad: list[Bad]):
        """Keeps them."""
        super().__init__(message)
        self.bad = bad


class Window:
    """Metrics of the steps since the last report; fetched from the devices only for it."""

    def __init__(self, max_in_a_row: int, max_fraction: float, stored: Mapping | None = None):
        """An empty window, or one that goes on where another run stopped.

        Args:
          max_in_a_row: updates in a row that may be left out.
          max_fraction: share of updates that may be left out; counted from `max_in_a_row` on.
          stored: what `rows` gave.
        """
        self._max_in_a_row, self._max_fraction = max_in_a_row, max_fraction
        self._in_a_row: list[Bad] = []
        self._seen = self._left_out = 0
        self._rows: list[dict[str, Any]] = []
        self._fetched: list[dict[str, Any]] = _from_json(stored) if stored else []
        self._steps: list[int] = []
        self._examples: list[Any] = []
        self.spikes = Spikes()

    def add(self, step: int, metrics: dict[str, jax.Array], examples: Any) -> None:
        """Takes the metrics of the update after `step`, without waiting for them."""
        self._rows.append(metrics)
        self._steps.append(step)
        self._examples.append(examples)

    def settle(self) -> list[Bad]:
        """Waits for the metrics; the updates since the last call that were left out.

        Raises:
          TooManyBad: a limit is passed.
        """
        rows, self._rows = jax.device_get(self._rows), []
        found = []
        for step, row, examples in zip(self._steps, rows, self._examples, strict=True):
            self._seen += 1
            if not row["nonfinite"]:
                self._in_a_row = []
                continue
            bad = Bad(step, float(row["loss"]), float(row["grad_norm"]), _ids(examples))
            found.append(bad)
            self._in_a_row.append(bad)
            self._left_out += 1
            self._check()
        self._fetched += rows
        self._steps, self._examples = [], []
        return found

    def rows(self) -> dict[str, list[str]]:
        """The metrics since the last report by name, as JSON can hold them to the bit."""
        names = self._fetched[0] if self._fetched else ()
        return {name: [str(row[name]) for row in self._fetched] for name in names}

    def read(self) -> dict[str, float]:
        """Means over the finite steps since the last report; `settle` comes first."""
        rows, self._fetched = self._fetched, []
        finite = [row for row in rows if not row["nonfinite"]] or rows
        means = {name: float(np.mean([row[name] for row in finite])) for name in rows[0]}
        means["lr"] = float(rows[-1]["lr"])
        means["nonfinite"] = float(sum(bool(row["nonfinite"]) for row in rows))
        return means

    def spiked(self) -> list[str]:
        """What of the metrics since the last report stands out; `settle` comes first."""
        return self.spikes.look(self._fetched)

    def _check(self) -> None:
        count = len(self._in_a_row)
        if count >= self._max_in_a_row:
            raise TooManyBad(
                f"{count} steps in a row gave a loss or gradient that is not finite; "
                "the last checkpoint is good. Lower optim.lr, or look at the data",
                self._in_a_row,
            )
        allowed = self._max_fraction * self._seen
        if self._left_out > max(self._max_in_a_row, allowed + 3 * math.sqrt(allowed)):
            raise TooManyBad(
                f"{self._left_out} of {self._seen} steps gave a loss or gradient that is not "
                "finite, more than run.max_nonfinite_fraction; the last checkpoint is good. "
                "Lower optim.lr, or look at the data",
                self._in_a_row,
            )


class Spikes:
    """Steps whose loss or gradient is more than six deviations above the last 128."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self._last: dict[str, collections.deque[float]] = {
            name: collections.deque(maxlen=_SPIKE_STEPS) for name in _WATCHED
        }

    def look(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """One sentence for each metric that spikes in the rows, about the highest."""
        sentences = []
        for name, last in self._last.items():
            highest: tuple[float, float] | None = None
            for row in rows:
                value = float(row[name])
                if row["nonfinite"]:
                    continue
                if len(last) == _SPIKE_STEPS:
                    deviations = (value - statistics.fmean(last)) / (statistics.pstdev(last) or 1)
                    if deviations > _SPIKE_SIGMAS and deviations > (highest or (0, 0))[0]:
                        highest = deviations, value
                last.append(value)
            if highest:
                sentences.append(
                    f"warning: {name} {highest[1]:.4g} is {highest[0]:.0f} standard deviations "
                    f"above its last {_SPIKE_STEPS} steps"
                )
        return sentences


def _ids(examples: Any) -> list[int]:
    """Ids of the rows of all processes; two halves where JAX has no 64-bit integers."""
    rows = np.asarray(multihost_utils.process_allgather(examples, tiled=True))
    return (rows.view(np.int64)[:, 0] if rows.ndim == 2 else rows).tolist()


def _from_json(stored: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    def parse(name: str, text: str) -> Any:
        return text == "True" if name in _FLAGS else np.float32(text)

    columns = {name: [parse(name, text) for text in column] for name, column in stored.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
