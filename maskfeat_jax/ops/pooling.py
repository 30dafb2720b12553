"""Pooling of token grids, as in MViT: depth-wise convolution and max pooling."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from maskfeat_jax.ops.devices import device_of_trace
from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.typing import Array


def depthwise_conv(
    x: Float[Array, "b t h w c"], kernel: Float[Array, "3 3 3 d"], stride: Size3
) -> Float[Array, "b t2 h2 w2 c"]:
    """Depth-wise 3x3x3 convolution with zero padding and no bias.

    Written as 27 shifted products that XLA fuses into one pass, and likewise the gradients:
    grouped convolutions are many times slower on CPUs and GPUs (see docs/performance.md). A TPU
    moves fewer bytes in a convolution, except forward with stride 1. Sums are computed at least in
    float32.

    Args:
      x: grids of tokens; `c` is a whole number of heads of `d` channels, head slowest.
      kernel: one filter per channel of a head, shared by all heads.
      stride: steps along time, height, width; an output side is `(side - 1) // step + 1`.

    Raises:
      ValueError: the channels are not a whole number of heads.

    Source: MViT (arXiv:2104.11227) section 3.1; `pool_q`, `pool_k`, `pool_v` of PySlowFast
    (slowfast/models/attention.py).
    """
    heads, rest = divmod(x.shape[-1], kernel.shape[-1])
    if rest:
        raise ValueError(
            f"{x.shape[-1]} channels are not a whole number of heads of {kernel.shape[-1]}"
        )
    return _correlate(x, jnp.tile(kernel.astype(x.dtype), heads), stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _correlate(x: Array, kernel: Array, stride: Size3) -> Array:
    """`depthwise_conv` with a filter for each of the `c` channels."""
    if _platform() == "tpu" and max(stride) > 1:
        return convolution(x, kernel, stride)
    products = (_wide(x) * kernel[tap] for tap, x in shifted_by_taps(x, stride))
    return functools.reduce(jnp.add, products).astype(x.dtype)


def convolution(x: Array, kernel: Array, stride: Size3) -> Array:
    """The same as XLA's grouped convolution."""
    return lax.conv_general_dilated(
        jnp.asarray(x),
        jnp.asarray(kernel)[:, :, :, None],
        stride,
        [(1, 1)] * 3,
        dimension_numbers=("NTHWC", "THWIO", "NTHWC"),
        feature_group_count=x.shape[-1],
    )


def _platform() -> str:
    return device_of_trace().platform


def shifted_by_taps(x: Array, stride: Size3) -> Iterator[tuple[tuple[int, ...], Array]]:
    """Each tap of the filter, and the input token that it multiplies for each output."""
    padded = _pad(x)
    last = [(size - 1) // step * step + 1 for size, step in zip(x.shape[1:4], stride, strict=True)]
    for tap in itertools.product(range(3), repeat=3):
        stop = [i + size for i, size in zip(tap, last, strict=True)]
        yield tap, lax.slice(padded, (0, *tap, 0), (len(x), *stop, x.shape[-1]), (1, *stride, 1))


def _correlate_forward(x: Array, kernel: Array, stride: Size3) -> tuple[Array, tuple]:
    return _correlate(x, kernel, stride), (x, kernel)


def _correlate_backward(stride: Size3, saved: tuple, g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    if _platform() == "tpu":
        return jax.vjp(functools.partial(convolution, stride=stride), x, kernel)[1](g)
    return _input_gradient(g, kernel, stride, x.shape), _kernel_gradient(x, g, stride)


_correlate.defvjp(_correlate_forward, _correlate_backward)


def _input_gradient(g: Array, kernel: Array, stride: Size3, shape: tuple[int, ...]) -> Array:
    """Splits the padded input into cells of `stride` tokens, so that strides cost nothing.

    The token at `cell * stride + r` was multiplied by tap `u * stride + r` for output `cell - u`,
    u = 0, 1, ..., if that tap exists.
    """
    turns = [-(-3 // step) for step in stride]  # values of u
    cells = [-(-(size + 2) // step) for size, step in zip(shape[1:4], stride, strict=True)]
    missing = [(0, turn * step - 3) for turn, step in zip(turns, stride, strict=True)]
    split = [n for pair in zip(turns, stride, strict=True) for n in pair]
    taps = _wide(jnp.pad(kernel, [*missing, (0, 0)]).reshape(*split, -1))
    margins = [
        (turn - 1, cell - size) for turn, cell, size in zip(turns, cells, g.shape[1:4], strict=True)
    ]
    padded = jnp.pad(g, [(0, 0), *margins, (0, 0)])
    total = jnp.zeros((), taps.dtype)
    for u in itertools.product(*map(range, turns)):
        start = [turn - 1 - i for turn, i in zip(turns, u, strict=True)]
        stop = [i + cell for i, cell in zip(start, cells, strict=True)]
        shifted = lax.slice(padded, (0, *start, 0), (len(g), *stop, g.shape[-1]))
        shifted = shifted[:, :, None, :, None, :, None]
        total = total + shifted * taps[u[0], :, None, u[1], :, None, u[2]]
    whole = [cell * step for cell, step in zip(cells, stride, strict=True)]
    dx = total.astype(g.dtype).reshape(len(g), *whole, shape[-1])
    return lax.slice(dx, (0, 1, 1, 1, 0), (len(g), *(size + 1 for size in shape[1:4]), shape[-1]))


def _kernel_gradient(x: Array, g: Array, stride: Size3) -> Array:
    form = _kernel_gradient_by_taps if _platform() == "cpu" else _kernel_gradient_at_once
    return form(x, g, stride).reshape(3, 3, 3, -1).astype(x.dtype)


def _kernel_gradient_at_once(x: Array, g: Array, stride: Size3) -> Array:
    """Taps are an axis within a frame, so that XLA computes all sums in one kernel."""
    shifted = jnp.stack([x for _, x in shifted_by_taps(x, stride)], 2)
    return (_wide(shifted) * g[:, :, None]).sum((3, 4)).sum((0, 1))


def _kernel_gradient_by_taps(x: Array, g: Array, stride: Size3) -> Array:
    """Sums over frames while multiplying, and over the rest by a product with ones.

    XLA's CPU backend computes sums over rows on one thread, and stores the summands. The loop over
    the taps avoids the compilation of 27 kernels.
    """
    padded = _pad(x)
    span = [(size - 1) * step + 1 for size, step in zip(g.shape[2:4], stride[1:], strict=True)]
    size = (len(x), 1, *span, x.shape[-1])

    def of_tap(tap: Array) -> Array:
        total = jnp.zeros((), _wide(g).dtype)
        for t in range(g.shape[1]):
            start = (0, t * stride[0] + tap[0], tap[1], tap[2], 0)
            frame = lax.dynamic_slice(padded, start, size)[:, 0, :: stride[1], :: stride[2]]
            total = total + _wide(frame) * g[:, t]
        rows = total.reshape(-1, g.shape[-1])
        return (jnp.ones((1, len(rows)), rows.dtype) @ rows)[0]

    return lax.map(of_tap, np.indices((3, 3, 3)).reshape(3, -1).T)


def _pad(x: Array) -> Array:
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def max_pool(x: Float[Array, "b t h w c"], stride: Size3) -> Float[Array, "b t2 h2 w2 c"]:
    """Max pooling; windows are one longer than the stride on axes with a stride above 1.

    The gradient goes to the first of equal values. XLA's own operation moves fewer bytes on a TPU;
    its gradient is a scatter elsewhere, slow on a CPU.

    Args:
      x: grids of tokens.
      stride: steps along time, height, width, 1 or even. Windows are centred; the padding never
        wins.

    Raises:
      ValueError: a stride is odd and above 1, so its windows have no centre.

    Source: the skip path of `MultiScaleBlock` of PySlowFast (slowfast/models/attention.py).
    """
    if any(step > 1 and step % 2 for step in stride):
        raise ValueError(f"stride {stride} of a max pool is not 1 or even along each axis")
    form = max_of_windows if _platform() == "tpu" else max_of_shifts
    return form(jnp.asarray(x), stride)


def max_of_windows(x: Array, stride: Size3) -> Array:
    """`max_pool` as XLA's own operation."""
    window = [step // 2 * 2 + 1 for step in stride]
    padding = [(0, 0), *((step // 2, step // 2) for step in stride), (0, 0)]
    least = np.array(-np.inf, x.dtype)
    return lax.reduce_window(x, least, lax.max, (1, *window, 1), (1, *stride, 1), padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_of_shifts(x: Array, stride: Size3) -> Array:
    """`max_pool` as the maximum of the input at each offset."""
    return functools.reduce(jnp.maximum, _shifted(x, stride))


def _max_forward(x: Array, stride: Size3) -> tuple[Array, tuple[Array, Array]]:
    first, *others = _shifted(x, stride)
    best, winner = first, jnp.zeros(first.shape, np.min_scalar_type(len(others)))
    for i, other in enumerate(others, 1):
        winner = jnp.where(other > best, winner.dtype.type(i), winner)
        best = jnp.maximum(best, other)
    return best, (x, winner)


def _max_backward(stride: Size3, saved: tuple[Array, Array], g: Array) -> tuple[Array]:
    """Adds the gradient of each offset where it won."""
    x, winner = saved
    dx = jnp.zeros((), g.dtype)
    for i, start in enumerate(_starts(stride)):
        margins = [
            (first, size - first - (outputs - 1) * step - 1, step - 1)
            for first, size, outputs, step in zip(
                start, x.shape[1:4], g.shape[1:4], stride, strict=True
            )
        ]
        won = jnp.where(winner == i, g, jnp.zeros((), g.dtype))
        dx = dx + lax.pad(won, jnp.zeros((), g.dtype), [(0, 0, 0), *margins, (0, 0, 0)])
    return (dx,)


max_of_shifts.defvjp(_max_forward, _max_backward)


def _starts(stride: Size3) -> Iterator[tuple[int, ...]]:
    """Offsets of the elements of a window from its centre along time, height and width."""
    return itertools.product(*(range(-(step // 2), step // 2 + 1) for step in stride))


def _shifted(x: Array, stride: Size3) -> Iterator[Array]:
    """For each element of a window, the input tokens at its offset, one per output."""
    half = [step // 2 for step in stride]
    padding = [(0, 0), *((size, size) for size in half), (0, 0)]
    padded = jnp.pad(x, padding, constant_values=-jnp.inf)
    last = [(size - 1) // step * step + 1 for size, step in zip(x.shape[1:4], stride, strict=True)]
    for offset in _starts(stride):
        start = [first + size for first, size in zip(offset, half, strict=True)]
        stop = [i + size for i, size in zip(start, last, strict=True)]
        limits = (len(x), *stop, x.shape[-1])
        yield lax.slice(padded, (0, *start, 0), limits, (1, *stride, 1))
