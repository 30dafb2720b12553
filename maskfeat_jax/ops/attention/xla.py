"""Attention whose weights are written out: what the other kernels must equal."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from maskfeat_jax.typing import Array


def attend(
    q: Float[Array, "b queries heads d"],
    k: Float[Array, "b keys heads d"],
    v: Float[Array, "b keys heads e"],
) -> Float[Array, "b queries heads e"]:
    """Attention of scaled queries, at least in float32; stores all weights."""
    # Heads before tokens: the products then need no transposed copies in the backward pass.
    q, k, v = (jnp.moveaxis(x, 2, 1) for x in (q, k, v))
    return jnp.moveaxis(at_once(q, k, v), 1, 2)


def at_once(
    q: Float[Array, "b heads queries d"],
    k: Float[Array, "b heads keys d"],
    v: Float[Array, "b heads keys e"],
) -> Float[Array, "b heads queries e"]:
    """The same with heads before tokens."""
    wide = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=wide)
    weights = jnp.exp(logits - lax.stop_gradient(logits.max(-1, keepdims=True)))
    # Dividing after the product touches d values per query instead of one per key.
    mixed = jnp.einsum("bhqk,bhkd->bhqd", weights.astype(v.dtype), v, preferred_element_type=wide)
    return mixed / weights.sum(-1, keepdims=True)


def refusal(device: Any, q: Array, v: Array) -> str | None:
    """None: this kernel runs everywhere."""
    return None
