"""An example as frames of which windows can be taken, whether it is an image or a video."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from PIL import Image

from input_pipeline.bad_inputs import BadMedia
from input_pipeline.decode.images import open_picture
from input_pipeline.source import OpenVideo, Video
from input_pipeline.views.crops import Window

Pixels = Image.Image | np.ndarray  # uint8 RGB; Pillow and OpenCV each have their own form

PILLOW = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# Without antialiasing: pixel centres at halves, as torch with align_corners=False.
OPENCV = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}

cv2.setNumThreads(0)  # the loader has its own threads


class Picture(Protocol):
    """One frame; what is not asked for need not be decoded."""

    @property
    def height(self) -> int:
        """In pixels."""

    @property
    def width(self) -> int:
        """In pixels."""

    def crop(self, window: Window) -> Pixels:
        """The pixels of a window."""

    def whole(self) -> Pixels:
        """All pixels."""


class Frame(NamedTuple):
    """A decoded frame: uint8 (height, width, 3)."""

    pixels: np.ndarray

    @property
    def height(self) -> int:
        """In pixels."""
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        """In pixels."""
        return self.pixels.shape[1]

    def crop(self, window: Window) -> Pixels:
        """The pixels of a window, not copied."""
        return crop(self.pixels, window)

    def whole(self) -> Pixels:
        """All pixels."""
        return self.pixels


class Clip(Protocol):
    """An open example."""

    @property
    def num_frames(self) -> int:
        """1 for an image."""

    @property
    def fps(self) -> float:
        """Frames per second; means nothing for an image."""

    def pictures(self, indices: Sequence[int], short_side: int | None) -> list[Picture]:
        """Frames by index; `short_side` is for videos only, see `OpenVideo.frames`."""


class Still(NamedTuple):
    """An image as a video of one frame."""

    picture: Picture
    num_frames: int = 1
    fps: float = 1.0

    def pictures(self, indices: Sequence[int], short_side: int | None) -> list[Picture]:
        """See `Clip`."""
        return [self.picture for _ in indices]


class Moving(NamedTuple):
    """A video."""

    video: OpenVideo

    @property
    def num_frames(self) -> int:
        """Of the whole video."""
        return self.video.num_frames

    @property
    def fps(self) -> float:
        """Frames per second."""
        return self.video.fps

    def pictures(self, indices: Sequence[int], short_side: int | None) -> list[Picture]:
        """See `Clip`; each frame is decoded once, however often it is asked for."""
        wanted = sorted(set(indices))
        frames = dict(zip(wanted, self.video.frames(wanted, short_side), strict=True))
        return [Frame(frames[index]) for index in indices]


@contextlib.contextmanager
def open_clip(data: bytes | np.ndarray | Video, max_pixels: int) -> Iterator[Clip]:
    """Opens an image file, pixels or a video.

    Args:
      data: see `Example`.
      max_pixels: of a frame; larger ones are refused before they are decoded.

    Raises:
      BadMedia: not what it should be, or too large.
      Exception: whatever the decoder finds wrong.
    """
    if not isinstance(data, Video):
        yield Still(open_picture(data, max_pixels))
        return
    with data.open() as video:
        if video.width * video.height > max_pixels:
            raise BadMedia(
                "too_large",
                f"{video.width}x{video.height} pixels, the limit is {max_pixels} (max_pixels)",
            )
        yield Moving(video)


def crop(pixels: Pixels, window: Window) -> Pixels:
    """A window of an image."""
    top, left, height, width = window
    if isinstance(pixels, np.ndarray):
        return pixels[top : top + height, left : left + width]
    return pixels.crop((left, top, left + width, top + height))


def resize(pixels: Pixels, height: int, width: int, interpolation: str, antialias: bool) -> Pixels:
    """An image of another size.

    Args:
      pixels: uint8 RGB.
      height: wanted, in pixels.
      width: wanted, in pixels.
      interpolation: key of `PILLOW`, or without antialiasing of `OPENCV`.
      antialias: filter before sampling, as Pillow does, or sample only, as torch by default.
    """
    if antialias:
        return as_image(pixels).resize((width, height), PILLOW[interpolation])
    return cv2.resize(np.asarray(pixels), (width, height), interpolation=OPENCV[interpolation])


def as_image(pixels: Pixels) -> Image.Image:
    """Pillow's form."""
    return pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)


def size_of(pixels: Pixels) -> tuple[int, int]:
    """Height and width."""
    if isinstance(pixels, np.ndarray):
        return pixels.shape[0], pixels.shape[1]
    return pixels.height, pixels.width
