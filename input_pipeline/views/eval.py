"""What the network gets to see of an example in evaluation: fixed clips of fixed shape, uint8."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from input_pipeline.bad_inputs import media_boundary
from input_pipeline.decode.images import MAX_PIXELS
from input_pipeline.source import Video
from input_pipeline.views import crops
from input_pipeline.views.clips import check_size, crop, open_clip, resize, size_of
from input_pipeline.views.sampling import Sampler, make_sampler


@dataclasses.dataclass(frozen=True)
class EvalView:
    """Fixed frames, the shorter side resized to `resize`, then squares of the result.

    Attributes:
      size: side of the clip, in pixels.
      resize: shorter side before the crop, in pixels; None means size / 0.875, rounded down. A
        video is scaled while it is decoded.
      frames: of a clip; 1 for images.
      stride: frames from one frame of the clip to the next, see `sampling`.
      sampling: which frames: "dense", "segment" or "strided", see `input_pipeline.views.sampling`.
      clips: of each example, spread over its time.
      crops: of each clip: 1 in the middle; 3 along the longer side: start, middle, end.
      interpolation: of images: "bilinear", "bicubic" or "lanczos", antialiased, as Pillow resizes.
      max_pixels: larger frames count as bad inputs.
    """

    size: int = 224
    resize: int | None = None
    frames: int = 1
    stride: int = 1
    sampling: str = "dense"
    clips: int = 1
    crops: int = 1
    interpolation: str = "bicubic"
    max_pixels: int = MAX_PIXELS

    def __post_init__(self):
        """Checks the settings."""
        check_size(self.size, self.interpolation, True, self.max_pixels)
        if self.resize is not None and self.resize < self.size:
            raise ValueError(
                f"resize={self.resize} leaves less than the {self.size} pixels of the crop; "
                "it must be at least size"
            )
        for name in ("frames", "stride", "clips"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.crops not in (1, 3):
            raise ValueError(f"crops is {self.crops}; it must be 1 or 3")
        _ = self._sampler  # made here, so that a bad setting fails at once

    @functools.cached_property
    def _sampler(self) -> Sampler:
        return make_sampler(self.sampling, self.frames, self.stride)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Frames, height, width, channels of a clip."""
        return self.frames, self.size, self.size, 3

    @property
    def reads(self) -> int:
        """How many times an example is read in a pass."""
        return self.clips

    @property
    def clips_per_read(self) -> int:
        """Clips that come of one reading."""
        return self.crops

    def __call__(
        self, data: bytes | np.ndarray | Video, rng: np.random.Generator, read: int = 0
    ) -> np.ndarray:
        """Decodes, resizes and crops: uint8 (crops, *shape), RGB.

        Args:
          data: an image file, its pixels, or a video.
          rng: not used; views share one signature.
          read: which of the `clips`.

        Raises:
          BadMedia: the file cannot be decoded.
        """
        short_side = int(self.size / 0.875) if self.resize is None else self.resize
        with media_boundary(), open_clip(data, self.max_pixels) as clip:
            chosen = self._sampler.fixed(read, self.clips, clip.num_frames, clip.fps)
            frames = [p.whole() for p in clip.pictures(chosen.tolist(), short_side)]
        height, width = crops.short_side(*size_of(frames[0]), short_side)
        if size_of(frames[0]) != (height, width):
            frames = [resize(f, height, width, self.interpolation, True) for f in frames]
        # torchvision rounds half pixels of the middle otherwise than PySlowFast does for videos.
        if self.frames == 1 and self.crops == 1:
            windows = [crops.centre(height, width, self.size)]
        else:
            windows = crops.along_longer_side(height, width, self.size, self.crops)
        return np.stack([[np.asarray(crop(frame, w)) for frame in frames] for w in windows])
