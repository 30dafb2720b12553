"""Linear map, layer norm and GELU with backward passes that are also fast on a CPU.

XLA's CPU backend sums over rows on one thread and transposes weight gradients; the VJPs here
express both as matrix products. The results equal those of the plain forms (see the tests).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from maskfeat_jax.ops.devices import device_of_trace
from maskfeat_jax.typing import Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def affine(
    x: Float[Array, "*lead inner"],
    kernel: Float[Array, "inner outer"],
    bias: Float[Array, outer],
    arrange: Callable[[Array], Array] = lambda kernel: kernel,
) -> Float[Array, "*lead outer"]:
    """`x @ kernel + bias` in the dtype of `x`; weight gradients in that of the parameters.

    Args:
      x: inputs.
      kernel: weights.
      bias: of the outputs.
      arrange: linear function that permutes or shards the kernel before its use. It is called again
        in the backward pass, so that its result need not be stored.
    """
    kernel, rows = arrange(kernel).astype(x.dtype), _rows(x)
    y = _product(rows, kernel, (rows.ndim - 1,), (0,), x.dtype) + bias.astype(x.dtype)
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


def _affine_forward(
    x: Array, kernel: Array, bias: Array, arrange: Callable[[Array], Array]
) -> tuple[Array, tuple]:
    return affine(x, kernel, bias, arrange), (x, kernel)


def _affine_backward(
    arrange: Callable[[Array], Array], saved: tuple, cotangent: Array
) -> tuple[Array, Array, Array]:
    x, kernel = saved
    arranged, arrange_back = jax.vjp(arrange, kernel)
    rows, g = _rows(x), _rows(cotangent)
    lead = tuple(range(g.ndim - 1))
    dx = _product(g, arranged.astype(g.dtype), (len(lead),), (1,), x.dtype).reshape(x.shape)
    (dkernel,) = arrange_back(_product(rows, g, lead, lead, kernel.dtype))
    return dx, dkernel, _sum_over(len(lead), g, kernel.dtype)


affine.defvjp(_affine_forward, _affine_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "*lead d"],
    scale: Float[Array, d],
    bias: Float[Array, d],
    epsilon: float = 1e-6,
) -> Float[Array, "*lead d"]:
    """Layer norm over the last axis, at least in float32; `epsilon` is added to the variance."""
    return (_standardise(x, epsilon)[0] * scale + bias).astype(x.dtype)


def _layer_norm_forward(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple[Array, tuple]:
    return layer_norm(x, scale, bias, epsilon), (x, scale)


def _layer_norm_backward(
    epsilon: float, saved: tuple, cotangent: Array
) -> tuple[Array, Array, Array]:
    x, scale = saved
    y, inverse = _standardise(x, epsilon)
    g = cotangent.astype(y.dtype)
    gy = g * scale
    dx = inverse * (gy - gy.mean(-1, keepdims=True) - y * (gy * y).mean(-1, keepdims=True))
    lead = x.ndim - 1
    dscale = _sum_over(lead, g * y, scale.dtype)
    return dx.astype(x.dtype), dscale, _sum_over(lead, g, scale.dtype)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Exact GELU, at least in float32; `jax.nn.gelu` uses erfc, ten times slower on CPU."""
    wide = _wide(x)
    return (0.5 * wide * (1.0 + lax.erf(wide * math.sqrt(0.5)))).astype(x.dtype)


def quick_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`x * sigmoid(1.702 x)`, at least in float32 (CLIP)."""
    wide = _wide(x)
    return (wide * jax.nn.sigmoid(1.702 * wide)).astype(x.dtype)


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _standardise(x: Array, epsilon: float) -> tuple[Array, Array]:
    wide = _wide(x)
    centred = wide - wide.mean(-1, keepdims=True)
    inverse = lax.rsqrt((centred * centred).mean(-1, keepdims=True) + epsilon)
    return centred * inverse, inverse


def _rows(x: Float[Array, "*lead d"]) -> Array:
    """The same array with its rows in one axis on a CPU, as is fast there; a TPU would copy it."""
    return x.reshape(-1, x.shape[-1]) if device_of_trace().platform == "cpu" else x


def _product(
    a: Array, b: Array, of_a: tuple[int, ...], of_b: tuple[int, ...], dtype: jnp.dtype
) -> Array:
    """Sum of products over axes of each."""
    return lax.dot_general(a, b, ((of_a, of_b), ((), ())), preferred_element_type=dtype)


def _sum_over(count: int, x: Array, dtype: jnp.dtype) -> Array:
    """Sum over the first `count` axes, which are not merged: several may be sharded."""
    if device_of_trace().platform != "cpu":
        return _wide(x).sum(tuple(range(count))).astype(dtype)
    ones = jnp.ones((1, *x.shape[:count]), x.dtype)
    return _product(ones, x, tuple(range(1, count + 1)), tuple(range(count)), dtype)[0]
