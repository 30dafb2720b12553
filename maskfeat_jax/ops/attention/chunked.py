"""Attention in chunks of queries, whose weights are recomputed for the gradient."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from maskfeat_jax.ops.attention.xla import at_once
from maskfeat_jax.ops.residuals import keep
from maskfeat_jax.typing import Array

# Of a CPU, whose cache a chunk fits into, and of an accelerator, which computes all heads at once.
LARGE = 2**21  # weights per clip above which a CPU computes in chunks
CHUNK = 2**20  # weights per chunk
LONG = 512**2  # weights per head above which an accelerator does
WIDE_CHUNK = 2**24  # weights per chunk


def attend(
    q: Float[Array, "b queries heads d"],
    k: Float[Array, "b keys heads d"],
    v: Float[Array, "b keys heads e"],
) -> Float[Array, "b queries heads e"]:
    """Attention of scaled queries, at least in float32; not in chunks if there are few tokens."""
    # As functions of arrays only: JAX takes what a `partial` holds for arrays.
    cpu = (lambda *x: in_chunks(False, *x)) if pays_off("cpu", q, k) else at_once
    other = (lambda *x: in_chunks(True, *x)) if pays_off("gpu", q, k) else at_once
    q, k, v = (jnp.moveaxis(x, 2, 1) for x in (q, k, v))
    # Decided when it is compiled: an exported function runs on any device.
    mixed = lax.platform_dependent(q, k, v, cpu=cpu, default=other)
    return jnp.moveaxis(mixed, 1, 2)


def pays_off(
    platform: str, q: Float[Array, "b queries heads d"], k: Float[Array, "b keys heads d"]
) -> bool:
    """Whether attention has so many weights that they are better computed in chunks."""
    weights = q.shape[1] * k.shape[1]
    return q.shape[2] * weights > LARGE if platform == "cpu" else weights > LONG


def refusal(device: Any, q: Array, v: Array) -> str | None:
    """None: this kernel runs everywhere."""
    return None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def in_chunks(
    together: bool,
    q: Float[Array, "b heads queries d"],
    k: Float[Array, "b heads keys d"],
    v: Float[Array, "b heads keys e"],
) -> Float[Array, "b heads queries e"]:
    """`at_once` in chunks of queries, of all heads together or of one head after the other.

    Source: FlashAttention (arXiv:2205.14135), for the form of the gradient.
    """
    return _forward(together, q, k, v)[0]


def _forward(together: bool, q: Array, k: Array, v: Array) -> tuple[Array, tuple]:
    wide = jnp.promote_types(q.dtype, jnp.float32)
    some = _chunk(together, q, k)

    def head(q: Array, k: Array, v: Array) -> tuple[Array, Array]:
        def chunk(q: Array) -> tuple[Array, Array]:
            logits = _product("qd,kd->qk", q, k, wide)
            top = logits.max(-1, keepdims=True)
            weights = jnp.exp(logits - top)
            total = weights.sum(-1, keepdims=True)
            mixed = _product("qk,kd->qd", weights.astype(v.dtype), v, wide) / total
            return mixed.astype(v.dtype), (top + jnp.log(total))[:, 0]

        mixed, scale = lax.map(chunk, _cut(q, some))
        return _join(mixed, len(q)), _join(scale, len(q))

    mixed, scale = (keep(x) for x in _of_heads(together, head, q, k, v))
    return mixed, (q, k, v, mixed, scale)


def _backward(together: bool, saved: tuple, cotangent: Array) -> tuple[Array, Array, Array]:
    some = _chunk(together, *saved[:2])

    def head(
        q: Array, k: Array, v: Array, mixed: Array, scale: Array, g: Array
    ) -> tuple[Array, Array, Array]:
        wide, narrow = scale.dtype, q.dtype

        def chunk(sums: Any, queries: Any) -> tuple[Any, Any]:
            # Weights by key: two of the three gradients are then products without a transpose.
            q, g, scale, share = queries
            weights = jnp.exp(_product("kd,qd->kq", k, q, wide) - scale)
            dv = _product("kq,qd->kd", weights.astype(narrow), g.astype(narrow), wide)
            dlogits = weights * (_product("kd,qd->kq", v, g.astype(narrow), wide) - share)
            dlogits = dlogits.astype(narrow)
            dk = _product("kq,qd->kd", dlogits, q, wide)
            return (sums[0] + dk, sums[1] + dv), _product("kq,kd->qd", dlogits, k, wide)

        share = jnp.sum(g.astype(wide) * mixed, -1)
        zeros = (jnp.zeros(k.shape, wide), jnp.zeros(v.shape, wide))
        (dk, dv), dq = lax.scan(chunk, zeros, tuple(_cut(x, some) for x in (q, g, scale, share)))
        return _join(dq, len(q)).astype(narrow), dk.astype(narrow), dv.astype(narrow)

    return _of_heads(together, head, *saved, cotangent)


in_chunks.defvjp(_forward, _backward)


def _product(axes: str, a: Array, b: Array, dtype: jnp.dtype) -> Array:
    return jnp.einsum(axes, a, b, preferred_element_type=dtype)


def _of_heads(together: bool, function: Any, *xs: Float[Array, "b heads *rest"]) -> Any:
    """Applies a function of the arrays of one head of one clip to those of all."""
    if together:
        return jax.vmap(jax.vmap(function))(*xs)
    b, heads = xs[0].shape[:2]
    ys = lax.map(lambda x: function(*x), tuple(x.reshape(-1, *x.shape[2:]) for x in xs))
    return jax.tree.map(lambda y: y.reshape(b, heads, *y.shape[1:]), ys)


def _chunk(together: bool, q: Array, k: Array) -> int:
    """Number of queries of a chunk; of all heads together, or of one, whose chunks are equal."""
    clips, heads, queries, _ = q.shape
    keys = k.shape[2]
    if together:
        return min(queries, max(128, WIDE_CHUNK // (clips * heads * keys) // 128 * 128))
    chunks = -(-queries // max(64, CHUNK // keys))
    return -(-queries // chunks)


def _cut(x: Float[Array, "n ..."], some: int) -> Float[Array, "chunks {some} ..."]:
    """Splits queries into chunks, the last one padded with zeros."""
    rest = x.shape[1:]
    x = jnp.pad(x, [(0, -len(x) % some), *[(0, 0)] * len(rest)])
    return x.reshape(-1, some, *rest)


def _join(chunks: Float[Array, "chunks some ..."], n: int) -> Float[Array, "{n} ..."]:
    return chunks.reshape(-1, *chunks.shape[2:])[:n]
