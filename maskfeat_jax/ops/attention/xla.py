"""Attention whose weights are written out: what the other kernels must equal."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from maskfeat_jax.ops.residuals import keep
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


@jax.custom_vjp
def at_once(
    q: Float[Array, "b heads queries d"],
    k: Float[Array, "b heads keys d"],
    v: Float[Array, "b heads keys e"],
) -> Float[Array, "b heads queries e"]:
    """The same with heads before tokens; stores the weights once, in the dtype of `v`."""
    return _forward(q, k, v)[0]


def _forward(q: Array, k: Array, v: Array) -> tuple[Array, tuple]:
    wide = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=wide)
    weights = jnp.exp(logits - logits.max(-1, keepdims=True))
    total, narrow = keep(weights.sum(-1, keepdims=True)), keep(weights.astype(v.dtype))
    # Dividing after the product touches d values per query instead of one per key.
    summed = jnp.einsum("bhqk,bhkd->bhqd", narrow, v, preferred_element_type=wide)
    mixed = keep((summed / total).astype(v.dtype))
    return mixed, (q, k, v, narrow, total, mixed)


def _backward(saved: tuple, cotangent: Array) -> tuple[Array, Array, Array]:
    q, k, v, weights, total, mixed = saved
    scaled = cotangent / total
    share = jnp.sum(scaled * mixed, -1, keepdims=True)
    g = scaled.astype(v.dtype)
    dv = jnp.einsum("bhqk,bhqd->bhkd", weights, g, preferred_element_type=v.dtype)
    dweights = jnp.einsum("bhqd,bhkd->bhqk", g, v, preferred_element_type=total.dtype)
    dlogits = (weights * (dweights - share)).astype(q.dtype)
    dq = jnp.einsum("bhqk,bhkd->bhqd", dlogits, k, preferred_element_type=q.dtype)
    dk = jnp.einsum("bhqk,bhqd->bhkd", dlogits, q, preferred_element_type=k.dtype)
    return dq, dk, dv


at_once.defvjp(_forward, _backward)


def refusal(device: Any, q: Array, v: Array) -> str | None:
    """None: this kernel runs everywhere."""
    return None
