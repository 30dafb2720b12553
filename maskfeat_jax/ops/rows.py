"""Keeps the rows of a batch on their devices, in a function that is traced on a mesh.

XLA may otherwise gather the rows of all devices on each, and shard the features instead, so that
weights need not be gathered: the results are the same, but memory grows with the number of devices.
Outside `sharding.on_mesh` these functions have no effect.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec

from maskfeat_jax.typing import Array

ROWS = ("data", "parameters")  # mesh axes that the rows of a batch are sharded over


def split_rows(x: Array) -> Array:
    """The same array, its first axis sharded as the rows of a batch."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    free = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(ROWS, *free))


def on_own_rows(function: Callable[[Array], Array], x: Array) -> Array:
    """`function(x)` of a function that computes each row alone: by each device for its rows."""
    if jax.sharding.get_abstract_mesh().empty:
        return function(x)
    rows = PartitionSpec(ROWS)
    return jax.shard_map(function, in_specs=rows, out_specs=rows, axis_names={*ROWS})(x)
