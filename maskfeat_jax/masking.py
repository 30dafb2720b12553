"""What is hidden: masks on the token grid, True = masked.

To add one: a frozen dataclass with `check(grid)` and `__call__(key, batch, grid)`, and its line in
`MASKERS` at the end of the file.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Key

from maskfeat_jax.arrays import Array
from maskfeat_jax.ops.block_masks import block_mask

Grid = tuple[int, int, int]  # tokens along time, height, width


@runtime_checkable
class Masker(Protocol):
    """Draws one mask per clip."""

    def check(self, grid: Grid) -> None:
        """Raises ValueError where no mask can be drawn on the grid."""

    def __call__(self, key: Key[Array, ""], batch: int, grid: Grid) -> Bool[Array, "b t h w"]:
        """Independent masks for `batch` clips."""


@dataclasses.dataclass(frozen=True)
class Random:
    """Every set of tokens of the wanted size with the same probability.

    The number of visible tokens is floor(tokens * (1 - ratio)), the same for each clip.

    Attributes:
      ratio: part of the tokens that is masked, in (0, 1).

    Source: MAE (arXiv:2111.06377); PySlowFast's `MAE_RND_MASK`.
    """

    ratio: float = 0.75

    def __post_init__(self) -> None:
        _check_ratio(self.ratio)

    def masked(self, grid: Grid) -> int:
        """Masked tokens per clip."""
        tokens = math.prod(grid)
        # int(), as the originals: 1 - ratio is rounded to a float first.
        return tokens - int(tokens * (1 - self.ratio))

    def check(self, grid: Grid) -> None:
        """Raises ValueError if all tokens would be masked, or none."""
        _check_count(self.masked(grid), math.prod(grid), self.ratio)

    def __call__(self, key: Key[Array, ""], batch: int, grid: Grid) -> Bool[Array, "b t h w"]:
        """Independent masks for `batch` clips."""
        self.check(grid)
        noise = jax.random.uniform(key, (batch, math.prod(grid)))
        rank = jnp.argsort(jnp.argsort(noise, axis=-1), axis=-1)
        return (rank < self.masked(grid)).reshape(batch, *grid)


@dataclasses.dataclass(frozen=True)
class Block:
    """Rectangles until the wanted number of tokens is covered, for grids of one frame.

    Attributes:
      ratio: part of the tokens that is masked, in (0, 1).
      min_area: smallest rectangle as a fraction of the wanted number; the originals take
        `wanted // 5` tokens.
      aspect: lowest ratio of height to width.
      exact: True draws until exactly the wanted number is covered (mmselfsup 1.x). False stops
        after ten refused rectangles in a row, so some masks stay short (PySlowFast): on 14x14
        tokens with ratio 0.4, 77.6 of 78 on average and not less than 67 in 20,000 draws.

    Source: MaskFeat (arXiv:2112.09133) section 4.1, after BEiT (arXiv:2106.08254).
    """

    ratio: float = 0.4
    min_area: float = 0.2
    aspect: float = 0.3
    exact: bool = False

    def __post_init__(self) -> None:
        _check_ratio(self.ratio)
        if not 0 < self.min_area <= 1 or not 0 < self.aspect <= 1:
            raise ValueError(f"min_area={self.min_area} and aspect={self.aspect} must be in (0, 1]")

    def masked(self, grid: Grid) -> int:
        """Masked tokens per clip that are aimed at."""
        return round(math.prod(grid) * self.ratio)

    def check(self, grid: Grid) -> None:
        """Raises ValueError if the grid has several frames, or no rectangle can be placed."""
        if grid[0] != 1:
            raise ValueError(f"block masks are for one frame of tokens, the clip has {grid[0]}")
        if min(grid[1:]) < 2:
            raise ValueError(f"block masks need 2x2 tokens or more, there are {grid[1]}x{grid[2]}")
        _check_count(self.masked(grid), math.prod(grid), self.ratio)

    def __call__(self, key: Key[Array, ""], batch: int, grid: Grid) -> Bool[Array, "b t h w"]:
        """Independent masks for `batch` clips."""
        self.check(grid)
        masked = self.masked(grid)

        def one(key: Key[Array, ""]) -> Bool[Array, "h w"]:
            return block_mask(
                key,
                (grid[1], grid[2]),
                masked=masked,
                min_area=float(max(1, int(masked * self.min_area))),
                aspect=self.aspect,
                attempts=None if self.exact else 10,
            )

        return jax.vmap(one)(jax.random.split(key, batch))[:, None]


def _check_ratio(ratio: float) -> None:
    if not 0 < ratio < 1:
        raise ValueError(f"mask ratio {ratio} is not between 0 and 1")


def _check_count(masked: int, tokens: int, ratio: float) -> None:
    if not 0 < masked < tokens:
        left = "no visible" if masked >= tokens else "no masked"
        raise ValueError(f"mask ratio {ratio} leaves {left} token of {tokens}")


MASKERS: dict[str, type] = {"block": Block, "random": Random}
