"""The mesh, and where batches and parameters lie on it.

Three axes. Rows of a batch are split over `data` and `parameters` together. Parameters, their
moments and their moving average are split over `parameters` (fully sharded data parallelism) and,
within attention and MLPs, over `tensor`: each device then computes some of the heads and some of
the hidden numbers of all rows that its group has. `RULES` says which axis of which parameter. The
program is the same on every mesh; XLA adds the communication.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from maskfeat_jax.models.layers import stacked_range

AXES = ("data", "parameters", "tensor")
ROWS = ("data", "parameters")  # axes that the rows of a batch are split over


class MeshError(ValueError):
    """A mesh that these devices or these parameters cannot be split over; says what to change."""


class Rule(NamedTuple):
    """Where a parameter is split.

    Attributes:
      pattern: regular expression that its path ends with. The paths of moments and moving averages
        end like those of their parameters.
      tensor: axis that is split over `tensor`, counted from the end, so that stacked blocks (see
        `models.layers.Blocks`) need no rule of their own; None for none.
      parameters: axis that is split over `parameters`; where that does not divide it, the longest
        other that it divides, and none if there is none.
      everywhere: every model has such a parameter, so that a rule without one has a mistake in it.
    """

    pattern: str
    tensor: int | None = None
    parameters: int | None = None
    everywhere: bool = False


# The first that matches decides. Of a pair of linear maps the first is split by what comes out and
# the second by what goes in, so that nothing travels between them: heads, hidden numbers.
RULES = (
    Rule(r"\battn/qkv/kernel", tensor=-1, parameters=-2, everywhere=True),
    Rule(r"\battn/qkv/bias", tensor=-1, everywhere=True),
    Rule(r"\battn/proj/kernel", tensor=-2, parameters=-1, everywhere=True),
    Rule(r"\bmlp/fc1/kernel", tensor=-1, parameters=-2, everywhere=True),
    Rule(r"\bmlp/fc1/bias", tensor=-1, everywhere=True),
    Rule(r"\bmlp/fc2/kernel", tensor=-2, parameters=-1, everywhere=True),
    Rule(r"\bpatch_embed/kernel", parameters=-1, everywhere=True),
    Rule(r"\bnorm\d?/(scale|bias)", everywhere=True),
    Rule(r"\bpool_[qkv]/kernel"),  # 27 numbers a channel
    Rule(r"\bkernel", parameters=-2),
    Rule(r"\b(bias|scale|mean|var)"),
    Rule(r"\b(cls_token|mask_token|query)"),
    Rule(r"\bpos_embed(_[a-z]+)?", parameters=-1),
    Rule(r"\brel_pos_[thw]"),
    Rule(r"\brecent"),  # of `TrainState`, not of a model
)


def create_mesh(parameters: int = 1, tensor: int = 1) -> Mesh:
    """All devices, as `(data, parameters, tensor)`; the first takes what the others leave.

    Args:
      parameters: devices that share one copy of parameters and optimiser state; 1 keeps a copy on
        each device.
      tensor: devices that compute the same rows together. Best a number that divides the attention
        heads and the devices of a process.

    Raises:
      MeshError: the devices are not a whole number of such groups.
    """
    mesh = mesh_of(jax.devices(), parameters, tensor)
    try:
        batch_share(mesh)
    except MeshError:  # an order of devices that suits their wires, but not the loading of batches
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
        mesh = Mesh(np.reshape(np.array(devices), mesh.devices.shape), AXES, _auto())
        batch_share(mesh)
    return mesh


def mesh_of(devices: Sequence[Any], parameters: int = 1, tensor: int = 1) -> Mesh:
    """`create_mesh` of some devices."""
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
    """Rows of a batch over `data` and `parameters`; the devices of a `tensor` group share them."""
    return NamedSharding(mesh, PartitionSpec(ROWS))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def row_shards(mesh: Mesh) -> int:
    """Pieces that a batch is cut into; the number of its rows is a multiple of this."""
    return math.prod(mesh.shape[axis] for axis in ROWS)


@functools.cache
def batch_share(mesh: Mesh) -> tuple[int, int]:
    """What this process loads of each global batch.

    Returns:
      `(index, count)`: of `count` equal shares of the rows, cut in order, that number `index`.
      Processes that compute the same rows together load the same share.

    Raises:
      MeshError: the rows of a process are not such a share.
    """
    pieces = batch_sharding(mesh).devices_indices_map((row_shards(mesh),))  # one row for each
    holders: list[set[int]] = [set() for _ in range(row_shards(mesh))]
    for device, (rows,) in pieces.items():
        holders[rows.start or 0].add(device.process_index)  # type: ignore[attr-defined]  # stubs
    return shares(holders)[jax.process_index()]


def shares(holders: Sequence[set[int]]) -> dict[int, tuple[int, int]]:
    """See `batch_share`, for each process.

    Args:
      holders: the processes that hold each of the pieces of a batch, in the order of its rows.

    Raises:
      MeshError: the pieces of a process are not one of so many equal shares.
    """
    pieces: dict[int, list[int]] = {}
    for piece, processes in enumerate(holders):
        for process in processes:
            pieces.setdefault(process, []).append(piece)
    found = {}
    for process, own in pieces.items():
        start, size = own[0], len(own)
        whole = list(range(start, start + size))
        if own != whole or start % size or len(holders) % size or size != len(pieces[min(pieces)]):
            raise MeshError(
                f"process {process} would hold the pieces {own} of {len(holders)} of a batch, "
                "which are not one of several equal shares; choose mesh.tensor so that it divides "
                "the devices of a process, or is a multiple of them"
            )
        found[process] = (start // size, len(holders) // size)
    return found


def state_sharding(mesh: Mesh | AbstractMesh, shapes: Any) -> Any:
    """Where each array of a state, or of parameters, lies by `RULES`.

    Args:
      mesh: of `create_mesh`, or one of no devices that has its axes.
      shapes: a tree of arrays or of their shapes.

    Raises:
      MeshError: `tensor` does not divide an axis that is to be split.
      ValueError: there is no rule for an array, or no array for a rule of every model.
    """
    used: set[Rule] = set()

    def place(path: Any, leaf: Any) -> NamedSharding:
        if not leaf.ndim:
            return replicated(mesh)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        rule = rule_of(name)
        used.add(rule)
        return NamedSharding(mesh, _spec(rule, name, leaf.shape, mesh))

    places = jax.tree_util.tree_map_with_path(place, shapes)
    if unused := [rule.pattern for rule in RULES if rule.everywhere and rule not in used]:
        raise ValueError(f"no parameter matches these rules of sharding.RULES: {unused}")
    return places


def rule_of(name: str) -> Rule:
    """The first of `RULES` that matches the path of a parameter.

    Raises:
      ValueError: none does.
    """
    for rule in RULES:
        if re.search(rf"{rule.pattern}$", name):
            return rule
    raise ValueError(f"no rule of sharding.RULES says where {name} lies; add one")


def to_device(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Global arrays from the rows that this process loads, see `batch_share`."""
    place, (_, count) = batch_sharding(mesh), batch_share(mesh)

    def put(rows: np.ndarray) -> jax.Array:
        shape = (len(rows) * count, *rows.shape[1:])
        return jax.make_array_from_process_local_data(place, rows, shape)

    return {name: put(_narrow(rows)) for name, rows in batch.items()}


def _spec(
    rule: Rule, name: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh
) -> PartitionSpec:
    """Mesh axes of the axes of an array."""
    tensor, groups = mesh.shape["tensor"], mesh.shape["parameters"]
    axes: list[str | None] = [None] * len(shape)
    if rule.tensor is not None and tensor > 1:
        if shape[rule.tensor] % tensor:
            raise MeshError(
                f"mesh.tensor={tensor} does not divide axis {rule.tensor} of {name}, which has "
                f"{shape[rule.tensor]} numbers; choose a mesh.tensor that does, or 1"
            )
        axes[rule.tensor] = "tensor"
    if rule.parameters is not None and groups > 1:
        # Not the axis that counts blocks: each step of the scan would gather all of them.
        own = range(-len(shape) + any(map(stacked_range, name.split("/"))), 0)
        wanted = sorted(own, key=lambda axis: (axis != rule.parameters, -shape[axis]))
        fitting = [axis for axis in wanted if axes[axis] is None and shape[axis] % groups == 0]
        if fitting:
            axes[fitting[0]] = "parameters"
    return PartitionSpec(*axes)


def _auto() -> tuple[AxisType, ...]:
    return (AxisType.Auto,) * len(AXES)


def _narrow(rows: np.ndarray) -> np.ndarray:
    """64-bit ids as two 32-bit halves where JAX has no 64-bit types."""
    if rows.dtype == np.int64 and not jax.config.read("jax_enable_x64"):
        return rows.view(np.int32).reshape(*rows.shape, 2)
    return rows
