"""The device that a function is traced for."""

from __future__ import annotations

from typing import Any

import jax


def device_of_trace() -> Any:
    """A device of the mesh that is in context (see `sharding.on_mesh`), else the default device.

    It has `platform` ("cpu", "gpu" or "tpu") and `device_kind`, and need not be of this machine.
    """
    default = jax.config.jax_default_device  # type: ignore[attr-defined]
    if isinstance(default, str):
        (default, *_) = jax.devices(default)
    return jax.sharding.get_abstract_mesh().abstract_device or default or jax.devices()[0]
