"""Attention by cuDNN's fused kernel, for NVIDIA GPUs."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float

from maskfeat_jax.typing import Array

TOKENS = CHANNELS = 8  # numbers of tokens and head sizes are multiples of these


def attend(
    q: Float[Array, "b queries heads d"],
    k: Float[Array, "b keys heads d"],
    v: Float[Array, "b keys heads e"],
    *,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Float[Array, "b queries heads e"]:
    """Attention of scaled queries.

    Args:
      q: queries.
      k: keys.
      v: values.
      implementation: of `jax.nn.dot_product_attention`.
    """
    # The kernel has one head size. Zeros add nothing to products, and extra values are cut off.
    queries, keys, values = q.shape[1], k.shape[1], v.shape[-1]
    size = _rounded(max(q.shape[-1], values), CHANNELS)
    q, k, v = (_padded(x, size) for x in (q, k, v))
    mixed = jax.nn.dot_product_attention(
        q,
        k,
        v,
        scale=1.0,
        query_seq_lengths=jnp.full(len(q), queries, jnp.int32),
        key_value_seq_lengths=jnp.full(len(q), keys, jnp.int32),
        implementation=implementation,
    )
    return mixed[:, :queries, :, :values]


def refusal(device: Any, q: Array, v: Array) -> str | None:
    """Why the kernel cannot run on a device, with the dtype and head size of the arrays."""
    kind = device.device_kind
    capability = _capability() if device.platform == "gpu" else None
    if capability is None:
        return f"needs an NVIDIA GPU, not {kind}"
    if capability < 8:
        return f"needs a GPU of compute capability 8.0 or more; {kind} has {capability}"
    if q.dtype != jnp.bfloat16:
        return f"needs dtype 'bfloat16', not {q.dtype.name!r}"
    size, largest = max(q.shape[-1], v.shape[-1]), 256 if capability >= 9 else 128
    if size > largest:
        return f"has heads of at most {largest} channels on {kind}, not {size}"
    return None


def _capability() -> float | None:
    """Compute capability of the GPU of this process; None if it is not NVIDIA's.

    8.0 if the process has no GPU, and compiles for one: JAX then checks for no other.
    """
    device = jax.devices()[0]
    if device.platform != "gpu":
        return 8.0
    try:
        return float(device.compute_capability)
    except ValueError:  # of AMD: gfx942
        return None


def _padded(x: Float[Array, "b n heads d"], size: int) -> Float[Array, "b n2 heads {size}"]:
    more = _rounded(x.shape[1], TOKENS) - x.shape[1]
    return jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, size - x.shape[-1])))


def _rounded(n: int, unit: int) -> int:
    return -(-n // unit) * unit
