"""What the network gets to see of an example: a clip of fixed shape, uint8.

A view is a section of a recipe. Flips are made on the device, with normalisation and mixing.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from PIL import Image

from input_pipeline import crops
from input_pipeline.bad_inputs import media_boundary
from input_pipeline.color_jitter import ColorJitter
from input_pipeline.decode import MAX_PIXELS, open_picture
from input_pipeline.randaugment import RandAugment

INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclasses.dataclass(frozen=True)
class TrainView:
    """A random resized crop, then (fine-tuning) RandAugment and colour jitter.

    Attributes:
      size: side of the clip, in pixels.
      crop_area: smallest and largest area of the crop, as a fraction of the image.
      crop_ratio: smallest and largest width / height of the crop.
      interpolation: "bilinear", "bicubic" or "lanczos", antialiased, as Pillow resizes.
      rand_augment: timm's notation, such as "rand-m9-mstd0.5-inc1"; None for none.
      color_jitter: strength of brightness, contrast and saturation, after RandAugment; 0 for none.
      max_pixels: larger images count as bad inputs.

    The originals flip before RandAugment; since its signs are fair coins, flipping afterwards gives
    the same distribution.
    """

    size: int = 224
    crop_area: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bicubic"
    rand_augment: str | None = None
    color_jitter: float = 0.0
    max_pixels: int = MAX_PIXELS

    def __post_init__(self):
        """Checks the settings."""
        _check_size(self.size, self.interpolation, self.max_pixels)
        low, high = self.crop_area
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_area is {self.crop_area}; expected 0 < low <= high <= 1")
        low, high = self.crop_ratio
        if not 0 < low <= high:
            raise ValueError(f"crop_ratio is {self.crop_ratio}; expected 0 < low <= high")
        _ = self._augmentations  # parsed here, so that a bad notation fails at once

    @functools.cached_property
    def _augmentations(self) -> list[RandAugment | ColorJitter]:
        augmentations: list[RandAugment | ColorJitter] = []
        if self.rand_augment is not None:
            augmentations.append(RandAugment.parse(self.rand_augment))
        if self.color_jitter:
            augmentations.append(ColorJitter(self.color_jitter))
        return augmentations

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Frames, height, width, channels of a clip."""
        return 1, self.size, self.size, 3

    def __call__(self, data: bytes | np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Decodes, crops and augments: uint8 of `shape`, RGB.

        Args:
          data: an image file or its pixels.
          rng: the random numbers of this example.

        Raises:
          BadMedia: the file cannot be decoded.
        """
        with media_boundary():
            picture = open_picture(data, self.max_pixels)
            window = crops.random_resized_crop(
                rng, picture.height, picture.width, self.crop_area, self.crop_ratio
            )
            crop = picture.crop(window)
        frames = [crop.resize((self.size, self.size), INTERPOLATIONS[self.interpolation])]
        for augment in self._augmentations:
            frames = augment(frames, rng)
        return np.stack([np.asarray(frame) for frame in frames])


@dataclasses.dataclass(frozen=True)
class EvalView:
    """The shorter side resized to `resize`, then the square in the middle.

    Attributes:
      size: side of the clip, in pixels.
      resize: shorter side before the crop, in pixels; None means size / 0.875, rounded down.
      interpolation: "bilinear", "bicubic" or "lanczos", antialiased, as Pillow resizes.
      max_pixels: larger images count as bad inputs.
    """

    size: int = 224
    resize: int | None = None
    interpolation: str = "bicubic"
    max_pixels: int = MAX_PIXELS

    def __post_init__(self):
        """Checks the settings."""
        _check_size(self.size, self.interpolation, self.max_pixels)
        if self.resize is not None and self.resize < self.size:
            raise ValueError(
                f"resize={self.resize} leaves less than the {self.size} pixels of the crop; "
                "it must be at least size"
            )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Frames, height, width, channels of a clip."""
        return 1, self.size, self.size, 3

    def __call__(self, data: bytes | np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Decodes, resizes and crops: uint8 of `shape`, RGB.

        Args:
          data: an image file or its pixels.
          rng: not used; views share one signature.

        Raises:
          BadMedia: the file cannot be decoded.
        """
        with media_boundary():
            image = open_picture(data, self.max_pixels).whole()
        resize = int(self.size / 0.875) if self.resize is None else self.resize
        height, width = crops.short_side(image.height, image.width, resize)
        top, left, _, _ = crops.centre(height, width, self.size)
        image = image.resize((width, height), INTERPOLATIONS[self.interpolation])
        crop = image.crop((left, top, left + self.size, top + self.size))
        return np.asarray(crop)[np.newaxis]


def _check_size(size: int, interpolation: str, max_pixels: int) -> None:
    if size < 1:
        raise ValueError(f"size is {size}; it must be at least 1 pixel")
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation {interpolation!r} is not one of {sorted(INTERPOLATIONS)}")
    if max_pixels < 1:
        raise ValueError(f"max_pixels is {max_pixels}; it must be at least 1")
