"""The mesh, and the shardings of batches and parameters.

The mesh has three axes. Rows of a batch are sharded over `data` and `parameters` together.
Parameters, their moments and their moving average are sharded over `parameters` (fully sharded data
parallelism) and, in attention and MLPs, over `tensor`: each device then computes some of the heads
and hidden units for all rows of its group. `RULES` lists which axis of which parameter. The program
is the same on every mesh. XLA inserts the communication; `ops.rows` keeps the rows of activations
where they are, so that weights are gathered instead.

Over `tensor`, activations are summed twice in each block, after attention and MLP, and their
gradients twice, and nothing else of them is sent. If `tensor` does not divide the heads of a block,
as in the first stages of an MViT, each device computes all of these; nothing is summed after this
attention, but the gradients of its queries, keys and values are.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from maskfeat_jax.models.layers import stacked_range
from maskfeat_jax.ops.rows import ROWS

AXES = ("data", "parameters", "tensor")


class MeshError(ValueError):
    """The devices or the parameters do not fit the mesh; the message says what to change."""


class Rule(NamedTuple):
    """How a parameter is sharded.

    Attributes:
      pattern: regular expression that matches the end of its path. Paths of moments and moving
        averages end like those of their parameters.
      tensor: axis that is sharded over `tensor`, counted from the end, so that stacked blocks (see
        `models.layers.Blocks`) need no extra rule; None for none.
      parameters: axis that is sharded over `parameters`, may be that of `tensor`; if its length is
        not divisible, the longest other axis that is, if any.
      everywhere: every model has such a parameter, so a rule that matches none is an error.
    """

    pattern: str
    tensor: int | None = None
    parameters: int | None = None
    everywhere: bool = False


# The first match counts. Of two consecutive linear maps, the first is sharded along its outputs and
# the second along its inputs (heads, hidden units), which needs no communication between them. Only
# the kernel of queries, keys and values, one after the other along its outputs, is stored along its
# inputs: its shards, of one block and before they are gathered over `parameters`, are exchanged for
# those of the device's heads (`models.layers.Qkv`).
RULES = (
    Rule(r"\battn/qkv/kernel", tensor=-2, parameters=-2, everywhere=True),
    Rule(r"\battn/qkv/bias", everywhere=True),
    Rule(r"\battn/proj/kernel", tensor=-2, parameters=-1, everywhere=True),
    Rule(r"\bmlp/fc1/kernel", tensor=-1, parameters=-2, everywhere=True),
    Rule(r"\bmlp/fc1/bias", tensor=-1, everywhere=True),
    Rule(r"\bmlp/fc2/kernel", tensor=-2, parameters=-1, everywhere=True),
    Rule(r"\bpatch_embed/kernel", parameters=-1, everywhere=True),
    Rule(r"\bnorm\d?/(scale|bias)", everywhere=True),
    Rule(r"\bpool_[qkv]/kernel"),  # 27 values per channel
    Rule(r"\bkernel", parameters=-2),
    Rule(r"\b(bias|scale|mean|var)"),
    Rule(r"\b(cls_token|mask_token|query)"),
    Rule(r"\bpos_embed(_[a-z]+)?", parameters=-1),
    Rule(r"\brel_pos_[thw]"),
    Rule(r"\brecent"),  # of `TrainState`, not of a model
)


def create_mesh(parameters: int = 1, tensor: int = 1) -> Mesh:
    """The mesh `(data, parameters, tensor)` of all devices; `data` is the rest.

    Args:
      parameters: devices that share one copy of parameters and optimiser state; 1 keeps a copy on
        each device.
      tensor: devices that compute the same rows together. Should divide the number of attention
        heads, of which otherwise each computes all, and the number of devices per process.

    Raises:
      MeshError: `parameters * tensor` does not divide the number of devices.
    """
    mesh = mesh_of(jax.devices(), parameters, tensor)
    try:
        batch_share(mesh)
    except MeshError:  # JAX's order suits the network topology, but not the loading of batches
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
        mesh = Mesh(np.reshape(np.array(devices), mesh.devices.shape), AXES, _auto())
        batch_share(mesh)
    return mesh


def mesh_of(devices: Sequence[Any], parameters: int = 1, tensor: int = 1) -> Mesh:
    """`create_mesh` for given devices."""
    for name, size in (("parameters", parameters), ("tensor", tensor)):
        if size < 1:
            raise MeshError(f"mesh.{name}={size} must be 1 or more")
    group = parameters * tensor
    if len(devices) % group:
        raise MeshError(
            f"{len(devices)} devices cannot be split into groups of {group} "
            f"(mesh.parameters={parameters} x mesh.tensor={tensor}); the product must divide the "
            "number of devices"
        )
    shape = (len(devices) // group, parameters, tensor)
    return jax.make_mesh(shape, AXES, axis_types=_auto(), devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Shards rows over `data` and `parameters`; the devices of a `tensor` group have the same."""
    return NamedSharding(mesh, PartitionSpec(ROWS))


def on_mesh(mesh: Mesh, function: Callable) -> Callable:
    """The function, for `jax.jit`, with rows of activations sharded as those of a batch."""

    @functools.wraps(function)
    def traced(*args: Any, **named: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args, **named)

    return traced


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """A full copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def row_shards(mesh: Mesh) -> int:
    """Number of shards of a batch, which must divide the number of its rows."""
    return math.prod(mesh.shape[axis] for axis in ROWS)


@functools.cache
def batch_share(mesh: Mesh) -> tuple[int, int]:
    """The share of each global batch that this process loads.

    Returns:
      `(index, count)`: the rows are cut in order into `count` equal shares; this process loads
      number `index`. Processes that compute the same rows together load the same share.

    Raises:
      MeshError: the rows of a process do not form such a share.
    """
    shards = batch_sharding(mesh).devices_indices_map((row_shards(mesh),))  # one row per shard
    holders: list[set[int]] = [set() for _ in range(row_shards(mesh))]
    for device, (rows,) in shards.items():
        holders[rows.start or 0].add(device.process_index)  # type: ignore[attr-defined]  # stubs
    return shares(holders)[jax.process_index()]


def shares(holders: Sequence[set[int]]) -> dict[int, tuple[int, int]]:
    """`batch_share` of each process.

    Args:
      holders: for each shard of a batch, in the order of its rows, the processes that hold it.

    Raises:
      MeshError: the shards of the processes do not form equal, contiguous shares.
    """
    shards: dict[int, list[int]] = {}
    for shard, processes in enumerate(holders):
        for process in processes:
            shards.setdefault(process, []).append(shard)
    found = {}
    for process, own in shards.items():
        start, size = own[0], len(own)
        contiguous = own == list(range(start, start + size))
        equal = size == len(shards[min(shards)])
        if not (contiguous and equal) or start % size or len(holders) % size:
            raise MeshError(
                f"process {process} would hold the shards {own} of the {len(holders)} of a batch, "
                "which are not one of several equal shares; choose a mesh.tensor that divides the "
                "number of devices per process, or is a multiple of it"
            )
        found[process] = (start // size, len(holders) // size)
    return found


def state_sharding(mesh: Mesh | AbstractMesh, shapes: Any) -> Any:
    """Sharding of each array of a state, or of parameters, by `RULES`.

    Args:
      mesh: of `create_mesh`, or an abstract mesh with the same axes.
      shapes: a tree of arrays or of their shapes.

    Raises:
      MeshError: `tensor` does not divide the length of an axis that it should shard.
      ValueError: no rule matches an array, or a rule with `everywhere` matches none.
    """
    used: set[Rule] = set()

    def sharding_of(path: Any, leaf: Any) -> NamedSharding:
        if not leaf.ndim:
            return replicated(mesh)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        rule = rule_of(name)
        used.add(rule)
        return NamedSharding(mesh, _spec(rule, name, leaf.shape, mesh))

    shardings = jax.tree_util.tree_map_with_path(sharding_of, shapes)
    if unused := [rule.pattern for rule in RULES if rule.everywhere and rule not in used]:
        raise ValueError(f"no parameter matches these rules of sharding.RULES: {unused}")
    return shardings


def rule_of(name: str) -> Rule:
    """The first of `RULES` that matches the path of a parameter.

    Raises:
      ValueError: none matches.
    """
    for rule in RULES:
        if re.search(rf"{rule.pattern}$", name):
            return rule
    raise ValueError(f"no rule of sharding.RULES matches {name}; add one")


def to_device(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Global arrays from the rows that this process loads, see `batch_share`."""
    layout, (_, count) = batch_sharding(mesh), batch_share(mesh)

    def put(rows: np.ndarray) -> jax.Array:
        shape = (len(rows) * count, *rows.shape[1:])
        return jax.make_array_from_process_local_data(layout, rows, shape)

    return {name: put(_narrow(rows)) for name, rows in batch.items()}


def _spec(
    rule: Rule, name: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh
) -> PartitionSpec:
    """The mesh axis, if any, of each axis of an array."""
    tensor, parameters = mesh.shape["tensor"], mesh.shape["parameters"]
    axes: list[Any] = [None] * len(shape)
    if rule.tensor is not None and tensor > 1:
        if shape[rule.tensor] % tensor:
            raise MeshError(
                f"mesh.tensor={tensor} does not divide axis {rule.tensor} of {name}, of length "
                f"{shape[rule.tensor]}; choose a mesh.tensor that does, or 1"
            )
        axes[rule.tensor] = "tensor"
    if rule.parameters is not None and parameters > 1:
        # Not the axis of stacked blocks: each step of the scan would gather all of them.
        own = range(-len(shape) + any(map(stacked_range, name.split("/"))), 0)
        preferred = sorted(own, key=lambda axis: (axis != rule.parameters, -shape[axis]))
        for axis in preferred:
            other = axes[axis]
            if not shape[axis] % (parameters * (tensor if other else 1)):
                axes[axis] = ("parameters", other) if other else "parameters"
                break
    return PartitionSpec(*axes)


def _auto() -> tuple[AxisType, ...]:
    return (AxisType.Auto,) * len(AXES)


def joined_ids(ids: np.ndarray) -> np.ndarray:
    """Ids of examples from the devices, int64 `(b,)`, also if they were split by `to_device`."""
    return ids.view(np.int64)[:, 0] if ids.ndim == 2 else ids


def _narrow(rows: np.ndarray) -> np.ndarray:
    """Splits 64-bit ids into two 32-bit halves if JAX has no 64-bit types."""
    if rows.dtype == np.int64 and not jax.config.read("jax_enable_x64"):
        return rows.view(np.int32).reshape(*rows.shape, 2)
    return rows
