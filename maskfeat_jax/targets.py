"""What is predicted: features of each tubelet of the clean, normalised clip.

To add one: a frozen dataclass with `dim`, `__call__` and `draw`, and its line in `TARGETS` at the
end of the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import einops
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from maskfeat_jax import pictures
from maskfeat_jax.arrays import Array
from maskfeat_jax.ops.hog import check_hog_settings, hog
from maskfeat_jax.ops.patches import Size3, token_grid


@runtime_checkable
class Target(Protocol):
    """Features of a clip on its token grid.

    Attributes:
      tubelet: frames, rows and columns of one token; set from the model.
    """

    tubelet: Size3

    @property
    def dim(self) -> int:
        """Numbers per token."""

    def __call__(self, clips: Float[Array, "b t h w 3"]) -> Float[Array, "b gt gh gw {self.dim}"]:
        """float32 features; no gradient flows through them."""

    def draw(
        self, features: Float[np.ndarray, "gh gw d"], mean: Sequence[float], std: Sequence[float]
    ) -> UInt8[np.ndarray, "height width 3"]:
        """A picture of the features of one frame of tokens, given the colours' normalisation."""


@dataclasses.dataclass(frozen=True)
class Hog:
    """Histograms of oriented gradients of the cells of a token, of its first frame.

    The numbers of a token are ordered channel, bin, cell row, cell column.

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
        """Numbers per token."""
        rows, columns = self.cells
        return self.channels * self.bins * rows * columns

    def __call__(self, clips: Float[Array, "b t h w 3"]) -> Float[Array, "b gt gh gw d"]:
        """Histograms by token."""
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

    def draw(
        self, features: Float[np.ndarray, "gh gw d"], mean: Sequence[float], std: Sequence[float]
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Oriented strokes along the edges."""
        cells = pictures.tokens_to_cells(features, self.bins, self.channels, self.cells[0])
        scale = max(1, 448 // (cells.shape[0] * self.cell))
        return pictures.draw_hog(cells, self.cell, scale, signed=self.signed)


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Pixels of a token, of its first frame.

    Attributes:
      tubelet: frames, rows and columns of one token, pixels.
      normalise: scales the numbers of each token to zero mean and unit (unbiased) variance.
      channels: "first" orders the numbers channel, row, column (PySlowFast, images), "last" row,
        column, channel (PySlowFast, video; MAE).

    Source: MaskFeat (arXiv:2112.09133) section 3.2; PySlowFast slowfast/models/masked.py.
    """

    tubelet: Size3
    normalise: bool = True
    channels: str = "first"

    def __post_init__(self) -> None:
        if self.channels not in ("first", "last"):
            raise ValueError(f"channels={self.channels!r} is not 'first' or 'last'")

    @property
    def dim(self) -> int:
        """Numbers per token."""
        return 3 * self.tubelet[1] * self.tubelet[2]

    def __call__(self, clips: Float[Array, "b t h w 3"]) -> Float[Array, "b gt gh gw d"]:
        """Pixels by token."""
        token_grid(clips.shape[1:4], self.tubelet)
        u, p, q = self.tubelet
        order = "(c p q)" if self.channels == "first" else "(p q c)"
        tokens = einops.rearrange(
            clips[:, ::u].astype(jnp.float32),
            f"b t (h p) (w q) c -> b t h w {order}",
            p=p,
            q=q,
        )
        if not self.normalise:
            return tokens
        mean = tokens.mean(-1, keepdims=True)
        variance = tokens.var(-1, keepdims=True, ddof=1)
        return (tokens - mean) / jnp.sqrt(variance + 1e-6)

    def draw(
        self, features: Float[np.ndarray, "gh gw d"], mean: Sequence[float], std: Sequence[float]
    ) -> UInt8[np.ndarray, "height width 3"]:
        """The pixels; of normalised ones each patch about grey, as its colours are not known."""
        image = pictures.tokens_to_pixels(features, self.tubelet[1], channels=self.channels)
        return pictures.to_uint8(image, *((0.5, 0.2) if self.normalise else (mean, std)))


TARGETS: dict[str, type] = {"hog": Hog, "pixels": Pixels}
