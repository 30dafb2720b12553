"""Evaluation: sums over a dataset, which count each example exactly once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from maskfeat_jax.faults import fault_point
from maskfeat_jax.state import TrainState
from maskfeat_jax.steps import Metrics
from maskfeat_jax.training.prefetch import Batch, Prefetcher

Interrupt = Callable[[bool], bool]


class Interrupted(Exception):
    """The run was asked to stop during an evaluation."""


def never(waiting: bool) -> bool:
    """Never interrupts."""
    return False


def evaluate(
    state: TrainState,
    batches: Prefetcher,
    *,
    step: Callable[[Any, Batch], tuple[Metrics, Metrics]],
    kept: Callable[[Any], Mapping[str, np.ndarray]] = dict,
    expected: int,
    interrupted: Interrupt = never,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Sums over a dataset, in float64, and arrays by example, both of an evaluation step.

    Args:
      state: on the devices.
      batches: one pass over the dataset; rows with `valid` False do not count.
      step: the compiled `Task.eval_step`.
      kept: see `Task.kept`.
      expected: number of examples in the dataset.
      interrupted: whether to stop; called with False once per batch, by all processes, and with
        True repeatedly while waiting for a batch.

    Raises:
      Interrupted: `interrupted` returned True.
      AssertionError: more examples were counted than the dataset has.
    """
    sums: dict[str, Any] = {}
    by_batch: list[Mapping[str, np.ndarray]] = []
    while True:
        try:
            batch = batches.next(lambda: interrupted(True))
        except StopIteration:
            break
        if batch is None or interrupted(False):
            raise Interrupted
        fault_point("evaluate.batch")
        of_batch, of_examples = step(state, batch)
        by_batch.append(kept(jax.device_get(of_examples)))
        # float32 is exact enough for the sums of a batch, not for those of a dataset.
        added = {name: np.asarray(x, np.float64) for name, x in of_batch.items()}
        sums = {name: sums.get(name, 0.0) + x for name, x in added.items()}
    assert sums["examples"] <= expected, f"{sums['examples']} examples of {expected} were counted"
    arrays = {name: np.concatenate([one[name] for one in by_batch]) for name in by_batch[0]}
    return sums, arrays
