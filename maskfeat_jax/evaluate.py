"""Evaluation: sums over a dataset, each example exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from maskfeat_jax.sharding import prefetch

Batch = dict[str, Any]


def evaluate(
    params: Any,
    batches: Iterable[Batch],
    *,
    step: Callable[[Any, Batch], dict[str, jax.Array]],
    place: Callable[[Batch], Batch],
    expected: int,
) -> dict[str, Any]:
    """Sums of what a step gives for each batch of a dataset.

    Args:
      params: on the devices.
      batches: one pass; rows with `valid` False do not count.
      step: the compiled step: sums over a batch, `examples` among them.
      place: moves a batch to the devices.
      expected: examples in the dataset.

    Raises:
      AssertionError: more examples were counted than there are.
    """
    sums: dict[str, Any] = {}
    for batch in prefetch(batches, place):
        # Added up on the host in float64: a batch is small enough for float32, a dataset is not.
        part = {name: np.asarray(x, np.float64) for name, x in step(params, batch).items()}
        sums = {name: sums.get(name, 0.0) + x for name, x in part.items()}
    assert sums["examples"] <= expected, f"{sums['examples']} examples of {expected} were counted"
    return sums
