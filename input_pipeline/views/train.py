"""View for training: random clips of fixed shape, uint8.

Flips, normalisation and mixing are done on the device.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from input_pipeline.bad_inputs import media_boundary
from input_pipeline.decode.images import Picture
from input_pipeline.source import Video
from input_pipeline.views import crops
from input_pipeline.views.clips import (
    Cut,
    Frame,
    Pixels,
    View,
    as_image,
    crop,
    open_clip,
    resize,
    resize_and_crop,
    size_of,
)
from input_pipeline.views.color_jitter import ColorJitter
from input_pipeline.views.randaugment import MEAN_COLOUR, Fill, RandAugment


@dataclasses.dataclass(frozen=True)
class TrainView(View):
    """Random frames, a random crop of them, and (fine-tuning) RandAugment and colour jitter.

    All frames of a clip share their random draws. The original implementations flip before
    RandAugment; since its signs are symmetric, flipping afterwards gives the same distribution.

    Attributes:
      size, frames, stride, sampling, max_pixels, max_frames, timeout_seconds: see `View`.
      repeats: number of clips of an example, consecutive in the batch, each with its own
        augmentation.
      new_frames: whether each repeat has frames of its own.
      short_side: shorter side that a video is scaled to while it is decoded, in pixels; None for
        no scaling.
      crop_area: smallest and largest area of the crop, as a fraction of the image.
      crop_ratio: smallest and largest width / height of the crop.
      scale_jitter: instead of `crop_area` and `crop_ratio`: smallest and largest shorter side, its
        inverse uniform between them; then a square of `size` is cropped at random.
      interpolation: "bilinear", "bicubic" or "lanczos".
      antialias: as Pillow resizes; False as torch does by default (original video pipelines).
      rand_augment: timm's notation, such as "rand-m9-mstd0.5-inc1", or "none".
      fill: RGB that RandAugment uses for pixels from outside the image.
      augment_first: RandAugment and jitter on whole frames, before the crop (original video
        pipelines), instead of after it (images).
      color_jitter: strength of brightness, contrast and saturation, after RandAugment; 0 for none.
    """

    repeats: int = 1
    new_frames: bool = False
    short_side: int | None = None
    crop_area: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    scale_jitter: tuple[int, int] | None = None
    interpolation: str = "bicubic"
    antialias: bool = True
    rand_augment: str = "none"
    fill: Fill = MEAN_COLOUR
    augment_first: bool = False
    color_jitter: float = 0.0

    def __post_init__(self):
        self.check(self.interpolation, self.antialias, ("repeats", "short_side"))
        low, high = self.crop_area
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_area is {self.crop_area}; expected 0 < low <= high <= 1")
        low, high = self.crop_ratio
        if not 0 < low <= high:
            raise ValueError(f"crop_ratio is {self.crop_ratio}; expected 0 < low <= high")
        if self.scale_jitter is not None:
            low, high = self.scale_jitter
            if not self.size <= low <= high:
                raise ValueError(
                    f"scale_jitter is {self.scale_jitter}; expected size ({self.size}) <= low <= "
                    "high"
                )
        if self.new_frames and self.repeats == 1:
            raise ValueError(
                "new_frames=True has no effect with repeats=1; set repeats to 2 or more"
            )
        _ = self._augmentations, self.sampler  # made here, so that invalid settings fail early

    @functools.cached_property
    def _augmentations(self) -> list[RandAugment | ColorJitter]:
        augmentations: list[RandAugment | ColorJitter] = []
        if self.rand_augment != "none":
            augmentations.append(RandAugment.parse(self.rand_augment, self.fill))
        if self.color_jitter:
            augmentations.append(ColorJitter(self.color_jitter))
        return augmentations

    @property
    def clips_per_read(self) -> int:
        """The number of repeats."""
        return self.repeats

    def cut(self, data: bytes | np.ndarray | Video, rng: np.random.Generator, read: int = 0) -> Cut:
        """Decodes, crops and augments, see `View`; `read` is 0."""
        with media_boundary(), open_clip(data, self.limits) as clip:
            draws = self.repeats if self.new_frames else 1
            timing = clip.num_frames, clip.fps, clip.key_frame
            chosen = [self.sampler.random(rng, *timing) for _ in range(draws)]
            pictures = clip.pictures(np.concatenate(chosen).tolist(), self.short_side)
            starts = [self.frames * (i % draws) for i in range(self.repeats)]
            decoded = [self._decode(pictures[i : i + self.frames], rng) for i in starts]
        clips = np.empty((self.repeats, *self.shape), np.uint8)
        size, keeps_ratio = self.shape[1:3], self.scale_jitter is not None
        placements = []
        for clip_i, (frames, window_box) in zip(clips, decoded, strict=True):
            finished, box = self._finish(frames, window_box, rng)
            for target, frame in zip(clip_i, finished, strict=True):
                target[:] = np.asarray(frame)
            placements.append(crops.Placement(clip.height, clip.width, box, size, keeps_ratio))
        return Cut(clips, placements)

    def _decode(
        self, pictures: list[Picture | Frame], rng: np.random.Generator
    ) -> tuple[list[Pixels], crops.Box]:
        """Decodes whole frames, or only the crop of each if augmentation comes after it."""
        if self.augment_first or self.scale_jitter:
            return [picture.whole() for picture in pictures], (0.0, 0.0, 1.0, 1.0)
        size = pictures[0].height, pictures[0].width
        window = self._window(rng, *size)
        return [picture.crop(window) for picture in pictures], window.within(*size)

    def _finish(
        self, frames: list[Pixels], box: crops.Box, rng: np.random.Generator
    ) -> tuple[list[Pixels], crops.Box]:
        """Augments, crops and resizes."""
        if self.augment_first:
            frames = self._augment(frames, rng)
        if self.scale_jitter:
            frames, box = self._jitter(frames, rng)
        elif self.augment_first:
            size = size_of(frames[0])
            window = self._window(rng, *size)
            frames, box = [crop(frame, window) for frame in frames], window.within(*size)
        if not self.scale_jitter:
            frames = [self._resize(frame, self.size, self.size) for frame in frames]
        return (frames if self.augment_first else self._augment(frames, rng)), box

    def _window(self, rng: np.random.Generator, height: int, width: int) -> crops.Window:
        return crops.random_resized_crop(rng, height, width, self.crop_area, self.crop_ratio)

    def _jitter(
        self, frames: list[Pixels], rng: np.random.Generator
    ) -> tuple[list[Pixels], crops.Box]:
        assert self.scale_jitter is not None
        height, width, window = crops.jittered_square(
            rng, *size_of(frames[0]), self.scale_jitter, self.size
        )
        settings = height, width, [window], self.interpolation, self.antialias
        cut = [pixels for frame in frames for pixels in resize_and_crop(frame, *settings)]
        return cut, window.within(height, width)

    def _augment(self, frames: list[Pixels], rng: np.random.Generator) -> list[Pixels]:
        if not self._augmentations:
            return frames
        images = [as_image(frame) for frame in frames]
        for augment in self._augmentations:
            images = augment(images, rng)
        return list(images)

    def _resize(self, frame: Pixels, height: int, width: int) -> Pixels:
        return resize(frame, height, width, self.interpolation, self.antialias)
