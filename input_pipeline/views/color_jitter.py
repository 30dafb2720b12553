"""Random brightness, contrast and saturation, in random order."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image, ImageEnhance

_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """Each of the three factors is uniform in [max(0, 1 - strength), 1 + strength].

    Source: torchvision's ColorJitter, without hue.
    """

    strength: float  # 0.4 in OpenMMLab's fine-tuning of MaskFeat, in addition to RandAugment

    def __post_init__(self):
        if self.strength < 0:
            raise ValueError(f"color_jitter is {self.strength}; it must be 0 or more")

    def __call__(self, frames: list[Image.Image], rng: np.random.Generator) -> list[Image.Image]:
        """Applies the same change to all frames of a clip, mode RGB."""
        order = rng.permutation(len(_ENHANCERS))
        low, high = max(0.0, 1 - self.strength), 1 + self.strength
        factors = rng.uniform(low, high, size=len(_ENHANCERS))
        for which in order:
            frames = [_ENHANCERS[which](frame).enhance(factors[which]) for frame in frames]
        return frames
