"""Softmax attention."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from maskfeat_jax.arrays import Array

KERNELS = ("xla", "cudnn")


def attention(
    q: Float[Array, "b queries heads d"],
    k: Float[Array, "b keys heads d"],
    v: Float[Array, "b keys heads e"],
    *,
    scale: float | None = None,
    kernel: str = "xla",
) -> Float[Array, "b queries heads e"]:
    """Attention with the softmax at least in float32.

    Args:
      q: queries.
      k: keys.
      v: values.
      scale: of the logits, `d ** -0.5` by default.
      kernel: "xla" anywhere; "cudnn" the fused kernel of NVIDIA GPUs, which JAX refuses where
        dtype, head size or token count do not suit it.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if kernel == "cudnn":
        return jax.nn.dot_product_attention(q, k, v, scale=scale, implementation="cudnn")
    wide = jnp.promote_types(q.dtype, jnp.float32)
    # Heads before tokens: the products then need no transposed copies in the backward pass.
    q, k, v = (jnp.moveaxis(x, 2, 1) for x in (q * jnp.asarray(scale, q.dtype), k, v))
    logits = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=wide)
    weights = jnp.exp(logits - lax.stop_gradient(logits.max(-1, keepdims=True)))
    # Dividing after the product touches d numbers per query instead of one per key.
    mixed = jnp.einsum("bhqk,bhkd->bhqd", weights.astype(v.dtype), v, preferred_element_type=wide)
    mixed = mixed / weights.sum(-1, keepdims=True)
    return jnp.moveaxis(mixed, 1, 2).astype(v.dtype)
