"""Masks made of boxes in space and time (MaskFeat)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float, Int, Key

from maskfeat_jax.typing import Array


def cube_mask(
    key: Key[Array, ""],
    grid: tuple[int, int, int],
    *,
    masked: int,
    min_area: float,
    aspect: float = 0.3,
    attempts: int = 100,
    fill: bool = False,
) -> Bool[Array, "time height width"]:
    """Union of random boxes, until `masked` cells are covered or nothing fits any more.

    A box has a rectangle of area uniform between `min_area` and a whole frame, with ratio of
    height to width log-uniform in [aspect, 1 / aspect], over a uniform number of frames. The
    rectangle must be smaller than a frame on both sides. The box is taken if it covers at least one
    new cell and not more than are missing.

    Args:
      key: typed PRNG key.
      grid: cells along time, height, width.
      masked: cells to cover.
      min_area: smallest area of a rectangle, cells.
      aspect: lowest ratio of height to width.
      attempts: boxes refused in a row after which the mask stays short.
      fill: masks single cells at random then, so that exactly `masked` are covered.

    Returns:
      True where masked.

    Source: PySlowFast (slowfast/datasets/transform.py, three-dimensional masks). It tries boxes one
    after the other; here `attempts` of them are drawn at once and the first that fits is taken,
    which has the same law and needs one pass of the loop per box taken.
    """

    def draw(carry: tuple) -> tuple:
        key, mask, missing, _ = carry
        key, boxes_key = jax.random.split(key)
        times, rows, columns, possible = _boxes(boxes_key, grid, attempts, min_area, aspect)
        visible = (~mask).astype(jnp.float32)
        # Counts are exact in float32, not in the lower precision of accelerators.
        new = jnp.einsum("nt,nh,nw,thw->n", times, rows, columns, visible, precision="highest")
        new = new.astype(int)
        fits = possible & (new > 0) & (new <= missing)
        first = jnp.argmax(fits)
        box = times[first][:, None, None] * rows[first][:, None] * columns[first]
        found = fits[first]
        mask = jnp.where(found, mask | (box > 0), mask)
        return key, mask, missing - jnp.where(found, new[first], 0), found

    def unfinished(carry: tuple) -> Array:
        _, _, missing, found = carry
        return (missing > 0) & found

    start = (key, jnp.zeros(grid, bool), jnp.int32(masked), jnp.bool_(True))
    key, mask, missing, _ = lax.while_loop(unfinished, draw, start)
    if fill:
        order = jnp.where(mask, 1.0, jax.random.uniform(key, grid)).ravel()  # masked cells last
        mask |= (jnp.argsort(jnp.argsort(order)) < missing).reshape(grid)
    return mask


def _boxes(
    key: Key[Array, ""], grid: tuple[int, int, int], n: int, min_area: float, aspect: float
) -> tuple[
    Float[Array, "n time"], Float[Array, "n height"], Float[Array, "n width"], Bool[Array, " n"]
]:
    """Random boxes as 1 inside and 0 outside along each axis, and whether they are small enough."""
    frames, rows, columns = grid
    u = jax.random.uniform(key, (6, n))
    area = min_area + u[0] * (rows * columns - min_area)
    ratio = jnp.exp(math.log(aspect) * (1 - 2 * u[1]))
    # Both round half to even, as Python does.
    height = jnp.round(jnp.sqrt(area * ratio)).astype(int)
    width = jnp.round(jnp.sqrt(area / ratio)).astype(int)
    length = 1 + jnp.floor(u[2] * frames).astype(int)
    return (
        _interval(u[3], length, frames),
        _interval(u[4], height, rows),
        _interval(u[5], width, columns),
        (height < rows) & (width < columns),
    )


def _interval(
    u: Float[Array, " n"], length: Int[Array, " n"], cells: int
) -> Float[Array, "n {cells}"]:
    """1 in an interval of the given length, at the place in [0, 1) of all that it can take."""
    start = jnp.floor(u * (cells - length + 1)).astype(int)[:, None]
    cell = jnp.arange(cells)
    return ((cell >= start) & (cell < start + length[:, None])).astype(jnp.float32)
