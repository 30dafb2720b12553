"""HOG target."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import einops
import numpy as np
from jaxtyping import Float, UInt8

from maskfeat_jax import pictures
from maskfeat_jax.ops.hog import check_hog_settings, hog
from maskfeat_jax.ops.patches import Size3, token_grid
from maskfeat_jax.ops.rows import on_own_rows
from maskfeat_jax.targets.base import Inputs, Target
from maskfeat_jax.typing import Array


@dataclasses.dataclass(frozen=True)
class Hog(Target):
    """Histograms of oriented gradients of the cells of a token, in its first frame.

    The values of a token are ordered channel, bin, cell row, cell column.

    Attributes:
      tubelet: frames, rows and columns of one token, pixels.
      bins, cell, signed, normalise, colour, window: see `maskfeat_jax.ops.hog.hog`.

    Source: MaskFeat (arXiv:2112.09133) section 3.2; PySlowFast slowfast/models/masked.py.
    """

    tubelet: Size3
    bins: int = 9
    cell: int = 8
    signed: bool = False
    normalise: str = "l2"
    colour: str = "rgb"
    window: int = 0

    def __post_init__(self) -> None:
        check_hog_settings(self.bins, self.cell, self.normalise, self.colour, self.window)
        _, height, width = self.tubelet
        if height % self.cell or width % self.cell:
            raise ValueError(
                f"patch {height}x{width} is not a whole number of {self.cell}x{self.cell} HOG cells"
            )

    @property
    def channels(self) -> int:
        """Histograms per cell."""
        return 3 if self.colour == "rgb" else 1

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of cells in a token."""
        return self.tubelet[1] // self.cell, self.tubelet[2] // self.cell

    @property
    def dim(self) -> int:
        """Values per token."""
        rows, columns = self.cells
        return self.channels * self.bins * rows * columns

    def __call__(self, inputs: Inputs) -> Float[Array, "b gt gh gw d"]:
        """Histograms by token."""
        return on_own_rows(self._by_token, inputs.clips)

    def draw(
        self, features: Float[np.ndarray, "gh gw d"], mean: Sequence[float], std: Sequence[float]
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Strokes along the edges, see `pictures.draw_hog`."""
        cells = pictures.tokens_to_cells(features, self.bins, self.channels, self.cells)
        scale = max(1, 448 // (cells.shape[0] * self.cell))
        return pictures.draw_hog(cells, self.cell, scale, signed=self.signed)

    def _by_token(self, clips: Float[Array, "b t h w 3"]) -> Float[Array, "b gt gh gw d"]:
        token_grid(clips.shape[1:4], self.tubelet)
        histograms = hog(
            clips[:, :: self.tubelet[0]],
            bins=self.bins,
            cell=self.cell,
            signed=self.signed,
            normalise=self.normalise,
            colour=self.colour,
            window=self.window,
        )
        rows, columns = self.cells
        return einops.rearrange(
            histograms, "b t (h y) (w x) c k -> b t h w (c k y x)", y=rows, x=columns
        )
