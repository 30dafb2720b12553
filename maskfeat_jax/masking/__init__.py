"""What is hidden: masks on the token grid, True = masked.

To add one: a frozen dataclass with the members of `Masker`, and its line in `MASKERS` at the end of
the file.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Key

from maskfeat_jax.ops.block_masks import block_mask
from maskfeat_jax.ops.cube_masks import cube_mask
from maskfeat_jax.typing import Array

Grid = tuple[int, int, int]  # tokens along time, height, width


@runtime_checkable
class Masker(Protocol):
    """Draws one mask per clip."""

    @property
    def exact(self) -> bool:
        """Every mask hides exactly `masked(grid)` tokens; else some hide fewer, none hides more."""

    def masked(self, grid: Grid) -> int:
        """Masked tokens per clip, or, where not exact, those that are aimed at."""

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
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_ratio(self.ratio)

    def masked(self, grid: Grid) -> int:
        """Masked tokens per clip."""
        tokens = math.prod(grid)
        return tokens - int(tokens * (1 - self.ratio))  # in this order, as the originals round

    def check(self, grid: Grid) -> None:
        """Raises ValueError if all tokens would be masked, or none."""
        _check_count(self.masked(grid), math.prod(grid), self.ratio)

    def __call__(self, key: Key[Array, ""], batch: int, grid: Grid) -> Bool[Array, "b t h w"]:
        """Independent masks for `batch` clips."""
        self.check(grid)
        return _choose(key, (batch, math.prod(grid)), self.masked(grid)).reshape(batch, *grid)


@dataclasses.dataclass(frozen=True)
class RandomPerFrame(Random):
    """Tokens at random, the same number in each frame, independently from frame to frame.

    A frame keeps floor(height * width * (1 - ratio)) visible tokens.

    Attributes:
      ratio: part of the tokens that is masked, in (0, 1).

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
    """Places at random, masked in every frame.

    A frame keeps floor(height * width * (1 - ratio)) visible tokens, as in dmae_st. VideoMAE masks
    floor(height * width * ratio), so on 14x14 tokens its ratio of 0.9 is 0.897 here.

    Attributes:
      ratio: part of the tokens that is masked, in (0, 1).

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
      ratio: part of the frames that is masked, in (0, 1).

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
        _check_rectangles(self.ratio, self.min_area, self.aspect)

    def masked(self, grid: Grid) -> int:
        """See `Masker`."""
        return round(math.prod(grid) * self.ratio)

    def check(self, grid: Grid) -> None:
        """Raises ValueError if the grid has several frames, or no rectangle can be placed."""
        if grid[0] != 1:
            raise ValueError(
                f"block masks are for one frame of tokens, the clip has {grid[0]}; "
                "for several there are cube and tube masks"
            )
        _check_sides("block", grid[1:])
        _check_count(self.masked(grid), math.prod(grid), self.ratio)
        area = self._min_area(grid)
        if self.exact and not _fits(area, grid[1:], self.aspect):  # drawing would never end
            raise ValueError(
                f"no rectangle of {area} tokens, its sides in a ratio of {self.aspect} or more, is "
                f"smaller than {_by(grid[1:])}; lower min_area={self.min_area} or aspect"
            )

    def __call__(self, key: Key[Array, ""], batch: int, grid: Grid) -> Bool[Array, "b t h w"]:
        """Independent masks for `batch` clips."""
        self.check(grid)

        def one(key: Key[Array, ""]) -> Bool[Array, "h w"]:
            return block_mask(
                key,
                (grid[1], grid[2]),
                masked=self.masked(grid),
                min_area=float(self._min_area(grid)),
                aspect=self.aspect,
                attempts=None if self.exact else 10,
            )

        return jax.vmap(one)(jax.random.split(key, batch))[:, None]

    def _min_area(self, grid: Grid) -> int:
        return max(1, int(self.masked(grid) * self.min_area))


@dataclasses.dataclass(frozen=True)
class Tube:
    """The rectangles of `Block` on one frame, repeated over all frames.

    Attributes:
      ratio: part of the tokens that is masked, in (0, 1).
      window: rows and columns of the grid on which the rectangles are drawn; each of its cells
        covers a whole number of tokens. None: the tokens themselves. PySlowFast takes 7x7 for
        14x14 tokens.
      min_area: smallest rectangle as a fraction of the wanted number of cells.
      aspect: lowest ratio of height to width.
      exact: as of `Block`.

    Source: MaskFeat (arXiv:2112.09133) section 5; PySlowFast's `MASK_TUBE`.
    """

    ratio: float = 0.4
    window: tuple[int, ...] | None = None
    min_area: float = 0.2
    aspect: float = 0.3
    exact: bool = False

    def __post_init__(self) -> None:
        self._block()  # its checks are ours
        _check_window(self.window, 2)

    def masked(self, grid: Grid) -> int:
        """See `Masker`."""
        cells = self._cells(grid)
        return self._block().masked(cells) * math.prod(grid) // math.prod(cells)

    def check(self, grid: Grid) -> None:
        """Raises ValueError if the window does not divide the grid, or no rectangle fits in it."""
        cells = self._cells(grid)
        _check_divides(cells[1:], grid[1:])
        _check_sides("tube", cells[1:])
        self._block().check(cells)

    def __call__(self, key: Key[Array, ""], batch: int, grid: Grid) -> Bool[Array, "b t h w"]:
        """Independent masks for `batch` clips."""
        self.check(grid)
        return _enlarge(self._block()(key, batch, self._cells(grid)), grid)

    def _block(self) -> Block:
        return Block(self.ratio, self.min_area, self.aspect, self.exact)

    def _cells(self, grid: Grid) -> Grid:
        rows, columns = self.window or grid[1:]
        return 1, rows, columns


@dataclasses.dataclass(frozen=True)
class Cube:
    """Boxes in space and time until the wanted number of cells is covered.

    Attributes:
      ratio: part of the tokens that is masked, in (0, 1).
      window: the grid (time, height, width) on which the boxes are drawn; each of its cells covers
        a whole number of tokens. None: the tokens themselves. PySlowFast takes 8x7x7 for 8x14x14
        tokens.
      min_area: area of the smallest box as a fraction of a frame; the originals take
        `height * width // 5` cells.
      aspect: lowest ratio of height to width.
      exact: False stops where a hundred boxes in a row do not fit, so some masks stay short
        (PySlowFast): on 8x7x7 cells with ratio 0.4, 155.7 of 157 cells on average. True fills
        those with single cells at random, as PySlowFast does in effect for masked autoencoders.

    Source: MaskFeat (arXiv:2112.09133) section 5; block masks of MAE for video (arXiv:2205.09113).
    """

    ratio: float = 0.4
    window: tuple[int, ...] | None = None
    min_area: float = 0.2
    aspect: float = 0.3
    exact: bool = False

    def __post_init__(self) -> None:
        _check_rectangles(self.ratio, self.min_area, self.aspect)
        _check_window(self.window, 3)

    def masked(self, grid: Grid) -> int:
        """See `Masker`."""
        cells = self._cells(grid)
        return self._masked_cells(cells) * math.prod(grid) // math.prod(cells)

    def check(self, grid: Grid) -> None:
        """Raises ValueError if the window does not divide the grid, or no box fits in it."""
        cells = self._cells(grid)
        _check_divides(cells, grid)
        _check_sides("cube", cells[1:])
        masked, smallest = self._masked_cells(cells), self._min_area(cells)
        _check_count(masked, math.prod(cells), self.ratio)
        if masked < smallest:
            raise ValueError(
                f"mask ratio {self.ratio} is {masked} cells of {_by(cells)}, and the smallest box "
                f"has {smallest}; raise ratio or lower min_area={self.min_area}"
            )

    def __call__(self, key: Key[Array, ""], batch: int, grid: Grid) -> Bool[Array, "b t h w"]:
        """Independent masks for `batch` clips."""
        self.check(grid)
        cells = self._cells(grid)

        def one(key: Key[Array, ""]) -> Bool[Array, "t h w"]:
            return cube_mask(
                key,
                cells,
                masked=self._masked_cells(cells),
                min_area=float(self._min_area(cells)),
                aspect=self.aspect,
                fill=self.exact,
            )

        return _enlarge(jax.vmap(one)(jax.random.split(key, batch)), grid)

    def _cells(self, grid: Grid) -> Grid:
        frames, rows, columns = self.window or grid
        return frames, rows, columns

    def _masked_cells(self, cells: Grid) -> int:
        return round(math.prod(cells) * self.ratio)

    def _min_area(self, cells: Grid) -> int:
        return max(1, int(math.prod(cells[1:]) * self.min_area))


def _choose(key: Key[Array, ""], shape: tuple[int, int], count: int) -> Bool[Array, "rows n"]:
    """`count` of the places in each row, each set with the same probability."""
    rank = jnp.argsort(jnp.argsort(jax.random.uniform(key, shape), axis=-1), axis=-1)
    return rank < count


def _enlarge(mask: Bool[Array, "b f r c"], grid: Grid) -> Bool[Array, "b t h w"]:
    """Each cell becomes as many tokens as fill the grid."""
    for axis, size in enumerate(grid, start=1):
        mask = jnp.repeat(mask, size // mask.shape[axis], axis=axis)
    return mask


def _fits(area: int, sides: tuple[int, int], aspect: float) -> bool:
    """Whether a rectangle can be drawn that is smaller on both sides, which are rounded."""
    height, width = (side - 0.5 for side in sides)
    return max(aspect, area / width**2) <= min(1 / aspect, height**2 / area)


def _by(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def _check_ratio(ratio: float) -> None:
    if not 0 < ratio < 1:
        raise ValueError(f"mask ratio {ratio} is not between 0 and 1")


def _check_rectangles(ratio: float, min_area: float, aspect: float) -> None:
    _check_ratio(ratio)
    if not 0 < min_area <= 1 or not 0 < aspect <= 1:
        raise ValueError(f"min_area={min_area} and aspect={aspect} must be in (0, 1]")


def _check_window(window: tuple[int, ...] | None, axes: int) -> None:
    if window is not None and (len(window) != axes or min(window) < 1):
        names = "(time, height, width)" if axes == 3 else "(height, width)"
        raise ValueError(f"mask window {window} must be {axes} positive sizes {names}")


def _check_divides(window: Sequence[int], grid: Sequence[int]) -> None:
    if any(g % w for w, g in zip(window, grid, strict=True)):
        raise ValueError(
            f"mask window {_by(window)} does not divide the token grid {_by(grid)}: each cell must "
            "cover a whole number of tokens"
        )


def _check_sides(name: str, sides: Sequence[int]) -> None:
    if min(sides) < 2:
        raise ValueError(f"{name} masks need 2x2 tokens or more, there are {_by(sides)}")


def _check_count(masked: int, tokens: int, ratio: float) -> None:
    if not 0 < masked < tokens:
        left = "no visible" if masked >= tokens else "no masked"
        raise ValueError(f"mask ratio {ratio} leaves {left} token of {tokens}")


MASKERS: dict[str, type] = {
    "block": Block,
    "cube": Cube,
    "frame": Frame,
    "random": Random,
    "random_per_frame": RandomPerFrame,
    "random_tube": RandomTube,
    "tube": Tube,
}
