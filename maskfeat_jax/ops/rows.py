"""Keeps the rows of a batch on their devices, in a function that is traced on a mesh.

XLA may otherwise gather the rows of all devices on each, and shard the features instead, so that
weights need not be gathered: the results are the same, but memory grows with the number of devices.
Outside `sharding.on_mesh` these functions have no effect.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Float

from maskfeat_jax.typing import Array, PyTree

ROWS = ("data", "parameters")  # mesh axes that the rows of a batch are sharded over


def split_rows(x: Array) -> Array:
    """The same array, its first axis sharded as the rows of a batch, if their number allows."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    free = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(_over_devices(x), *free))


def split_heads(x: Float[Array, "b n heads d"]) -> Float[Array, "b n heads d"]:
    """The same array, heads sharded over `tensor` if that divides their number, else whole."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    heads, free = _over_tensor(x.shape[2]), PartitionSpec.UNCONSTRAINED
    return jax.lax.with_sharding_constraint(x, PartitionSpec(_over_devices(x), free, heads, None))


def split_kernel(kernel: Float[Array, "inner outer"], heads: int, axis: int) -> Array:
    """The same kernel of a linear map to or from heads, sharded as these are by `split_heads`.

    The other axis is sharded over `parameters`, if its length allows: the kernel is gathered over
    these afterwards, and its gradient scattered before.

    Args:
      kernel: weights; the values of a head are next to each other.
      heads: their number.
      axis: 1 of a map to heads, 0 of a map from heads.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return kernel
    spec: list[Any] = [PartitionSpec.UNCONSTRAINED] * 2
    if not kernel.shape[1 - axis] % mesh.shape["parameters"]:
        spec[1 - axis] = "parameters"
    spec[axis] = _over_tensor(heads)
    return jax.lax.with_sharding_constraint(kernel, PartitionSpec(*spec))


def tensor_shards() -> int:
    """Devices that compute the same rows together."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape["tensor"]


def _over_devices(x: Array) -> tuple[str, ...] | None:
    mesh = jax.sharding.get_abstract_mesh()
    return None if len(x) % math.prod(mesh.shape[axis] for axis in ROWS) else ROWS


def _over_tensor(heads: int) -> str | None:
    return None if heads % tensor_shards() else "tensor"


def on_own_rows(
    function: Callable[..., Array], *xs: Array, heads: int | None = None, weights: PyTree = None
) -> Array:
    """`function(*xs)` of a function that computes each row alone: by each device for its rows.

    Args:
      function: of arrays whose first axis is the rows, as is that of the result.
      *xs: the arrays.
      heads: axis of the arrays and the result along which it computes each entry alone, too; split
        over `tensor` if that divides its length. If not, gradients are summed over `tensor`.
      weights: arrays that each device gets whole; if given, the last argument of the function.
    """
    mesh = jax.sharding.get_abstract_mesh()
    shared = () if weights is None else (weights,)
    if mesh.empty:
        return function(*xs, *shared)
    axes: list[Any] = [_over_devices(xs[0])]
    if heads is not None:
        axes += [None] * (heads - 1) + [_over_tensor(xs[0].shape[heads])]
    spec = PartitionSpec(*axes)
    # Unchecked, as kernels do not say over which axes their results vary.
    specs = (*(spec for _ in xs), *(PartitionSpec() for _ in shared))
    split = jax.shard_map(function, in_specs=specs, out_specs=spec, check_vma=False)
    return split(*xs, *shared)
