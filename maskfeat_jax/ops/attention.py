"""Softmax attention."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from maskfeat_jax.typing import Array

KERNELS = ("xla", "cudnn")
LARGE = 2**23  # attention weights per clip above which a CPU computes in chunks
CHUNK = 2**20  # attention weights per chunk


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
      kernel: "xla", on any device, or "cudnn", the fused kernel of NVIDIA GPUs, which raises an
        error for dtypes, head sizes or numbers of tokens that it does not support.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if kernel == "cudnn":
        return jax.nn.dot_product_attention(q, k, v, scale=scale, implementation="cudnn")
    # Heads before tokens: the products then need no transposed copies in the backward pass.
    q, k, v = (jnp.moveaxis(x, 2, 1) for x in (q * jnp.asarray(scale, q.dtype), k, v))
    _, heads, queries, _ = q.shape
    if heads * queries * k.shape[2] > LARGE:
        mixed = lax.platform_dependent(q, k, v, cpu=in_chunks, default=at_once)
    else:
        mixed = at_once(q, k, v)
    return jnp.moveaxis(mixed, 1, 2).astype(v.dtype)


def at_once(
    q: Float[Array, "b heads queries d"],
    k: Float[Array, "b heads keys d"],
    v: Float[Array, "b heads keys e"],
) -> Float[Array, "b heads queries e"]:
    """Attention of scaled queries, at least in float32; stores all weights."""
    wide = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=wide)
    weights = jnp.exp(logits - lax.stop_gradient(logits.max(-1, keepdims=True)))
    # Dividing after the product touches d values per query instead of one per key.
    mixed = jnp.einsum("bhqk,bhkd->bhqd", weights.astype(v.dtype), v, preferred_element_type=wide)
    return mixed / weights.sum(-1, keepdims=True)


@jax.custom_vjp
def in_chunks(
    q: Float[Array, "b heads queries d"],
    k: Float[Array, "b heads keys d"],
    v: Float[Array, "b heads keys e"],
) -> Float[Array, "b heads queries e"]:
    """`at_once` in chunks of queries; the weights are recomputed for the gradient.

    A chunk fits into the cache of a CPU. As the loop is over clips, each of several CPU devices
    would compute the whole batch.

    Source: FlashAttention (arXiv:2205.14135), for the form of the gradient.
    """
    return _forward(q, k, v)[0]


def _forward(q: Array, k: Array, v: Array) -> tuple[Array, tuple]:
    wide = jnp.promote_types(q.dtype, jnp.float32)

    def clip(q: Array, k: Array, v: Array) -> tuple[Array, Array]:
        def chunk(q: Array) -> tuple[Array, Array]:
            logits = _product("hqd,hkd->hqk", q, k, wide)
            top = logits.max(-1, keepdims=True)
            weights = jnp.exp(logits - top)
            total = weights.sum(-1, keepdims=True)
            mixed = _product("hqk,hkd->hqd", weights.astype(v.dtype), v, wide) / total
            return mixed, top + jnp.log(total)

        mixed, scale = lax.map(chunk, _cut(q, k))
        return _join(mixed, q.shape[1]), _join(scale, q.shape[1])

    mixed, scale = lax.map(lambda x: clip(*x), (q, k, v))
    return mixed, (q, k, v, mixed, scale)


def _backward(saved: tuple, cotangent: Array) -> tuple[Array, Array, Array]:
    def clip(
        q: Array, k: Array, v: Array, mixed: Array, scale: Array, g: Array
    ) -> tuple[Array, Array, Array]:
        wide, narrow = g.dtype, q.dtype

        def chunk(sums: Any, some: Any) -> tuple[Any, Any]:
            q, g, scale, share = some
            weights = jnp.exp(_product("hqd,hkd->hqk", q, k, wide) - scale)
            dv = _product("hqk,hqd->hkd", weights.astype(narrow), g.astype(narrow), wide)
            dlogits = weights * (_product("hqd,hkd->hqk", g.astype(narrow), v, wide) - share)
            dlogits = dlogits.astype(narrow)
            dk = _product("hqk,hqd->hkd", dlogits, q, wide)
            return (sums[0] + dk, sums[1] + dv), _product("hqk,hkd->hqd", dlogits, k, wide)

        share = jnp.sum(g * mixed, -1, keepdims=True)
        zeros = (jnp.zeros(k.shape, wide), jnp.zeros(v.shape, wide))
        (dk, dv), dq = lax.scan(chunk, zeros, tuple(_cut(x, k) for x in (q, g, scale, share)))
        return _join(dq, q.shape[1]).astype(narrow), dk.astype(narrow), dv.astype(narrow)

    return lax.map(lambda x: clip(*x), (*saved, cotangent))


in_chunks.defvjp(_forward, _backward)


def _product(axes: str, a: Array, b: Array, dtype: jnp.dtype) -> Array:
    return jnp.einsum(axes, a, b, preferred_element_type=dtype)


def _cut(x: Float[Array, "heads n d"], keys: Array) -> Float[Array, "chunks heads some d"]:
    """Splits queries into chunks, the last one padded with zeros."""
    heads, n, d = x.shape
    some = min(n, max(64, CHUNK // (heads * keys.shape[1])))
    x = jnp.pad(x, ((0, 0), (0, -n % some), (0, 0)))
    return jnp.moveaxis(x.reshape(heads, -1, some, d), 1, 0)


def _join(chunks: Float[Array, "chunks heads some d"], n: int) -> Float[Array, "heads {n} d"]:
    x = jnp.moveaxis(chunks, 0, 1)
    return x.reshape(len(x), -1, x.shape[-1])[:, :n]
