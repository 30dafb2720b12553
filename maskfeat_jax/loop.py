"""The loop: one for every task. Iteration, time and files; the algorithm is in `steps`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maskfeat_jax.checkpoint import Checkpoints
from maskfeat_jax.report import Report
from maskfeat_jax.sharding import prefetch
from maskfeat_jax.state import TrainState

Batch = dict[str, Any]


class Diverged(RuntimeError):
    """The loss or the parameters are no longer finite."""


@dataclasses.dataclass(frozen=True)
class Run:
    """How long, how much at a time, and how often what.

    Attributes:
      batch_size: clips per update, over all devices.
      epochs: of the whole run.
      accumulate: parts that a batch is computed in, one after the other.
      log_every_steps: steps between two lines of progress.
      checkpoint_every_epochs: 0 saves at the end only.
      evaluate_every_epochs: 0 evaluates at the end only.
      pictures_every_epochs: 0 draws at the end only.
      keep_checkpoints: how many of the newest stay.
      max_nonfinite: steps in a row that may be skipped because loss or gradient is not finite.
    """

    batch_size: int
    epochs: float = 1.0
    accumulate: int = 1
    log_every_steps: int = 50
    checkpoint_every_epochs: float = 1.0
    evaluate_every_epochs: float = 1.0
    pictures_every_epochs: float = 1.0
    keep_checkpoints: int = 3
    max_nonfinite: int = 5

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "log_every_steps", "keep_checkpoints"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        for name in ("checkpoint", "evaluate", "pictures"):
            if getattr(self, f"{name}_every_epochs") < 0:
                raise ValueError(f"{name}_every_epochs must not be negative")
        if self.max_nonfinite < 1:
            raise ValueError(f"max_nonfinite={self.max_nonfinite} must be 1 or more")


def train(
    state: TrainState,
    batches: Iterable[Batch],
    *,
    run: Run,
    steps_per_epoch: float,
    step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]],
    place: Callable[[Batch], Batch],
    evaluate: Callable[[Any], dict[str, float]],
    draw: Callable[[Any], dict[str, np.ndarray]],
    report: Report,
    checkpoints: Checkpoints,
    facts: Mapping[str, Any],
) -> tuple[TrainState, dict[str, float]]:
    """Trains from the state's step to the end.

    Args:
      state: where to begin.
      batches: from the batch of the state's step on.
      run: the section of the recipe.
      steps_per_epoch: updates in an epoch; may be a fraction.
      step: the compiled step; takes the state over.
      place: moves a batch to the devices.
      evaluate: metrics of parameters.
      draw: pictures of parameters by name.
      report: where progress goes.
      checkpoints: where states go.
      facts: stored with each checkpoint.

    Returns:
      The last state and its evaluation.

    Raises:
      Diverged: too many steps in a row were not finite, or the parameters are not.
    """
    total = round(run.epochs * steps_per_epoch)
    stream = prefetch(batches, place)
    window = _Window(run.max_nonfinite)
    results: dict[str, float] = {}

    def due(done: int, every_epochs: float) -> bool:
        every = max(1, round(every_epochs * steps_per_epoch))
        return done == total or bool(every_epochs and done % every == 0)

    for done in range(int(state.step) + 1, total + 1):
        batch = window.wait(stream)
        state, metrics = step(state, batch)
        window.add(metrics)
        if done % run.log_every_steps == 0 or done == total:
            report.train(done, *window.read())
        with report.pausing():
            if due(done, run.evaluate_every_epochs):
                results = evaluate(state.evaluated)
                if results:  # else there is nothing to evaluate on
                    report.evaluation(done, results)
            if due(done, run.pictures_every_epochs):
                for name, picture in draw(state.evaluated).items():
                    report.pictures(done, name, picture)
            if due(done, run.checkpoint_every_epochs):
                _save(checkpoints, done, state, facts)
    return state, results or evaluate(state.evaluated)  # nothing was left to do


class _Window:
    """Metrics and waiting time since the last report; fetched from the device only for it."""

    def __init__(self, max_nonfinite: int):
        self._max_nonfinite = max_nonfinite
        self._in_a_row = 0
        self._metrics: list[dict[str, jax.Array]] = []
        self._waited_s = 0.0

    def wait(self, stream: Iterator[Batch]) -> Batch:
        start = time.perf_counter()
        batch = next(stream)
        self._waited_s += time.perf_counter() - start
        return batch

    def add(self, metrics: dict[str, jax.Array]) -> None:
        self._metrics.append(metrics)

    def read(self) -> tuple[dict[str, float], float]:
        """Means over the finite steps, and seconds waited for input."""
        rows, waited_s = jax.device_get(self._metrics), self._waited_s
        self._metrics, self._waited_s = [], 0.0
        for row in rows:
            self._in_a_row = self._in_a_row + 1 if row["nonfinite"] else 0
            if self._in_a_row >= self._max_nonfinite:
                raise Diverged(
                    f"{self._in_a_row} steps in a row gave a loss or gradient that is not finite; "
                    "the last checkpoint is good. Lower optim.lr, or look at the data"
                )
        finite = [row for row in rows if not row["nonfinite"]] or rows
        means = {name: float(np.mean([row[name] for row in finite])) for name in rows[0]}
        means["lr"] = float(rows[-1]["lr"])
        means["nonfinite"] = float(sum(bool(row["nonfinite"]) for row in rows))
        return means, waited_s


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))


def _save(checkpoints: Checkpoints, step: int, state: TrainState, facts: Mapping[str, Any]) -> None:
    if not _all_finite(state.params):
        raise Diverged(f"the parameters after step {step} are not finite; they are not saved")
    checkpoints.save(step, state, facts)
