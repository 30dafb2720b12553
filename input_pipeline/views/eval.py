"""View for evaluation: deterministic clips of fixed shape, uint8."""

from __future__ import annotations

import dataclasses

import numpy as np

from input_pipeline.bad_inputs import BadMedia, media_boundary
from input_pipeline.source import Video
from input_pipeline.views import crops
from input_pipeline.views.clips import Cut, View, open_clip, resize_and_crop, size_of


@dataclasses.dataclass(frozen=True)
class EvalView(View):
    """Fixed frames, the shorter side resized to `resize`, then square crops.

    Attributes:
      size, frames, stride, sampling, max_pixels, max_frames, timeout_seconds: see `View`.
      resize: shorter side before the crop, in pixels; None means size / 0.875, rounded down. A
        video is scaled while it is decoded.
      clips: number of clips of each example, spread over its duration.
      crops: number of crops of each clip: 1 (centre) or 3 (start, centre, end of the longer side).
      full_frame: the whole frame instead of a crop, its shorter side `resize`; only for datasets
        with boxes.
      interpolation: of images: "bilinear", "bicubic" or "lanczos", antialiased, as Pillow resizes.
    """

    resize: int | None = None
    clips: int = 1
    crops: int = 1
    interpolation: str = "bicubic"
    full_frame: bool = False

    def __post_init__(self):
        self.check(self.interpolation, True, ("clips",))
        if self.resize is not None and self.resize < self.size:
            raise ValueError(
                f"resize={self.resize} is less than the {self.size} pixels of the crop; "
                "it must be at least size"
            )
        if self.crops not in (1, 3):
            raise ValueError(f"crops is {self.crops}; it must be 1 or 3")
        if self.full_frame and self.sampling != "centred":
            raise ValueError(
                'full_frame=True needs sampling="centred": only boxes need whole frames'
            )
        if self.sampling == "centred" and self.clips * self.crops > 1:
            raise ValueError(
                f"clips={self.clips}, crops={self.crops}: expected 1 of each with "
                'sampling="centred", as boxes of a key frame are scored in one view'
            )
        _ = self.sampler  # made here, so that an invalid setting fails immediately

    @property
    def reads(self) -> int:
        """One read per clip."""
        return self.clips

    @property
    def clips_per_read(self) -> int:
        """The number of crops."""
        return self.crops

    @property
    def short_side(self) -> int:
        """Shorter side before the crop, in pixels."""
        return int(self.size / 0.875) if self.resize is None else self.resize

    def windows(self, height: int, width: int) -> list[crops.Window]:
        """The crops of a scaled frame."""
        # torchvision rounds half pixels of the centre differently from PySlowFast's video crops.
        if self.frames == 1 and self.crops == 1:
            return [crops.centre(height, width, self.size)]
        return crops.along_longer_side(height, width, self.size, self.crops)

    def cut(self, data: bytes | np.ndarray | Video, rng: np.random.Generator, read: int = 0) -> Cut:
        """Decodes, resizes and crops, see `View`; `rng` is not used."""
        with media_boundary(), open_clip(data, self.limits) as clip:
            chosen = self.sampler.fixed(read, self.clips, clip.num_frames, clip.fps, clip.key_frame)
            frames = [p.whole() for p in clip.pictures(chosen.tolist(), self.short_side)]
        height, width = crops.short_side(*size_of(frames[0]), self.short_side)
        windows = self.windows(height, width)
        clips = np.empty((self.crops, *self.shape), np.uint8)
        for position, frame in enumerate(frames):
            cut = resize_and_crop(frame, height, width, windows, self.interpolation, True)
            for out, pixels in zip(clips, cut, strict=True):
                out[position] = np.asarray(pixels)
        boxes = [window.within(height, width) for window in windows]
        size = self.shape[1:3]
        return Cut(
            clips, [crops.Placement(clip.height, clip.width, box, size, True) for box in boxes]
        )


@dataclasses.dataclass(frozen=True)
class FrameView(EvalView):
    """Whole frames that have one shape when they are scaled.

    Attributes:
      frame: height and width of the scaled frames, in pixels.
    """

    frame: tuple[int, int] = (0, 0)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """See `View`."""
        return self.frames, *self.frame, 3

    def windows(self, height: int, width: int) -> list[crops.Window]:
        """See `EvalView`; BadMedia if the frame has another shape."""
        if (height, width) != self.frame:
            raise BadMedia(
                "decode_error",
                f"scaled frames of {height}x{width} pixels, but the first that could be read when "
                "the shapes were looked up has {}x{}".format(*self.frame),
            )
        return [crops.Window(0, 0, height, width)]
