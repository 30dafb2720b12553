"""The mesh, and where batches and parameters lie on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "parameters")  # the batch is split over both, parameters over the second


def create_mesh(parameters: int = 1) -> Mesh:
    """All devices, as `(data, parameters)`.

    Args:
      parameters: devices that share one copy of the parameters and optimiser state; 1 keeps a
        copy on each device.

    Raises:
      ValueError: the devices are not a whole number of such groups.
    """
    devices = jax.device_count()
    if parameters < 1 or devices % parameters:
        raise ValueError(
            f"{devices} devices cannot be split into groups of {parameters} (mesh.parameters)"
        )
    shape = (devices // parameters, parameters)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto, AxisType.Auto))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def state_sharding(mesh: Mesh, shapes: Any) -> Any:
    """For each array of a state, its longest axis that divides over `parameters`, if any."""
    groups = mesh.shape["parameters"]

    def place(leaf: Any) -> NamedSharding:
        fitting = [i for i, size in enumerate(leaf.shape) if size % groups == 0]
        if groups == 1 or leaf.ndim < 2 or not fitting:
            return replicated(mesh)
        axis = max(fitting, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, "parameters"))

    return jax.tree.map(place, shapes)


def to_device(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Global arrays from the rows that this process holds."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, _narrow(rows))
        for name, rows in batch.items()
    }


def prefetch(batches: Iterable[Any], place: Callable[[Any], Any], ahead: int = 2) -> Iterator[Any]:
    """Starts the transfer of `ahead` batches before they are needed."""
    waiting = []
    for batch in batches:
        waiting.append(place(batch))
        if len(waiting) > ahead:
            yield waiting.pop(0)
    yield from waiting


def _narrow(rows: np.ndarray) -> np.ndarray:
    """64-bit ids as two 32-bit halves where JAX has no 64-bit types."""
    if rows.dtype == np.int64 and not jax.config.read("jax_enable_x64"):
        return rows.view(np.int32).reshape(*rows.shape, 2)
    return rows
