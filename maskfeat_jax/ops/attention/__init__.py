"""Softmax attention, by one of several kernels that compute the same.

A kernel is a module with two functions: `attend` of scaled queries, keys and values, and `refusal`,
why it cannot compute them on a device, or None. `TABLE` lists them.
"""

from __future__ import annotations

from types import ModuleType

import jax.numpy as jnp
from jaxtyping import Float

from maskfeat_jax.ops.attention import chunked, cudnn, short, splash, xla
from maskfeat_jax.ops.devices import device_of_trace
from maskfeat_jax.ops.rows import on_own_rows
from maskfeat_jax.typing import Array

TABLE: dict[str, ModuleType] = {
    "xla": xla,
    "chunked": chunked,
    "cudnn": cudnn,
    "short": short,
    "splash": splash,
}
KERNELS = ("auto", *TABLE)
FUSED = ("cudnn", "short", "splash")  # kernels that "auto" takes where they can run, best first


def attention(
    q: Float[Array, "b queries heads d"],
    k: Float[Array, "b keys heads d"],
    v: Float[Array, "b keys heads e"],
    *,
    scale: float | None = None,
    kernel: str = "auto",
) -> Float[Array, "b queries heads e"]:
    """Attention with the softmax at least in float32.

    Args:
      q: queries.
      k: keys.
      v: values.
      scale: of the logits, `d ** -0.5` by default.
      kernel: "xla" stores all weights for the gradient, on any device; "chunked" some at a time,
        on any device; "cudnn" is fused, for NVIDIA GPUs and bfloat16; "short" and "splash" are
        fused, for few and for many tokens on TPUs; "auto" takes the best for the number of tokens
        and the device, that of the mesh the function is traced on (see `sharding.on_mesh`), else
        JAX's default device.

    Raises:
      ValueError: the kernel cannot run on that device, or not with this dtype or head size.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if kernel == "auto":
        kernel = choose(q, k, v)
    elif reason := TABLE[kernel].refusal(device_of_trace(), q, v):
        raise ValueError(f"attention={kernel!r} {reason}; use 'auto'")
    q = q * jnp.asarray(scale, q.dtype)
    attend = TABLE[kernel].attend
    # XLA cannot partition a fused kernel, nor a loop over clips.
    mixed = attend(q, k, v) if kernel == "xla" else on_own_rows(attend, q, k, v, heads=2)
    return mixed.astype(v.dtype)


def choose(q: Array, k: Array, v: Array) -> str:
    """The kernel that "auto" is."""
    device = device_of_trace()
    for name in FUSED:
        if TABLE[name].refusal(device, q, v) is None:
            return name
    return "chunked" if chunked.pays_off(device.platform, q, k) else "xla"
