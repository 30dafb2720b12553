"""Samplers of the frames of a clip: pure functions of numbers.

A sampler chooses frames for training (`random`) and for the k-th of K clips of evaluation
(`fixed`). Indices never decrease within a clip, unless a short video is looped.

To add one: a frozen dataclass with the members of `Sampler`, and its line in `SAMPLERS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np

TARGET_FPS = 30.0  # frame rate that the stride of `Dense` refers to


class Sampler(Protocol):
    """Chooses the frames of a clip; its arguments are `frames` and `stride`."""

    def random(
        self, rng: np.random.Generator, num_frames: int, fps: float, key_frame: int | None = None
    ) -> np.ndarray:
        """Frames of a clip for training: int64 (frames,), each below `num_frames`."""

    def fixed(
        self, clip: int, clips: int, num_frames: int, fps: float, key_frame: int | None = None
    ) -> np.ndarray:
        """Frames of clip `clip` of `clips` for evaluation: int64 (frames,)."""


@dataclasses.dataclass(frozen=True)
class Dense:
    """Evenly spaced frames of a window of `frames * stride` frames at 30 fps.

    The window has a fixed duration: at 25 fps it covers 25 / 30 as many frames of the video. The
    distance of the frames is (window - 1) / (frames - 1), rounded down: 4.2, not 4, for 16 x 4 at
    30 fps. A video shorter than the window repeats its last frame.

    Attributes:
      frames: number of frames of a clip.
      stride: frames of a 30 fps video per frame of the clip.

    Source: PySlowFast slowfast/datasets/decoder.py (`USE_OFFSET_SAMPLING`); mae_st
    util/decoder/decoder.py.
    """

    frames: int
    stride: int

    def random(
        self, rng: np.random.Generator, num_frames: int, fps: float, key_frame: int | None = None
    ) -> np.ndarray:
        """See `Sampler`; the start is uniform, also between frames."""
        window, room = self._window(num_frames, fps)
        return _spread(rng.uniform(0, room) if room else 0.0, window, num_frames, self.frames)

    def fixed(
        self, clip: int, clips: int, num_frames: int, fps: float, key_frame: int | None = None
    ) -> np.ndarray:
        """See `Sampler`: one clip from the middle, or several up to the end of the video."""
        window, room = self._window(num_frames, fps)
        first = room // 2 if clips == 1 else clip * (room // (clips - 1))
        return _spread(first, window, num_frames, self.frames)

    def _window(self, num_frames: int, fps: float) -> tuple[float, float]:
        """Length of the window, and its largest start; in frames of the video."""
        window = max(1.0, self.stride * self.frames * fps / TARGET_FPS)
        return window, max(num_frames - window, 0.0)


@dataclasses.dataclass(frozen=True)
class Strided:
    """Every `stride`-th frame at any frame rate; a short video is looped.

    Source: dmvr's processors, which Scenic's ViViT uses.
    """

    frames: int
    stride: int

    def random(
        self, rng: np.random.Generator, num_frames: int, fps: float, key_frame: int | None = None
    ) -> np.ndarray:
        """See `Sampler`."""
        room = max(num_frames - (self.frames - 1) * self.stride, 1)
        return self._from(int(rng.integers(room)) if room > 1 else 0, num_frames)

    def fixed(
        self, clip: int, clips: int, num_frames: int, fps: float, key_frame: int | None = None
    ) -> np.ndarray:
        """See `Sampler`: one clip from the middle, or several evenly spaced ones."""
        room = max(0, num_frames - self.frames * self.stride)
        first = room // 2 if clips == 1 else int(np.linspace(0, room, clips)[clip])
        return self._from(first, num_frames)

    def _from(self, first: int, num_frames: int) -> np.ndarray:
        return (first + self.stride * np.arange(self.frames)) % num_frames


@dataclasses.dataclass(frozen=True)
class Segment:
    """One frame of each of `frames` equal segments of the whole video (Something-Something).

    All clips of evaluation are the same: the middle frame of each segment.

    Source: PySlowFast slowfast/datasets/ssv2.py.
    """

    frames: int
    stride: int = 1

    def __post_init__(self) -> None:
        if self.stride != 1:
            raise ValueError(
                f'stride={self.stride}, but sampling="segment" spreads its frames over the whole '
                "video; set stride to 1"
            )

    def random(
        self, rng: np.random.Generator, num_frames: int, fps: float, key_frame: int | None = None
    ) -> np.ndarray:
        """See `Sampler`; both ends of a segment are included."""
        border = self._borders(num_frames)
        return rng.integers(border[:-1], border[1:], endpoint=True)

    def fixed(
        self, clip: int, clips: int, num_frames: int, fps: float, key_frame: int | None = None
    ) -> np.ndarray:
        """See `Sampler`."""
        border = self._borders(num_frames)
        return (border[:-1] + border[1:]) // 2

    def _borders(self, num_frames: int) -> np.ndarray:
        length = (num_frames - 1) / self.frames
        return np.rint(length * np.arange(self.frames + 1)).astype(np.int64)  # half to even


@dataclasses.dataclass(frozen=True)
class Centred:
    """Every `stride`-th frame at 30 fps around the key frame, which is the frame `frames / 2`.

    At other rates, the frames nearest to these times. Beyond the ends of the video, its first or
    last frame is repeated. All clips of evaluation are the same.

    Source: PySlowFast slowfast/datasets/utils.py `get_sequence`, for AVA.
    """

    frames: int
    stride: int

    def random(
        self, rng: np.random.Generator, num_frames: int, fps: float, key_frame: int | None = None
    ) -> np.ndarray:
        """See `Sampler`; nothing is random."""
        return self.fixed(0, 1, num_frames, fps, key_frame)

    def fixed(
        self, clip: int, clips: int, num_frames: int, fps: float, key_frame: int | None = None
    ) -> np.ndarray:
        """See `Sampler`."""
        assert key_frame is not None, "a dataset without key frames"
        half = self.frames * self.stride // 2
        from_key = np.arange(self.frames) * self.stride - half  # in frames at 30 fps
        indices = key_frame + np.rint(from_key * (fps / TARGET_FPS)).astype(np.int64)
        return indices.clip(0, num_frames - 1)


SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "dense": Dense,
    "segment": Segment,
    "strided": Strided,
    "centred": Centred,
}


def _spread(start: float, window: float, num_frames: int, frames: int) -> np.ndarray:
    """`frames` numbers from `start` to `start + window - 1`, rounded down, clipped to the video.

    Computed in float32 and from both ends to the middle, as in torch.linspace, since rounding
    affects the choice of frames.
    """
    first, last = np.float32(start), np.float32(start + window - 1)
    step = (last - first) / np.float32(max(frames - 1, 1))
    i = np.arange(frames, dtype=np.float32)
    times = np.where(i < frames // 2, first + step * i, last - step * (frames - 1 - i))
    if frames == 1:
        times = times[:1] * 0 + first
    return np.clip(times, 0, num_frames - 1).astype(np.int64)
