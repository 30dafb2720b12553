"""Block masks: unions of rectangles, as in BEiT."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Key

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
class Block:
    """Rectangles until the target number of tokens is masked, for grids of one frame.

    Attributes:
      ratio: fraction of the tokens that is masked, in (0, 1).
      min_area: smallest rectangle as a fraction of the target number; the originals use
        `target // 5` tokens.
      aspect: lowest ratio of height to width.
      exact: True draws until exactly the target number is masked (mmselfsup 1.x). False stops after
        ten rejected rectangles in a row, so some masks have fewer tokens (PySlowFast): on 14x14
        tokens with ratio 0.4, 77.6 of 78 on average and at least 67 in 20,000 draws.

    Source: MaskFeat (arXiv:2112.09133) section 4.1, after BEiT (arXiv:2106.08254).
    """

    ratio: float = 0.4
    min_area: float = 0.2
    aspect: float = 0.3
    exact: bool = False

    def __post_init__(self) -> None:
        check_rectangles(self.ratio, self.min_area, self.aspect)

    def masked(self, grid: Grid) -> int:
        """See `Masker`."""
        return round(math.prod(grid) * self.ratio)

    def check(self, grid: Grid) -> None:
        """Raises ValueError if the grid has several frames, or no rectangle can be placed."""
        if grid[0] != 1:
            raise ValueError(
                f"block masks need one frame of tokens, but the clip has {grid[0]}; "
                "use cube or tube masks for several"
            )
        check_cells("block", grid[1:], grid[1:])
        check_count(self.masked(grid), math.prod(grid), self.ratio)
        area = self._min_area(grid)
        if self.exact and not _fits(area, grid[1:], self.aspect):  # drawing would not terminate
            raise ValueError(
                f"no rectangle of {area} tokens with a ratio of sides of at least {self.aspect} is "
                f"smaller than {by(grid[1:])}; lower min_area={self.min_area} or aspect"
            )

    def __call__(self, key: Key[Array, ""], batch: int, grid: Grid) -> Bool[Array, "b t h w"]:
        """Independent masks for `batch` clips."""
        self.check(grid)
        draw = functools.partial(
            block_mask,
            grid=(grid[1], grid[2]),
            masked=self.masked(grid),
            min_area=self._min_area(grid),
            aspect=self.aspect,
            attempts=None if self.exact else 10,
        )
        return jax.vmap(draw)(jax.random.split(key, batch))[:, None]

    def _min_area(self, grid: Grid) -> int:
        return max(1, int(self.masked(grid) * self.min_area))


@dataclasses.dataclass(frozen=True)
class Tube:
    """The rectangles of `Block` on one frame, repeated over all frames.

    Attributes:
      ratio: fraction of the tokens that is masked, in (0, 1).
      window: rows and columns of the grid on which the rectangles are drawn; each of its cells
        covers a whole number of tokens. None: the tokens themselves. PySlowFast uses 7x7 for
        14x14 tokens.
      min_area: smallest rectangle as a fraction of the target number of cells.
      aspect: lowest ratio of height to width.
      exact: see `Block`.

    Source: MaskFeat (arXiv:2112.09133) section 5; PySlowFast's `MASK_TUBE`.
    """

    ratio: float = 0.4
    window: tuple[int, ...] | None = None
    min_area: float = 0.2
    aspect: float = 0.3
    exact: bool = False

    def __post_init__(self) -> None:
        self._block()  # checks the fields
        check_window(self.window, 2)

    def masked(self, grid: Grid) -> int:
        """See `Masker`."""
        cells = self._cells(grid)
        return self._block().masked(cells) * math.prod(grid) // math.prod(cells)

    def check(self, grid: Grid) -> None:
        """Raises ValueError if the window does not divide the grid, or no rectangle fits in it."""
        cells = self._cells(grid)
        check_cells("tube", cells[1:], grid[1:])
        self._block().check(cells)

    def __call__(self, key: Key[Array, ""], batch: int, grid: Grid) -> Bool[Array, "b t h w"]:
        """Independent masks for `batch` clips."""
        self.check(grid)
        return enlarge(self._block()(key, batch, self._cells(grid)), grid)

    def _block(self) -> Block:
        return Block(self.ratio, self.min_area, self.aspect, self.exact)

    def _cells(self, grid: Grid) -> Grid:
        rows, columns = self.window or grid[1:]
        return 1, rows, columns


def _fits(area: int, sides: tuple[int, int], aspect: float) -> bool:
    """Whether a rectangle, its sides rounded, can be smaller than both sides of the grid."""
    height, width = (side - 0.5 for side in sides)
    return max(aspect, area / width**2) <= min(1 / aspect, height**2 / area)


def block_mask(
    key: Key[Array, ""],
    grid: tuple[int, int],
    *,
    masked: int,
    min_area: int,
    aspect: float,
    attempts: int | None,
) -> Bool[Array, "height width"]:
    """Union of random rectangles, until `masked` tokens are covered or too many are rejected.

    A rectangle has an area uniform between `min_area` and the number of missing tokens, and a ratio
    of height to width log-uniform in [aspect, 1 / aspect]; it must be smaller than the grid along
    both sides. It is accepted if it covers at least one new token and at most the missing number.

    Args:
      key: typed PRNG key.
      grid: rows and columns of tokens.
      masked: tokens to cover.
      min_area: in tokens; may exceed the number of missing tokens.
      aspect: lowest ratio of height to width.
      attempts: stop after this many rejected rectangles in a row (PySlowFast: 10); None continues
        until exactly `masked` tokens are covered (OpenMMLab).

    Source: PySlowFast (slowfast/datasets/utils.py, block masks) and BEiT (arXiv:2106.08254).
    """
    rows, columns = grid
    row, column = jnp.arange(rows)[:, None], jnp.arange(columns)[None]

    def unfinished(carry: tuple) -> Array:
        _, _, count, rejected = carry
        return (count < masked) & ((rejected < attempts) if attempts else True)

    def draw(carry: tuple) -> tuple:
        key, mask, count, rejected = carry
        key, *keys = jax.random.split(key, 5)
        missing = masked - count
        u = [jax.random.uniform(k) for k in keys]
        area = min_area + u[0] * (missing - min_area)
        ratio = jnp.exp(math.log(aspect) * (1 - 2 * u[1]))
        # jnp.round rounds half to even, like Python.
        height = jnp.round(jnp.sqrt(area * ratio)).astype(int)
        width = jnp.round(jnp.sqrt(area / ratio)).astype(int)
        fits = (height < rows) & (width < columns)
        top = jnp.floor(u[2] * (rows - height + 1)).astype(int)
        left = jnp.floor(u[3] * (columns - width + 1)).astype(int)
        inside = (row >= top) & (row < top + height) & (column >= left) & (column < left + width)
        new = jnp.sum(inside & ~mask)
        accepted = fits & (new > 0) & (new <= missing)
        mask = jnp.where(accepted, mask | inside, mask)
        count = count + jnp.where(accepted, new, 0)
        return key, mask, count, jnp.where(accepted, 0, rejected + 1)

    start = (key, jnp.zeros(grid, bool), jnp.int32(0), jnp.int32(0))
    return lax.while_loop(unfinished, draw, start)[1]
