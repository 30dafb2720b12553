"""Writes and reads arrays in a directory. The only module that uses Orbax.

Leaves are stored under the path of their names in the tree (`params/encoder/...`), so containers
without leaves (`EmptyState`, None) need no storage; typed PRNG keys are stored as their data.
"""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from maskfeat_jax.checkpoints.trees import Name, describe, dtype_and_shape, named_leaves, nest

# What Orbax and TensorStore raise when a file cannot be written or read.
STORAGE_ERRORS = (OSError, ValueError)


def copied(leaves: Mapping[Name, Any]) -> dict[Name, Any]:
    """Copies leaves, which may then be donated or overwritten.

    With one process: NumPy arrays. With several: JAX arrays, which on a CPU are copies; on other
    backends `start_writing` copies them to the host before it returns.
    """
    data = {n: jax.random.key_data(x) if _is_key(x) else x for n, x in leaves.items()}
    arrays = {name: leaf for name, leaf in data.items() if leaf.size}  # Orbax refuses empty ones
    if jax.process_count() > 1:
        return _copied(arrays) if jax.default_backend() == "cpu" else arrays
    for leaf in arrays.values():  # so that the transfers overlap
        if isinstance(leaf, jax.Array):
            leaf.copy_to_host_async()
    # NumPy would share the live buffer of an array on the CPU: hence a copy.
    return {name: np.array(leaf) for name, leaf in arrays.items()}


def write(arrays: Mapping[Name, Any], directory: pathlib.Path) -> None:
    """Writes what `copied` returned into a new directory, with one process, from any thread.

    Raises:
      OSError, ValueError: storage failed. Writing may go on for a while.
    """
    _quietly(lambda: ocp.save(directory, nest(arrays)))


def start_writing(arrays: Mapping[Name, Any], directory: pathlib.Path) -> Callable[[], None]:
    """Starts to write what `copied` returned; all processes call it from their main threads.

    Returns:
      A function that waits until all processes have written their shards; from any thread. Raises
      as `write`.
    """
    response = ocp.save_async(directory, nest(arrays))
    return lambda: _quietly(response.result)


def read(
    directory: pathlib.Path, expected: Mapping[Name, Any], *, partial: bool
) -> dict[Name, Any]:
    """Reads arrays and checks their shapes and dtypes.

    Args:
      directory: of `write`.
      expected: NumPy arrays, JAX arrays or `jax.ShapeDtypeStruct`s, by name. NumPy arrays are read
        as such; the others are placed by their `sharding`, or on the first device without one.
      partial: ignore stored arrays that are not expected.

    Raises:
      OSError, ValueError: storage failed, or a shape or dtype differs.
    """
    abstract = {name: _abstract(leaf) for name, leaf in expected.items()}
    stored = {name: leaf for name, leaf in abstract.items() if leaf.size}
    context = ocp.Context()
    context.pytree.loading.partial_load = partial
    with context:
        found = named_leaves(ocp.load(directory, nest(stored))) if stored else {}
    loaded: dict[Name, Any] = {}
    for name, leaf in abstract.items():
        if leaf.size:
            value = found[name]
        elif isinstance(leaf, np.ndarray):
            value = leaf
        else:
            value = jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)
        if value.dtype != leaf.dtype or value.shape != leaf.shape:
            raise ValueError(
                f"{'/'.join(name)} was read as {dtype_and_shape(describe(value))}, "
                f"not {dtype_and_shape(describe(leaf))}; 64-bit numbers need jax_enable_x64"
            )
        if _is_key(expected[name]):
            value = jax.random.wrap_key_data(value, impl=_key_impl(expected[name]))
        loaded[name] = value
    return loaded


def _quietly(action: Callable[[], None]) -> None:
    """Runs an action without Orbax's log lines about an error that is raised anyway."""

    def no_error(record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR

    logger = logging.getLogger("absl")
    logger.addFilter(no_error)
    try:
        action()
    finally:
        logger.removeFilter(no_error)


@jax.jit
def _copied(arrays: dict[Name, Any]) -> dict[Name, Any]:
    return {name: jnp.copy(leaf) for name, leaf in arrays.items()}


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_impl(leaf: Any) -> str:
    """Name of the generator of a typed PRNG key, which may be abstract."""
    for impl in ("threefry2x32", "rbg", "unsafe_rbg"):
        if jax.eval_shape(lambda impl=impl: jax.random.key(0, impl=impl)).dtype == leaf.dtype:
            return impl
    raise ValueError(f"PRNG keys of type {leaf.dtype} cannot be stored")


def _abstract(leaf: Any) -> Any:
    """Shape, dtype and sharding for Orbax, of a leaf or of a key's data."""
    if isinstance(leaf, np.ndarray):
        return leaf
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    if _is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
