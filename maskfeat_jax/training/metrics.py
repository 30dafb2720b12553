"""Metrics since the last report, what in them is wrong, and who keeps the others waiting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float

from maskfeat_jax.state import RECENT_STEPS

_SPIKE_SIGMAS = 6.0
_WATCHED = ("loss", "grad_norm")
_FLAGS = ("nonfinite", "spike")
_SLOW_TIMES_MEDIAN, _SLOW_MIN_SHARE, _SLOW_STEPS = 1.5, 0.1, 100


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


class MetricBuffer:
    """Metrics of the steps since the last report; fetched from the devices only for it."""

    def __init__(self, max_in_a_row: int, max_fraction: float, stored: Mapping | None = None):
        """An empty buffer, or one that goes on where another run stopped.

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
        names = [name for name in rows[0] if not name.endswith("_sigmas")]
        means = {name: float(np.mean([row[name] for row in finite])) for name in names}
        means["lr"] = float(rows[-1]["lr"])
        means["nonfinite"] = float(sum(bool(row["nonfinite"]) for row in rows))
        return means

    def spikes(self) -> list[str]:
        """A sentence for each metric that stands out since the last report; `settle` comes first.

        More than six standard deviations above the steps before, see `steps.deviations`.
        """
        sentences = []
        for name in _WATCHED:
            highest = max(self._fetched, key=lambda row: row[f"{name}_sigmas"])
            if highest[f"{name}_sigmas"] > _SPIKE_SIGMAS:
                sentences.append(
                    f"warning: {name} {highest[name]:.4g} is {highest[f'{name}_sigmas']:.0f} "
                    f"standard deviations above its last {RECENT_STEPS} steps"
                )
        return sentences

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


class StragglerDetector:
    """Which process has been slow for a hundred steps.

    The devices run in step, so a slow host does not show in the time of a step; it shows in how
    long it waits for its own input while the others wait for it.
    """

    def __init__(self) -> None:
        """Nobody is slow yet."""
        self._slow_steps: dict[int, int] = {}

    def look(
        self, waited_s: Float[np.ndarray, " processes"], interval_s: float, steps: int
    ) -> list[str]:
        """One sentence for each process that has just become slow.

        Args:
          waited_s: seconds that each process waited for its own input.
          interval_s: length of the interval, seconds.
          steps: updates in it.
        """
        bound = max(_SLOW_TIMES_MEDIAN * float(np.median(waited_s)), _SLOW_MIN_SHARE * interval_s)
        sentences = []
        for process, waited in enumerate(waited_s):
            before = self._slow_steps.get(process, 0)
            now = before + steps if waited > bound else 0
            self._slow_steps[process] = now
            if before < _SLOW_STEPS <= now:
                sentences.append(
                    f"warning: process {process} has kept the others waiting for {now} steps: its "
                    f"input takes {100 * waited / interval_s:.0f} % of the time"
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
