"""Metrics since the last report; detection of non-finite updates, spikes and slow processes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float

from maskfeat_jax.sharding import joined_ids
from maskfeat_jax.state import RECENT_STEPS

_SPIKE_SIGMAS = 6.0
_WATCHED = ("loss", "grad_norm")
_FLAGS = ("nonfinite", "spike")
_SLOW_TIMES_MEDIAN, _SLOW_MIN_SHARE, _SLOW_STEPS = 1.5, 0.1, 100


class Diverged(RuntimeError):
    """The loss or the parameters are not finite."""


class Bad(NamedTuple):
    """An update that was skipped because it was not finite.

    Attributes:
      step: number of steps before it.
      loss: of the batch.
      grad_norm: norm of the gradient.
      examples: ids of the examples in the batch.
    """

    step: int
    loss: float
    grad_norm: float
    examples: list[int]


class TooManyBad(Diverged):
    """More updates were skipped than the recipe allows.

    Attributes:
      bad: the last of them, consecutive ones.
    """

    def __init__(self, message: str, bad: list[Bad]):
        """Stores both."""
        super().__init__(message)
        self.bad = bad


class MetricBuffer:
    """Metrics of the steps since the last report, kept on the devices until `fetch`."""

    def __init__(self, max_in_a_row: int, max_fraction: float, stored: Mapping | None = None):
        """Starts empty, or with the metrics of a checkpoint.

        Args:
          max_in_a_row: limit of consecutive skipped updates.
          max_fraction: limit of the fraction of skipped updates; applies above `max_in_a_row`.
          stored: the value of `rows` when the checkpoint was saved.
        """
        self._max_in_a_row, self._max_fraction = max_in_a_row, max_fraction
        self._in_a_row: list[Bad] = []
        self._seen = self._skipped = 0
        self._rows: list[dict[str, Any]] = []
        self._fetched: list[dict[str, Any]] = _from_json(stored) if stored else []
        self._steps: list[int] = []
        self._examples: list[Any] = []

    def add(self, step: int, metrics: dict[str, jax.Array], examples: Any) -> None:
        """Adds the metrics of the update after `step`, without waiting for them."""
        self._rows.append(metrics)
        self._steps.append(step)
        self._examples.append(examples)

    def fetch(self) -> list[Bad]:
        """Fetches the metrics from the devices; returns the updates skipped since the last call.

        Raises:
          TooManyBad: a limit is exceeded.
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
            self._skipped += 1
            self._check()
        self._fetched += rows
        self._steps, self._examples = [], []
        return found

    def rows(self) -> dict[str, list[str]]:
        """The fetched metrics since the last report by name, as text that keeps every bit."""
        names = self._fetched[0] if self._fetched else ()
        return {name: [str(row[name]) for row in self._fetched] for name in names}

    def read(self) -> dict[str, float]:
        """Means over the finite steps since the last report; call `fetch` first."""
        rows, self._fetched = self._fetched, []
        finite = [row for row in rows if not row["nonfinite"]] or rows
        names = [name for name in rows[0] if not name.endswith("_sigmas")]
        means = {name: float(np.mean([row[name] for row in finite])) for name in names}
        means["lr"] = float(rows[-1]["lr"])
        means["nonfinite"] = float(sum(bool(row["nonfinite"]) for row in rows))
        return means

    def spikes(self) -> list[str]:
        """Warnings of spikes in loss and gradient norm since the last report; call `fetch` first.

        A spike is more than six standard deviations above recent steps, see `steps.deviations`.
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
                "the last checkpoint is good. Lower optim.lr, or inspect the data",
                self._in_a_row,
            )
        allowed = self._max_fraction * self._seen
        if self._skipped > max(self._max_in_a_row, allowed + 3 * math.sqrt(allowed)):
            raise TooManyBad(
                f"{self._skipped} of {self._seen} steps gave a loss or gradient that is not "
                "finite, more than run.max_nonfinite_fraction; the last checkpoint is good. "
                "Lower optim.lr, or inspect the data",
                self._in_a_row,
            )


class StragglerDetector:
    """Detects processes whose input is slow for a hundred steps.

    Devices run in lockstep, so all processes have the same step time; a slow host is the one that
    waits for its own input while the others wait for it.
    """

    def __init__(self) -> None:
        """Starts with no slow process."""
        self._slow_steps: dict[int, int] = {}

    def update(
        self, waited_s: Float[np.ndarray, " processes"], interval_s: float, steps: int
    ) -> list[str]:
        """Warnings, one for each process that has just become slow.

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
                    f"warning: process {process} has delayed the others for {now} steps: it waits "
                    f"for its input {100 * waited / interval_s:.0f} % of the time"
                )
        return sentences


def _ids(examples: Any) -> list[int]:
    """Ids of the rows of all processes."""
    rows = np.asarray(multihost_utils.process_allgather(examples, tiled=True))
    return joined_ids(rows).tolist()


def _from_json(stored: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    def parse(name: str, text: str) -> Any:
        return text == "True" if name in _FLAGS else np.float32(text)

    columns = {name: [parse(name, text) for text in column] for name, column in stored.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
