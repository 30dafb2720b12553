"""Masks on the token grid, True = masked.

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
        """Whether each mask has exactly `masked(grid)` masked tokens; otherwise at most that."""

    def masked(self, grid: Grid) -> int:
        """Number of masked tokens per clip; if not `exact`, the target number."""

    def check(self, grid: Grid) -> None:
        """Raises ValueError if no mask can be drawn on the grid."""

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
