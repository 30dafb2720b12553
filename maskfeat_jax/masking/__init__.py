"""What is hidden: masks on the token grid, True = masked.

To add one: a frozen dataclass with the members of `Masker` in a file of this folder, and its line
in `MASKERS`.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Key

from maskfeat_jax.masking.block import Block, Tube
from maskfeat_jax.masking.cube import Cube
from maskfeat_jax.masking.grids import Grid
from maskfeat_jax.masking.random import Frame, Random, RandomPerFrame, RandomTube
from maskfeat_jax.typing import Array


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


MASKERS: dict[str, type[Masker]] = {
    "block": Block,
    "cube": Cube,
    "frame": Frame,
    "random": Random,
    "random_per_frame": RandomPerFrame,
    "random_tube": RandomTube,
    "tube": Tube,
}
