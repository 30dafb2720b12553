"""Base class of views, and access to the frames of images and videos alike."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from input_pipeline.bad_inputs import refuse_larger
from input_pipeline.decode.images import MAX_PIXELS, Picture, open_picture
from input_pipeline.source import Video
from input_pipeline.views.crops import Window
from input_pipeline.views.sampling import SAMPLERS, Sampler

Pixels = Image.Image | np.ndarray  # uint8 RGB, for Pillow or OpenCV

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
    """An open example; an image is a video of one frame."""

    num_frames: int  # of the whole example
    fps: float  # frames per second; without meaning for an image
    # (indices, short side) -> frames, each decoded once even if it is requested repeatedly; the
    # short side applies only to videos, see `OpenVideo.frames`.
    pictures: Callable[[Sequence[int], int | None], list[Picture | Frame]]


@dataclasses.dataclass(frozen=True)
class View(abc.ABC):
    """Turns an example into clips of fixed shape; base of `TrainView` and `EvalView`.

    Attributes:
      size: side of the clip, in pixels.
      frames: number of frames of a clip; 1 for images.
      stride: distance of the frames of a clip in frames of the video, see `sampling`.
      sampling: "dense", "segment" or "strided", see `input_pipeline.views.sampling`.
      max_pixels: larger frames count as bad inputs.
    """

    size: int = 224
    frames: int = 1
    stride: int = 1
    sampling: str = "dense"
    max_pixels: int = MAX_PIXELS

    def check(self, interpolation: str, antialias: bool, counts: Sequence[str]) -> None:
        """Raises ValueError if one of these settings or of `counts` is out of range."""
        if self.size < 1:
            raise ValueError(f"size is {self.size}; it must be at least 1 pixel")
        known = PILLOW if antialias else OPENCV
        if interpolation not in known:
            raise ValueError(
                f"interpolation {interpolation!r} is not one of {sorted(known)} "
                f"(antialias={antialias})"
            )
        for name in ("max_pixels", "frames", "stride", *counts):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    @functools.cached_property
    def sampler(self) -> Sampler:
        """Chooses the frames; raises ValueError for a wrong `sampling` or `stride`."""
        if self.sampling not in SAMPLERS:
            raise ValueError(f"sampling {self.sampling!r} is not one of {', '.join(SAMPLERS)}")
        return SAMPLERS[self.sampling](frames=self.frames, stride=self.stride)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Frames, height, width, channels of a clip."""
        return self.frames, self.size, self.size, 3

    @property
    def reads(self) -> int:
        """Number of times an example is read in a pass, each time for other clips of it."""
        return 1

    @property
    @abc.abstractmethod
    def clips_per_read(self) -> int:
        """Number of clips per read."""

    @abc.abstractmethod
    def __call__(
        self, data: bytes | np.ndarray | Video, rng: np.random.Generator, read: int = 0
    ) -> np.ndarray:
        """The clips of one read: uint8 (clips_per_read, *shape), RGB.

        Args:
          data: an image file, its pixels, or a video.
          rng: random generator of this example.
          read: from 0 to `reads` - 1.

        Raises:
          BadMedia: the file cannot be decoded.
        """


@contextlib.contextmanager
def open_clip(data: bytes | np.ndarray | Video, max_pixels: int) -> Iterator[Clip]:
    """Opens the data of an `Example`.

    Raises:
      BadMedia: not an image or video, or frames of more than `max_pixels`.
      Exception: any other error of the decoder.
    """
    if not isinstance(data, Video):
        picture = open_picture(data, max_pixels)
        yield Clip(1, 1.0, lambda indices, _: [picture for _ in indices])
        return
    with data.open() as video:
        refuse_larger(video.width, video.height, max_pixels)

        def pictures(indices: Sequence[int], short_side: int | None) -> list[Picture | Frame]:
            distinct = sorted(set(indices))
            frames = dict(zip(distinct, video.frames(distinct, short_side), strict=True))
            return [Frame(frames[index]) for index in indices]

        yield Clip(video.num_frames, video.fps, pictures)


def crop(pixels: Pixels, window: Window) -> Pixels:
    """A window of an image."""
    top, left, height, width = window
    if isinstance(pixels, np.ndarray):
        return pixels[top : top + height, left : left + width]
    return pixels.crop((left, top, left + width, top + height))


def resize(pixels: Pixels, height: int, width: int, interpolation: str, antialias: bool) -> Pixels:
    """Scales an image to height x width, with antialiasing as in Pillow or without as in torch.

    `interpolation` is a key of `PILLOW` with antialiasing, of `OPENCV` without.
    """
    if antialias:
        return as_image(pixels).resize((width, height), PILLOW[interpolation])
    return cv2.resize(np.asarray(pixels), (width, height), interpolation=OPENCV[interpolation])


def as_image(pixels: Pixels) -> Image.Image:
    """The pixels as a Pillow image."""
    return pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)


def size_of(pixels: Pixels) -> tuple[int, int]:
    """Height and width."""
    if isinstance(pixels, np.ndarray):
        return pixels.shape[0], pixels.shape[1]
    return pixels.height, pixels.width
