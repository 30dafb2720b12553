"""Attention of few tokens on TPUs, whose weights never leave the fast memory of the chip.

JAX's fused kernel moves several times the bytes: it wants tokens padded to blocks and last,
statistics of every query in 128 lanes, and the heads' channels apart. Here a program computes all
queries of some heads, as they lie in memory, and the gradient recomputes the weights.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from maskfeat_jax.ops.attention.splash import LANES, needs_tpu
from maskfeat_jax.ops.residuals import keep
from maskfeat_jax.typing import Array

MEMORY = 8 * 2**20  # bytes of a program, of the 16 MiB that a TPU gives it
# Arrays of some heads: queries, keys, values and what belongs to each.
Parts = tuple[Array, ...]


def attend(
    q: Float[Array, "b queries heads d"],
    k: Float[Array, "b keys heads d"],
    v: Float[Array, "b keys heads e"],
    *,
    interpret: Any = False,
) -> Float[Array, "b queries heads e"]:
    """Attention of scaled queries.

    Args:
      q: queries.
      k: keys.
      v: values.
      interpret: run on a CPU, slowly; `pallas.tpu.InterpretParams` for how.
    """
    merged = (x.reshape(*x.shape[:2], -1) for x in (q, k, v))
    mixed = keep(_attend(q.shape[2], interpret, *merged))
    return mixed.reshape(*q.shape[:3], v.shape[-1])


def refusal(device: Any, q: Array, v: Array) -> str | None:
    """Why the kernel cannot run on a device, with the dtype and number of tokens of the arrays."""
    if reason := needs_tpu(device, q):
        return reason
    (_, queries, heads, d), (keys, e) = q.shape, v.shape[1::2]
    channels = 3 * queries * d + queries * e + 2 * keys * (d + e)  # with gradients
    arrays = 2 * channels * _together(heads, d, e) * q.dtype.itemsize  # two programs' at a time
    matrices = 4 * 4 * queries * keys  # weights, logits and their gradients, in float32
    if arrays + matrices > MEMORY:
        return f"is for fewer tokens than {queries} queries and {keys} keys"
    return None


def _together(heads: int, *widths: int) -> int:
    """Number of heads of a program: their channels are whole registers, or those of all heads."""
    for n in range(1, heads):
        if not heads % n and not any(n * width % LANES for width in widths):
            return n
    return heads


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(heads: int, interpret: Any, q: Array, k: Array, v: Array) -> Array:
    return _of_heads(_forward, heads, interpret, (q, k, v), (q.shape[:2] + v.shape[2:],))[0]


def _attend_forward(
    heads: int, interpret: Any, q: Array, k: Array, v: Array
) -> tuple[Array, Parts]:
    return _attend(heads, interpret, q, k, v), (q, k, v)


def _attend_backward(heads: int, interpret: Any, saved: Parts, cotangent: Array) -> Parts:
    shapes = tuple(x.shape for x in saved)
    return _of_heads(_backward, heads, interpret, (*saved, cotangent), shapes)


_attend.defvjp(_attend_forward, _attend_backward)


def _forward(q: Array, k: Array, v: Array) -> Parts:
    """Mixed values of one head of one clip."""
    weights, total = _weights(q, k)
    return (_product(weights.astype(v.dtype), v, (1, 0)) / total,)


def _backward(q: Array, k: Array, v: Array, g: Array) -> Parts:
    """Gradients of queries, keys and values."""
    weights, total = _weights(q, k)
    weights = weights / total
    dweights = _product(g, v, (1, 1))
    dlogits = weights * (dweights - jnp.sum(weights * dweights, 1, keepdims=True))
    dlogits, weights = dlogits.astype(q.dtype), weights.astype(g.dtype)
    products = (dlogits, k, (1, 0)), (dlogits, q, (0, 0)), (weights, g, (0, 0))
    return tuple(_product(*x) for x in products)


def _weights(q: Array, k: Array) -> tuple[Array, Array]:
    logits = _product(q, k, (1, 1))
    weights = jnp.exp(logits - logits.max(1, keepdims=True))
    return weights, weights.sum(1, keepdims=True)


def _product(a: Array, b: Array, axes: tuple[int, int]) -> Array:
    """Sum over an axis of each."""
    axes_of_each = ((axes[0],), (axes[1],))
    return lax.dot_general(a, b, (axes_of_each, ((), ())), preferred_element_type=jnp.float32)


def _of_heads(
    function: Callable[..., Parts],
    heads: int,
    interpret: Any,
    xs: Parts,
    shapes: tuple[tuple[int, ...], ...],
) -> Parts:
    """Calls a function for each head of each clip.

    Args:
      function: of the matrices `(tokens, channels)` of one head.
      heads: that the last axes consist of.
      interpret: see `attend`.
      xs: `(clips, tokens, heads * channels)` each.
      shapes: of the results.
    """
    # Late, as Pallas takes long to import and only TPUs need it.
    from jax.experimental import pallas as pl

    results = [jax.ShapeDtypeStruct(shape, xs[0].dtype) for shape in shapes]
    together = _together(heads, *(x.shape[2] // heads for x in xs))

    def program(*refs: Any) -> None:
        def channels(ref: Any, head: int) -> slice:
            width = ref.shape[1] // together
            return slice(head * width, (head + 1) * width)

        inputs, outputs = refs[: len(xs)], refs[len(xs) :]
        for head in range(together):
            found = function(*(ref[:, channels(ref, head)] for ref in inputs))
            for ref, y in zip(outputs, found, strict=True):
                ref[:, channels(ref, head)] = y.astype(ref.dtype)

    def block(x: Any) -> pl.BlockSpec:
        return pl.BlockSpec(
            (None, x.shape[1], x.shape[2] // heads * together), lambda clip, some: (clip, 0, some)
        )

    call = pl.pallas_call(
        program,
        results,
        grid=(len(xs[0]), heads // together),
        in_specs=[block(x) for x in xs],
        out_specs=[block(x) for x in results],
        interpret=interpret,
    )
    return tuple(call(*xs))
