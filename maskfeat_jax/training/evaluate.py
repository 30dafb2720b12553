"""Evaluation: sums over a dataset, each example exactly once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from maskfeat_jax.faults import fault_point
from maskfeat_jax.training.prefetch import Batch, Prefetcher

Interrupt = Callable[[bool], bool]


class Interrupted(Exception):
    """The run was asked to stop in the middle of an evaluation."""


def never(waiting: bool) -> bool:
    """An evaluation that is not interrupted."""
    return False


def evaluate(
    params: Any,
    batches: Prefetcher,
    *,
    step: Callable[[Any, Batch], dict[str, jax.Array]],
    expected: int,
    interrupted: Interrupt = never,
) -> dict[str, Any]:
    """Sums of what a step gives for each batch of a dataset, in float64.

    Args:
      params: on the devices.
      batches: one pass; rows with `valid` False do not count.
      step: the compiled step: sums over a batch, `examples` among them.
      expected: examples in the dataset.
      interrupted: whether to leave; called once for each batch (with False), which all processes
        do, and now and then while one is waited for (with True).

    Raises:
      Interrupted: `interrupted` said so.
      AssertionError: more examples were counted than there are.
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
        # Added up on the host in float64: a batch is small enough for float32, a dataset not.
        added = {name: np.asarray(x, np.float64) for name, x in step(params, batch).items()}
        sums = {name: sums.get(name, 0.0) + x for name, x in added.items()}
    assert sums["examples"] <= expected, f"{sums['examples']} examples of {expected} were counted"
    return sums
