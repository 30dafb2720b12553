"""Cube masks: unions of boxes in space and time."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float, Int, Key

from maskfeat_jax.masking.grids import (
    Grid,
    by,
    check_cells,
    check_count,
    check_rectangles,
    check_window,
    enlarge,
)
from maskfeat_jax.typing import Array


@dataclasses.dataclass(frozen=True)
class Cube:
    """Boxes in space and time until the target number of cells is masked.

    Attributes:
      ratio: fraction of the tokens that is masked, in (0, 1).
      window: the grid (time, height, width) on which the boxes are drawn; each of its cells covers
        a whole number of tokens. None: the tokens themselves. PySlowFast uses 8x7x7 for 8x14x14
        tokens.
      min_area: area of the smallest box as a fraction of a frame; the originals use
        `height * width // 5` cells.
      aspect: lowest ratio of height to width.
      exact: False stops after a hundred rejected boxes in a row, so some masks have fewer cells
        (PySlowFast): on 8x7x7 cells with ratio 0.4, 155.7 of 157 cells on average. True then adds
        random single cells, as PySlowFast does in effect for masked autoencoders.

    Source: MaskFeat (arXiv:2112.09133) section 5; block masks of MAE for video (arXiv:2205.09113).
    """

    ratio: float = 0.4
    window: tuple[int, ...] | None = None
    min_area: float = 0.2
    aspect: float = 0.3
    exact: bool = False

    def __post_init__(self) -> None:
        check_rectangles(self.ratio, self.min_area, self.aspect)
        check_window(self.window, 3)

    def masked(self, grid: Grid) -> int:
        """See `Masker`."""
        cells = self._cells(grid)
        return self._masked_cells(cells) * math.prod(grid) // math.prod(cells)

    def check(self, grid: Grid) -> None:
        """Raises ValueError if the window does not divide the grid, or no box fits in it."""
        cells = self._cells(grid)
        check_cells("cube", cells, grid)
        masked, smallest = self._masked_cells(cells), self._min_area(cells)
        check_count(masked, math.prod(cells), self.ratio)
        if masked < smallest:
            raise ValueError(
                f"mask ratio {self.ratio} is {masked} cells of {by(cells)}, but the smallest box "
                f"has {smallest}; raise ratio or lower min_area={self.min_area}"
            )

    def __call__(self, key: Key[Array, ""], batch: int, grid: Grid) -> Bool[Array, "b t h w"]:
        """Independent masks for `batch` clips."""
        self.check(grid)
        cells = self._cells(grid)
        draw = functools.partial(
            cube_mask,
            grid=cells,
            masked=self._masked_cells(cells),
            min_area=float(self._min_area(cells)),
            aspect=self.aspect,
            fill=self.exact,
        )
        return enlarge(jax.vmap(draw)(jax.random.split(key, batch)), grid)

    def _cells(self, grid: Grid) -> Grid:
        frames, rows, columns = self.window or grid
        return frames, rows, columns

    def _masked_cells(self, cells: Grid) -> int:
        return round(math.prod(cells) * self.ratio)

    def _min_area(self, cells: Grid) -> int:
        return max(1, int(math.prod(cells[1:]) * self.min_area))


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
    """Union of random boxes, until `masked` cells are covered or too many are rejected.

    A box is a rectangle of area uniform between `min_area` and a whole frame, with a ratio of
    height to width log-uniform in [aspect, 1 / aspect], over a uniform number of frames. The
    rectangle must be smaller than a frame along both sides. The box is accepted if it covers at
    least one new cell and at most the missing number.

    Args:
      key: typed PRNG key.
      grid: cells along time, height, width.
      masked: cells to cover.
      min_area: smallest area of a rectangle, cells.
      aspect: lowest ratio of height to width.
      attempts: stop after this many rejected boxes in a row.
      fill: then mask random single cells until exactly `masked` are covered.

    Returns:
      True where masked.

    Source: PySlowFast (slowfast/datasets/transform.py, three-dimensional masks). It tries boxes one
    after the other; here `attempts` of them are drawn at once and the first that fits is accepted,
    which has the same distribution and needs one iteration per accepted box.
    """

    def draw(carry: tuple) -> tuple:
        key, mask, missing, _ = carry
        key, boxes_key = jax.random.split(key)
        times, rows, columns, possible = _boxes(boxes_key, grid, attempts, min_area, aspect)
        visible = (~mask).astype(jnp.float32)
        # Counts are exact in float32, but not in the default precision of accelerators.
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
    """Random boxes as 1 inside and 0 outside along each axis, and whether they fit in a frame."""
    frames, rows, columns = grid
    u = jax.random.uniform(key, (6, n))
    area = min_area + u[0] * (rows * columns - min_area)
    ratio = jnp.exp(math.log(aspect) * (1 - 2 * u[1]))
    # jnp.round rounds half to even, like Python.
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
    """1 inside an interval of the given length, 0 outside; `u` in [0, 1) selects its start."""
    start = jnp.floor(u * (cells - length + 1)).astype(int)[:, None]
    cell = jnp.arange(cells)
    return ((cell >= start) & (cell < start + length[:, None])).astype(jnp.float32)
