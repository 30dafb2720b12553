"""RandAugment on Pillow frames: the "increasing" set of fifteen operations.

Source: timm's auto_augment, as PySlowFast and OpenMMLab use it for fine-tuning. `OPERATIONS` has
the arguments as functions of the level L = magnitude / 10; each sign is random with probability
one half.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

Fill = tuple[int, int, int]
Draw = Callable[[np.random.Generator, float], float]
Apply = Callable[[Image.Image, float, Fill], Image.Image]

MAX_MAGNITUDE = 10.0
MEAN_COLOUR: Fill = (124, 116, 104)  # round(255 * mean of ImageNet)


def _nothing(rng: np.random.Generator, level: float) -> float:
    return 0.0


def _either_sign(rng: np.random.Generator, value: float) -> float:
    return -value if rng.random() < 0.5 else value


def _up_to(most: float) -> Draw:
    return lambda rng, level: _either_sign(rng, most * level)


def _warp(image: Image.Image, matrix: tuple[float, ...], fill: Fill) -> Image.Image:
    bicubic = Image.Resampling.BICUBIC
    return image.transform(image.size, Image.Transform.AFFINE, matrix, bicubic, fillcolor=fill)


def _rotate(image: Image.Image, degrees: float, fill: Fill) -> Image.Image:
    return image.rotate(degrees, resample=Image.Resampling.BICUBIC, fillcolor=fill)


def _posterize(image: Image.Image, bits: float, fill: Fill) -> Image.Image:
    # Not ImageOps.posterize, which rejects the 0 bits (black) of magnitude 10.
    mask = 0xFF & ~(0xFF >> int(bits))
    return image.point([value & mask for value in range(256)] * 3)


def _solarize_add(image: Image.Image, amount: float, fill: Fill) -> Image.Image:
    table = [min(255, value + int(amount)) if value < 128 else value for value in range(256)]
    return image.point(table * 3)


def _enhance(kind) -> tuple[Draw, Apply]:
    def draw(rng, level):
        return 1 + _either_sign(rng, 0.9 * level)

    return draw, lambda image, factor, fill: kind(image).enhance(factor)


# Name -> (argument for a level, the operation with that argument).
OPERATIONS: dict[str, tuple[Draw, Apply]] = {
    "AutoContrast": (_nothing, lambda image, _, fill: ImageOps.autocontrast(image)),
    "Equalize": (_nothing, lambda image, _, fill: ImageOps.equalize(image)),
    "Invert": (_nothing, lambda image, _, fill: ImageOps.invert(image)),
    "Rotate": (_up_to(30), _rotate),  # degrees
    "Posterize": (lambda rng, level: 4 - int(4 * level), _posterize),  # bits kept
    "Solarize": (
        lambda rng, level: 256 - int(256 * level),  # values from this one are inverted
        lambda image, threshold, fill: ImageOps.solarize(image, int(threshold)),
    ),
    "SolarizeAdd": (lambda rng, level: int(110 * level), _solarize_add),
    "Color": _enhance(ImageEnhance.Color),
    "Contrast": _enhance(ImageEnhance.Contrast),
    "Brightness": _enhance(ImageEnhance.Brightness),
    "Sharpness": _enhance(ImageEnhance.Sharpness),
    "ShearX": (_up_to(0.3), lambda i, shear, fill: _warp(i, (1, shear, 0, 0, 1, 0), fill)),
    "ShearY": (_up_to(0.3), lambda i, shear, fill: _warp(i, (1, 0, 0, shear, 1, 0), fill)),
    # Fractions of the width and of the height.
    "TranslateX": (_up_to(0.45), lambda i, x, fill: _warp(i, (1, 0, x * i.width, 0, 1, 0), fill)),
    "TranslateY": (
        _up_to(0.45),
        lambda i, y, fill: _warp(i, (1, 0, 0, 0, 1, y * i.height), fill),
    ),
}


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """`layers` operations drawn with replacement, each applied with probability one half.

    Attributes:
      magnitude: mean of the normal distribution of the magnitude, 0 to 10.
      magnitude_std: its standard deviation; samples are clipped to [0, 10].
      layers: number of operations drawn.
      fill: RGB of pixels from outside the image.
    """

    magnitude: float = 9.0
    magnitude_std: float = 0.0
    layers: int = 2
    fill: Fill = MEAN_COLOUR

    @classmethod
    def parse(cls, text: str, fill: Fill = MEAN_COLOUR) -> RandAugment:
        """Reads timm's notation.

        Args:
          text: "rand", then in any order "m" magnitude, "n" operations (2 if left out), "mstd"
            standard deviation (0 if left out) and "inc1", joined by dashes: "rand-m9-mstd0.5-inc1".
          fill: RGB of pixels from outside the image.

        Raises:
          ValueError: any other text, also one without "inc1": only the increasing set of operations
            is implemented.
        """
        form = 'expected e.g. "rand-m9-n2-mstd0.5-inc1", or "none"'
        head, *items = text.split("-")
        if head != "rand":
            raise ValueError(f"rand_augment {text!r} does not start with rand; {form}")
        given: dict[str, float] = {}
        for item in items:
            match = re.fullmatch(r"(m|n|mstd|inc)(\d+(?:\.\d+)?)", item)
            if match is None or match[1] in given:
                raise ValueError(f"rand_augment {text!r}: invalid {item!r}; {form}")
            given[match[1]] = float(match[2])
        settings = {"n": 2.0, "mstd": 0.0} | given
        if settings.get("inc") != 1:
            raise ValueError(f"rand_augment {text!r} needs inc1, the increasing set; {form}")
        if not 0 <= settings.get("m", -1.0) <= MAX_MAGNITUDE:
            raise ValueError(f"rand_augment {text!r} needs a magnitude from m0 to m10; {form}")
        if settings["n"] < 1 or settings["n"] % 1:
            raise ValueError(f"rand_augment {text!r} needs a whole number of operations; {form}")
        return cls(settings["m"], settings["mstd"], int(settings["n"]), fill)

    def __call__(self, frames: list[Image.Image], rng: np.random.Generator) -> list[Image.Image]:
        """Augments all frames of a clip, mode RGB, with the same operations and arguments."""
        names = list(OPERATIONS)
        for choice in rng.integers(len(names), size=self.layers):
            if rng.random() < 0.5:
                continue
            magnitude = np.clip(rng.normal(self.magnitude, self.magnitude_std), 0, MAX_MAGNITUDE)
            draw, apply = OPERATIONS[names[choice]]
            argument = draw(rng, float(magnitude) / MAX_MAGNITUDE)
            frames = [apply(frame, argument, self.fill) for frame in frames]
        return frames
