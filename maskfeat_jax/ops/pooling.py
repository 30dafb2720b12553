"""Pooling of grids of tokens, as in MViT: a depth-wise convolution and a maximum."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from maskfeat_jax.arrays import Array
from maskfeat_jax.ops.patches import Size3


def depthwise_conv(
    x: Float[Array, "b t h w c"], kernel: Float[Array, "3 3 3 d"], stride: Size3
) -> Float[Array, "b t2 h2 w2 c"]:
    """Each channel correlated with its own 3x3x3 filter, zeros around the grid, no bias.

    Args:
      x: grids of tokens; `c` is a whole number of heads of `d` channels, head slowest.
      kernel: one filter per channel of a head, shared by the heads.
      stride: steps along time, height, width; an output side is `(side - 1) // step + 1`.

    Raises:
      ValueError: the channels are not a whole number of heads.

    Source: MViT (arXiv:2104.11227) section 3.1; `pool_q`, `pool_k`, `pool_v` of PySlowFast
    (slowfast/models/attention.py).
    """
    heads, rest = divmod(x.shape[-1], kernel.shape[-1])
    if rest:
        raise ValueError(f"{x.shape[-1]} channels are not a whole number of {kernel.shape[-1]}")
    taps = jnp.tile(kernel.astype(x.dtype), heads)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))
    last = [(size - 1) // step * step + 1 for size, step in zip(x.shape[1:4], stride, strict=True)]
    y = jnp.zeros((), x.dtype)
    for i in range(3):
        for j in range(3):
            for k in range(3):
                start = (0, i, j, k, 0)
                stop = (x.shape[0], i + last[0], j + last[1], k + last[2], x.shape[4])
                y = y + lax.slice(padded, start, stop, (1, *stride, 1)) * taps[i, j, k]
    return y


def max_pool(x: Float[Array, "b t h w c"], stride: Size3) -> Float[Array, "b t2 h2 w2 c"]:
    """Largest value of each window, which is one longer than the stride on the strided axes.

    Args:
      x: grids of tokens.
      stride: steps along time, height, width. Windows are centred, with nothing beyond the border.

    Source: the skip path of `MultiScaleBlock` of PySlowFast (slowfast/models/attention.py).
    """
    window = [step + 1 if step > 1 else 1 for step in stride]
    padding = [(size // 2, size // 2) for size in window]
    return lax.reduce_window(
        x, -jnp.inf, lax.max, (1, *window, 1), (1, *stride, 1), [(0, 0), *padding, (0, 0)]
    )
