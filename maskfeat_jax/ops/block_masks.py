"""Masks made of rectangles (BEiT)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Key

from maskfeat_jax.typing import Array


def block_mask(
    key: Key[Array, ""],
    grid: tuple[int, int],
    *,
    masked: int,
    min_area: float,
    aspect: float = 0.3,
    attempts: int | None = 10,
) -> Bool[Array, "height width"]:
    """Union of random rectangles, until `masked` tokens are covered or nothing fits any more.

    A rectangle is drawn with area uniform between `min_area` and what is still missing, and ratio
    of height to width log-uniform in [aspect, 1 / aspect]; it must be smaller than the grid on
    both sides. It is taken if it covers at least one new token and not more than are missing.

    Args:
      key: typed PRNG key.
      grid: rows and columns of tokens.
      masked: tokens to cover.
      min_area: smallest area of a rectangle, tokens; may exceed what is missing.
      aspect: lowest ratio of height to width.
      attempts: rectangles refused in a row after which the mask stays short (PySlowFast: 10);
        None goes on until exactly `masked` tokens are covered (OpenMMLab).

    Returns:
      True where masked.

    Source: PySlowFast (slowfast/datasets/utils.py, block masks) and BEiT (arXiv:2106.08254).
    """
    rows, columns = grid
    row, column = jnp.arange(rows)[:, None], jnp.arange(columns)[None]

    def unfinished(carry: tuple) -> Array:
        _, _, count, refused = carry
        return (count < masked) & ((refused < attempts) if attempts else True)

    def draw(carry: tuple) -> tuple:
        key, mask, count, refused = carry
        key, *keys = jax.random.split(key, 5)
        missing = masked - count
        u = [jax.random.uniform(k) for k in keys]
        area = min_area + u[0] * (missing - min_area)
        ratio = jnp.exp(math.log(aspect) * (1 - 2 * u[1]))
        # Both round half to even, as Python does.
        height = jnp.round(jnp.sqrt(area * ratio)).astype(int)
        width = jnp.round(jnp.sqrt(area / ratio)).astype(int)
        fits = (height < rows) & (width < columns)
        top = jnp.floor(u[2] * (rows - height + 1)).astype(int)
        left = jnp.floor(u[3] * (columns - width + 1)).astype(int)
        inside = (row >= top) & (row < top + height) & (column >= left) & (column < left + width)
        new = jnp.sum(inside & ~mask)
        taken = fits & (new > 0) & (new <= missing)
        mask = jnp.where(taken, mask | inside, mask)
        return key, mask, count + jnp.where(taken, new, 0), jnp.where(taken, 0, refused + 1)

    start = (key, jnp.zeros(grid, bool), jnp.int32(0), jnp.int32(0))
    return lax.while_loop(unfinished, draw, start)[1]
