"""Keeps the rows of a batch on their devices, in a function that is traced on a mesh.

XLA may otherwise gather the rows of all devices on each, and shard the features instead, so that
weights need not be gathered: the results are the same, but memory grows with the number of devices.
Outside `sharding.on_mesh` these functions have no effect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


def split_heads(x: Array, axis: int = -2, parameters: int | None = None) -> Array:
    """The same array, the axis of its heads sharded over `tensor`, if that divides their number.

    If not, each device has all heads. The axis after it, of the values of a head, is not sharded.

    Args:
      x: activations, or the kernel of a linear map to or from heads.
      axis: of the heads.
      parameters: axis of a kernel to shard over `parameters`, so that it is gathered after the
        exchange over `tensor`, and its gradient scattered before, if its length is divisible.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    spec: list[Any] = [PartitionSpec.UNCONSTRAINED] * x.ndim
    spec[axis] = None if x.shape[axis] % mesh.shape["tensor"] else "tensor"
    spec[axis + 1] = None
    if parameters is not None and not x.shape[parameters] % mesh.shape["parameters"]:
        spec[parameters] = "parameters"
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def on_own_rows(function: Callable[..., Array], *xs: Array, heads: int | None = None) -> Array:
    """`function(*xs)` of a function that computes each row alone: by each device for its rows.

    Args:
      function: of arrays whose first axis is the rows, as is that of the result.
      *xs: the arrays.
      heads: axis of the arrays and the result along which it computes each entry alone, too; split
        over `tensor` if that divides its length.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return function(*xs)
    axes: list[Any] = [ROWS]
    if heads is not None and not xs[0].shape[heads] % mesh.shape["tensor"]:
        axes += [None] * (heads - 1) + ["tensor"]
    spec = PartitionSpec(*axes)
    # Unchecked, as kernels do not say over which axes their results vary.
    return jax.shard_map(function, in_specs=spec, out_specs=spec, check_vma=False)(*xs)
