"""Evaluation: sums over a dataset, which count each example exactly once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from maskfeat_jax.faults import fault_point
from maskfeat_jax.training.prefetch import Batch, Prefetcher

Interrupt = Callable[[bool], bool]


class Interrupted(Exception):
    """The run was asked to stop during an evaluation."""


def never(waiting: bool) -> bool:
    """Never interrupts."""
    return False


def evaluate(
    params: Any,
    batches: Prefetcher,
    *,
    step: Callable[[Any, Batch], dict[str, jax.Array]],
    expected: int,
    interrupted: Interrupt = never,
) -> dict[str, Any]:
    """Sums the outputs of an evaluation step over a dataset, in float64.

    Args:
      params: on the devices.
      batches: one pass over the dataset; rows with `valid` False do not count.
      step: the compiled step, which returns sums over a batch, with `examples` among them.
      expected: number of examples in the dataset.
      interrupted: whether to stop; called with False once per batch, by all processes, and with
        True repeatedly while waiting for a batch.

    Raises:
      Interrupted: `interrupted` returned True.
      AssertionError: more examples were counted than the dataset has.
    """
    sums: dict[str, Any] = {}
    while True:
        try:
            batch = batches.next(lambda: interrupted(True))
        except StopIteration:
            break
        if batch is None or interrupted(False):
            raise Interrupted
        fault_point("evaluate.batch")
        # float32 is exact enough for the sums of a batch, not for those of a dataset.
        added = {name: np.asarray(x, np.float64) for name, x in step(params, batch).items()}
        sums = {name: sums.get(name, 0.0) + x for name, x in added.items()}
    assert sums["examples"] <= expected, f"{sums['examples']} examples of {expected} were counted"
    return sums
