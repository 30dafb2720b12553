"""Evaluation: sums over a dataset, each example exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
    summary: Callable[[Mapping[str, Any]], dict[str, float]],
    expected: int,
) -> dict[str, float]:
    """Metrics of parameters on a dataset.

    Args:
      params: on the devices.
      batches: one pass; rows with `valid` False do not count.
      step: the compiled step: sums over a batch.
      place: moves a batch to the devices.
      summary: metrics from the sums over all batches.
      expected: examples in the dataset.

    Returns:
      The metrics, and `used` and `expected` examples.
    """
    sums: dict[str, Any] = {}
    used = 0
    for batch in prefetch(batches, place):
        # Added up on the host in float64: a batch is small enough for float32, a dataset is not.
        part = {name: np.asarray(x, np.float64) for name, x in step(params, batch).items()}
        sums = {name: sums.get(name, 0.0) + x for name, x in part.items()}
        used += int(np.sum(jax.device_get(batch["valid"].sum())))
    return {**summary(sums), "used": float(used), "expected": float(expected)}
