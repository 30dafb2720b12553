"""Videos whose frames are image files, such as FFmpeg writes of a film."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence

import numpy as np

from input_pipeline.bad_inputs import BadMedia, media_boundary
from input_pipeline.decode.images import Picture, decoded_alone, open_picture
from input_pipeline.decode.regular_files import read_regular
from input_pipeline.source import LIMITS, Limits


@dataclasses.dataclass(frozen=True)
class FrameFolder:
    """The image files of a video in their order; only the requested ones are read.

    Attributes:
      folder: that paths are relative to.
      files: paths, one for each frame.
      fps: frames per second.
      sized_by: index of the frame whose size all others must have; it is read on opening.
    """

    folder: str
    files: Sequence[str]
    fps: float
    sized_by: int = 0

    @contextlib.contextmanager
    def open(self, limits: Limits = LIMITS) -> Iterator[OpenFrameFolder]:
        """Reads the header of one frame; see `Video.open`."""
        count = len(self.files)
        if count > limits.max_frames:
            raise BadMedia(
                "too_large", f"{count} frames, the limit is {limits.max_frames} (max_frames)"
            )
        if not 0 <= self.sized_by < count:
            raise BadMedia("short", f"{count} frames, no frame {self.sized_by}")
        yield OpenFrameFolder(self, limits)


class OpenFrameFolder:
    """The frames of a folder, a `source.OpenVideo`."""

    def __init__(self, video: FrameFolder, limits: Limits):
        self._video, self._limits = video, limits
        self.num_frames, self.fps = len(video.files), video.fps
        self._picture = self._open(video.sized_by)
        self.height, self.width = self._picture.height, self._picture.width

    def frames(self, indices: Sequence[int], short_side: int | None = None) -> np.ndarray:
        """See `OpenVideo.frames`: pixels equal Pillow's; scaled down by area, up bicubic.

        Raises:
          ValueError: there is no such frame.
          BadMedia: a file is missing, damaged, or of another size; the message names it.
        """
        return decoded_alone(self._decode, indices, (self.height, self.width), short_side)

    def _decode(self, index: int) -> np.ndarray:
        if not 0 <= index < self.num_frames:
            raise ValueError(f"frame {index} of a video of {self.num_frames}")
        picture = self._picture if index == self._video.sized_by else self._open(index)
        if (picture.height, picture.width) != (self.height, self.width):
            raise BadMedia(
                "decode_error",
                f"{self._video.files[index]} has {picture.width}x{picture.height} pixels, "
                f"{self._video.files[self._video.sized_by]} has {self.width}x{self.height}",
            )
        with self._naming(index):
            return np.asarray(picture.whole())

    def _open(self, index: int) -> Picture:
        with self._naming(index):
            file = os.path.join(self._video.folder, self._video.files[index])
            return open_picture(read_regular(file), self._limits.frame_pixels)

    @contextlib.contextmanager
    def _naming(self, index: int) -> Iterator[None]:
        """Names the file of a frame that cannot be used: the example has many."""
        try:
            with media_boundary():
                yield
        except BadMedia as bad:
            raise BadMedia(bad.kind, f"{self._video.files[index]}: {bad.reason}") from bad
