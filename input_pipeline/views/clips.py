"""Base class of views, and access to the frames of images and videos alike."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from input_pipeline.bad_inputs import refuse_larger
from input_pipeline.decode.images import Picture, open_picture
from input_pipeline.source import Limits, Video
from input_pipeline.views.crops import Placement, Window
from input_pipeline.views.sampling import SAMPLERS, Sampler

Pixels = Image.Image | np.ndarray  # uint8 RGB, for Pillow or OpenCV

PILLOW = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# Without antialiasing: pixel centres at halves, as torch with align_corners=False.
OPENCV = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}

MAX_RATIO = 32  # of the sides of a picture that is enlarged as a whole
_MARGIN = 4  # pixels around a window that its interpolation may depend on, and one more

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


class Cut(NamedTuple):
    """The clips of one read."""

    video: np.ndarray  # uint8 (clips, frames, height, width, 3)
    placements: list[Placement]  # of each clip in the image


class Clip(NamedTuple):
    """An open example; an image is a video of one frame."""

    num_frames: int  # of the whole example
    fps: float  # frames per second; without meaning for an image
    height: int  # pixels
    width: int
    key_frame: int | None  # see `OpenVideo`
    # (indices, short side) -> frames, each decoded once even if it is requested repeatedly; the
    # short side applies only to videos, see `OpenVideo.frames`, unless it `enlarges_strip`.
    pictures: Callable[[Sequence[int], int | None], list[Picture | Frame]]


@dataclasses.dataclass(frozen=True)
class View(abc.ABC):
    """Turns an example into clips of fixed shape; base of `TrainView` and `EvalView`.

    Attributes:
      size: side of the clip, in pixels.
      frames: number of frames of a clip; 1 for images.
      stride: distance of the frames of a clip in frames of the video, see `sampling`.
      sampling: "dense", "segment", "strided" or "centred", see `input_pipeline.views.sampling`.
      max_pixels: larger images and frames of videos count as bad inputs; None means 64,000,000 of
        an image and 4096 x 4096 of a frame.
      max_frames: longer videos count as bad inputs.
      timeout_seconds: videos whose opening, or the decoding of whose frames, takes longer count as
        bad inputs.
    """

    size: int = 224
    frames: int = 1
    stride: int = 1
    sampling: str = "dense"
    max_pixels: int | None = None
    max_frames: int = Limits.max_frames
    timeout_seconds: float = Limits.timeout_seconds

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
        for name in ("max_pixels", "max_frames", "frames", "stride", *counts):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.timeout_seconds > 0:
            raise ValueError(f"timeout_seconds is {self.timeout_seconds}; it must be above 0")

    @functools.cached_property
    def sampler(self) -> Sampler:
        """Chooses the frames; raises ValueError for a wrong `sampling` or `stride`."""
        if self.sampling not in SAMPLERS:
            raise ValueError(f"sampling {self.sampling!r} is not one of {', '.join(SAMPLERS)}")
        return SAMPLERS[self.sampling](frames=self.frames, stride=self.stride)

    @property
    def limits(self) -> Limits:
        """Limits of the files of examples."""
        return Limits(self.max_pixels, self.max_frames, self.timeout_seconds)

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

    def __call__(
        self, data: bytes | np.ndarray | Video, rng: np.random.Generator, read: int = 0
    ) -> np.ndarray:
        """The clips of one read: uint8 (clips_per_read, *shape), RGB; see `cut`."""
        return self.cut(data, rng, read).video

    @abc.abstractmethod
    def cut(self, data: bytes | np.ndarray | Video, rng: np.random.Generator, read: int = 0) -> Cut:
        """The clips of one read, and where they lie.

        Args:
          data: an image file, its pixels, or a video.
          rng: random generator of this example.
          read: from 0 to `reads` - 1.

        Raises:
          BadMedia: the file cannot be decoded.
        """


@contextlib.contextmanager
def open_clip(data: bytes | np.ndarray | Video, limits: Limits) -> Iterator[Clip]:
    """Opens the data of an `Example`.

    Raises:
      BadMedia: not an image or video, or beyond the limits.
      Exception: any other error of the decoder.
    """
    if isinstance(data, bytes | np.ndarray):
        picture = open_picture(data, limits.image_pixels)
        size = picture.height, picture.width
        yield Clip(1, 1.0, *size, None, lambda indices, _: [picture for _ in indices])
        return
    with data.open(limits) as video:
        refuse_larger(video.width, video.height, limits.frame_pixels)

        def pictures(indices: Sequence[int], short_side: int | None) -> list[Picture | Frame]:
            if short_side is not None and enlarges_strip(video.height, video.width, short_side):
                short_side = None
            distinct = sorted(set(indices))
            frames = dict(zip(distinct, video.frames(distinct, short_side), strict=True))
            return [Frame(frames[index]) for index in indices]

        key_frame = getattr(video, "key_frame", None)
        yield Clip(video.num_frames, video.fps, video.height, video.width, key_frame, pictures)


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


def resize_and_crop(
    pixels: Pixels,
    height: int,
    width: int,
    windows: Sequence[Window],
    interpolation: str,
    antialias: bool,
) -> list[Pixels]:
    """Windows of the image scaled to height x width, see `resize`."""
    if size_of(pixels) == (height, width):
        return [crop(pixels, window) for window in windows]
    if enlarges_strip(*size_of(pixels), min(height, width)):
        return [_enlarge(pixels, height, width, window, interpolation) for window in windows]
    resized = resize(pixels, height, width, interpolation, antialias)
    return [crop(resized, window) for window in windows]


def enlarges_strip(height: int, width: int, short_side: int) -> bool:
    """Whether scaling the shorter side makes a picture of extreme shape larger.

    The whole could be millions of times larger than the square that is cropped from it.
    """
    return max(height, width) > MAX_RATIO * min(height, width) and min(height, width) < short_side


def _enlarge(pixels: Pixels, height: int, width: int, window: Window, interpolation: str) -> Pixels:
    """One window of an enlarged image, without the rest; pixels differ by rounding.

    Antialiasing has no effect when an image is enlarged.
    """
    rows, columns = size_of(pixels)
    y, x = rows / height, columns / width  # pixels of the image per pixel of the result
    top, bottom = window.top * y, min((window.top + window.height) * y, rows)
    left, right = window.left * x, min((window.left + window.width) * x, columns)
    first_row, first_column = max(0, int(top) - _MARGIN), max(0, int(left) - _MARGIN)
    last_row = min(rows, math.ceil(bottom) + _MARGIN)
    last_column = min(columns, math.ceil(right) + _MARGIN)
    near = Window(first_row, first_column, last_row - first_row, last_column - first_column)
    return as_image(crop(pixels, near)).resize(
        (window.width, window.height),
        PILLOW[interpolation],
        box=(left - first_column, top - first_row, right - first_column, bottom - first_row),
    )


def as_image(pixels: Pixels) -> Image.Image:
    """The pixels as a Pillow image."""
    return pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)


def size_of(pixels: Pixels) -> tuple[int, int]:
    """Height and width."""
    if isinstance(pixels, np.ndarray):
        return pixels.shape[0], pixels.shape[1]
    return pixels.height, pixels.width
