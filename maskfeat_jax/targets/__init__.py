"""Targets: features to predict for each tubelet of the normalised, augmented, unmasked clip.

To add one: a frozen dataclass with the members of `Target` in a file of this folder, and its line
in `TARGETS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.targets.hog import Hog
from maskfeat_jax.targets.pixels import Pixels
from maskfeat_jax.typing import Array


@runtime_checkable
class Target(Protocol):
    """Features of a clip on its token grid."""

    @property
    def tubelet(self) -> Size3:
        """Frames, rows and columns of one token; set from the model."""

    @property
    def dim(self) -> int:
        """Values per token."""

    def __call__(self, clips: Float[Array, "b t h w 3"]) -> Float[Array, "b gt gh gw {self.dim}"]:
        """float32 features; the training step stops their gradient."""

    def restore(
        self, features: Float[Array, "b gt gh gw {self.dim}"], clips: Float[Array, "b t h w 3"]
    ) -> Float[Array, "b gt gh gw {self.dim}"]:
        """Features, predicted or true, in the form that `draw` takes, given their clips."""

    def draw(
        self, features: Float[np.ndarray, "gh gw d"], mean: Sequence[float], std: Sequence[float]
    ) -> UInt8[np.ndarray, "height width 3"]:
        """A picture of the restored features of one frame of tokens.

        Args:
          features: output of `restore`.
          mean: of the normalisation of colour channels, on the scale of pixels / 255.
          std: likewise.
        """


TARGETS: dict[str, type[Target]] = {"hog": Hog, "pixels": Pixels}
