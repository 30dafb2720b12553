"""Crop windows: pure functions of sizes and random numbers, without pixels."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

Box = tuple[float, float, float, float]  # left, top, right, bottom, as fractions of the image


class Window(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def within(self, height: int, width: int) -> Box:
        """The window of an image of this size, as fractions of it."""
        right, bottom = self.left + self.width, self.top + self.height
        return self.left / width, self.top / height, right / width, bottom / height


class Placement(NamedTuple):
    """Where a clip lies in its image."""

    height: int  # of the image, in pixels
    width: int
    box: Box  # of the clip in the image
    size: tuple[int, int]  # height and width of the clip, in pixels
    keeps_ratio: bool  # the image was scaled to another shorter side, not to any height and width

    def boxes(self, sides: np.ndarray) -> np.ndarray:
        """Boxes of the image in pixels of the clip, cut off at its border.

        Pixels are numbered from 0, and a side is one of them. If the ratio is kept, both axes are
        scaled by the factor of the longer one, although the shorter is rounded differently, as in
        PySlowFast (slowfast/datasets/transform.py).

        Args:
          sides: `(n, 4)`, left, top, right, bottom, as fractions of the image.
        """
        left, top, right, bottom = self.box
        image, clip = np.array([self.width, self.height]), np.array(self.size[::-1])
        scale = clip / (np.array([right - left, bottom - top]) * image)
        start = np.array([left, top]) * image * scale
        if self.keeps_ratio:
            scale = scale[[image.argmax()] * 2]
        corners = (sides.reshape(-1, 2, 2) * image).clip(0, image - 1)
        return (corners * scale - start).clip(0, clip - 1).reshape(-1, 4)


def random_resized_crop(
    rng: np.random.Generator,
    height: int,
    width: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> Window:
    """Draws the window of a random resized crop.

    Ten attempts with an area uniform in `area` and an aspect ratio log-uniform in `ratio`; the
    first that fits gets a uniform position. If none fits: the largest centred window with a ratio
    in the range.

    Args:
      rng: random generator.
      height: of the image, in pixels.
      width: of the image, in pixels.
      area: smallest and largest area, as a fraction of the image.
      ratio: smallest and largest width / height of the window.

    Source: torchvision's RandomResizedCrop, which PySlowFast and OpenMMLab follow. On photographs
    (500x375) the mean area is .432 for (.08, 1) and .663 for (.5, 1); tf.image's own op has another
    distribution (.372, .637).
    """
    for _ in range(10):
        target_area = height * width * rng.uniform(*area)
        target_ratio = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        crop_width = round(math.sqrt(target_area * target_ratio))
        crop_height = round(math.sqrt(target_area / target_ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(rng.integers(0, height - crop_height, endpoint=True))
            left = int(rng.integers(0, width - crop_width, endpoint=True))
            return Window(top, left, crop_height, crop_width)
    return _largest_allowed(height, width, ratio)


def _largest_allowed(height: int, width: int, ratio: tuple[float, float]) -> Window:
    crop_height, crop_width = height, width
    if width / height < ratio[0]:
        crop_height = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        crop_width = max(1, round(height * ratio[1]))
    return Window((height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width)


def short_side(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width after a resize that makes the shorter side `size` pixels long.

    The longer side is rounded down, as in torchvision.
    """
    if height <= width:
        return size, int(size * width / height)
    return int(size * height / width), size


def centre(height: int, width: int, size: int) -> Window:
    """The square window of side `size` in the middle; half pixels are rounded as in torchvision."""
    return Window(round((height - size) / 2), round((width - size) / 2), size, size)


def along_longer_side(height: int, width: int, size: int, count: int) -> list[Window]:
    """Square windows of side `size`: the middle one, or (count 3) start, middle and end.

    Half pixels are rounded up, as in PySlowFast (slowfast/datasets/transform.py).
    """
    tops, lefts = _starts(height, size), _starts(width, size)
    corners = [(tops[1], lefts[1])]
    if count == 3 and width >= height:
        corners = [(tops[1], left) for left in lefts]
    elif count == 3:
        corners = [(top, lefts[1]) for top in tops]
    return [Window(top, left, size, size) for top, left in corners]


def _starts(length: int, size: int) -> tuple[int, int, int]:
    return 0, math.ceil((length - size) / 2), length - size


def jittered_square(
    rng: np.random.Generator, height: int, width: int, sizes: tuple[int, int], size: int
) -> tuple[int, int, Window]:
    """Height and width after a resize to a random shorter side, and a random square of the result.

    The inverse of the side is uniform between those of `sizes`; the square, of side `size`, may
    have any position except the last, as in PySlowFast for Something-Something
    (slowfast/datasets/transform.py).
    """
    height, width = short_side(height, width, round(1 / rng.uniform(1 / sizes[1], 1 / sizes[0])))
    top = int(rng.integers(height - size)) if height > size else 0
    left = int(rng.integers(width - size)) if width > size else 0
    return height, width, Window(top, left, size, size)
