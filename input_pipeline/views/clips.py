"""An example as frames of which windows can be taken, whether it is an image or a video."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from input_pipeline.bad_inputs import BadMedia
from input_pipeline.decode.images import Picture, open_picture
from input_pipeline.source import Video
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


class Clip(NamedTuple):
    """An open example; an image is a video of one frame.

    Attributes:
      num_frames: of the whole example.
      fps: frames per second; means nothing for an image.
      pictures: (indices, short side) -> frames, each decoded once however often it is asked for;
        the short side is for videos only, see `OpenVideo.frames`.
    """

    num_frames: int
    fps: float
    pictures: Callable[[Sequence[int], int | None], list[Picture | Frame]]


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
        picture = open_picture(data, max_pixels)
        yield Clip(1, 1.0, lambda indices, _: [picture for _ in indices])
        return
    with data.open() as video:
        if video.width * video.height > max_pixels:
            raise BadMedia(
                "too_large",
                f"{video.width}x{video.height} pixels, the limit is {max_pixels} (max_pixels)",
            )

        def pictures(indices: Sequence[int], short_side: int | None) -> list[Picture | Frame]:
            wanted = sorted(set(indices))
            frames = dict(zip(wanted, video.frames(wanted, short_side), strict=True))
            return [Frame(frames[index]) for index in indices]

        yield Clip(video.num_frames, video.fps, pictures)


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


def check_size(size: int, interpolation: str, antialias: bool, max_pixels: int) -> None:
    """Raises ValueError if a setting that views share is out of range."""
    if size < 1:
        raise ValueError(f"size is {size}; it must be at least 1 pixel")
    known = PILLOW if antialias else OPENCV
    if interpolation not in known:
        raise ValueError(
            f"interpolation {interpolation!r} is not one of {sorted(known)} (antialias={antialias})"
        )
    if max_pixels < 1:
        raise ValueError(f"max_pixels is {max_pixels}; it must be at least 1")
