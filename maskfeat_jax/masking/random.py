"""Random masks of tokens, tubes or frames."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Key

from maskfeat_jax.masking.grids import Grid, check_count, check_ratio
from maskfeat_jax.typing import Array


@dataclasses.dataclass(frozen=True)
class Random:
    """Uniformly random tokens.

    The number of visible tokens is floor(tokens * (1 - ratio)), the same for each clip.

    Attributes:
      ratio: fraction of the tokens that is masked, in (0, 1).

    Source: MAE (arXiv:2111.06377); PySlowFast's `MAE_RND_MASK`.
    """

    ratio: float = 0.75
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_ratio(self.ratio)

    def masked(self, grid: Grid) -> int:
        """Masked tokens per clip."""
        tokens = math.prod(grid)
        return tokens - int(tokens * (1 - self.ratio))  # rounds like the originals

    def check(self, grid: Grid) -> None:
        """Raises ValueError if no token would be visible, or none masked."""
        check_count(self.masked(grid), math.prod(grid), self.ratio)

    def __call__(self, key: Key[Array, ""], batch: int, grid: Grid) -> Bool[Array, "b t h w"]:
        """Independent masks for `batch` clips."""
        self.check(grid)
        return _choose(key, (batch, math.prod(grid)), self.masked(grid)).reshape(batch, *grid)


@dataclasses.dataclass(frozen=True)
class RandomPerFrame(Random):
    """Random tokens, the same number in each frame, independent between frames.

    A frame has floor(height * width * (1 - ratio)) visible tokens.

    Attributes:
      ratio: fraction of the tokens that is masked, in (0, 1).

    Source: MAE for video (arXiv:2205.09113); PySlowFast's `PER_FRAME_MASKING`.
    """

    ratio: float = 0.9

    def masked(self, grid: Grid) -> int:
        """Masked tokens per clip."""
        return grid[0] * super().masked((1, *grid[1:]))

    def __call__(self, key: Key[Array, ""], batch: int, grid: Grid) -> Bool[Array, "b t h w"]:
        """Independent masks for `batch` clips."""
        return super().__call__(key, batch * grid[0], (1, *grid[1:])).reshape(batch, *grid)


@dataclasses.dataclass(frozen=True)
class RandomTube(RandomPerFrame):
    """Random positions, masked in every frame.

    A frame has floor(height * width * (1 - ratio)) visible tokens, as in dmae_st. VideoMAE masks
    floor(height * width * ratio), so on 14x14 tokens its ratio of 0.9 is 0.897 here.

    Attributes:
      ratio: fraction of the tokens that is masked, in (0, 1).

    Source: VideoMAE (arXiv:2203.12602); space-only masks of MAE for video (arXiv:2205.09113).
    """

    ratio: float = 0.9

    def __call__(self, key: Key[Array, ""], batch: int, grid: Grid) -> Bool[Array, "b t h w"]:
        """Independent masks for `batch` clips."""
        return jnp.broadcast_to(super().__call__(key, batch, (1, *grid[1:])), (batch, *grid))


@dataclasses.dataclass(frozen=True)
class Frame(Random):
    """Whole frames of tokens: round(frames * ratio) of them.

    Attributes:
      ratio: fraction of the frames that is masked, in (0, 1).

    Source: MaskFeat (arXiv:2112.09133) section 5; PySlowFast's `MASK_FRAMES`.
    """

    ratio: float = 0.4

    def masked(self, grid: Grid) -> int:
        """Masked tokens per clip."""
        return round(grid[0] * self.ratio) * math.prod(grid[1:])

    def __call__(self, key: Key[Array, ""], batch: int, grid: Grid) -> Bool[Array, "b t h w"]:
        """Independent masks for `batch` clips."""
        self.check(grid)
        chosen = _choose(key, (batch, grid[0]), self.masked(grid) // math.prod(grid[1:]))
        return jnp.broadcast_to(chosen[:, :, None, None], (batch, *grid))


def _choose(key: Key[Array, ""], shape: tuple[int, int], count: int) -> Bool[Array, "rows n"]:
    """True at `count` uniformly random positions of each row."""
    rank = jnp.argsort(jnp.argsort(jax.random.uniform(key, shape), axis=-1), axis=-1)
    return rank < count
