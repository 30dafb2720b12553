"""Where the key frames of films are: folders of frames, whole files, or clips cut from them."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from input_pipeline.bad_inputs import BadMedia
from input_pipeline.datasets.folders import FilesBelow
from input_pipeline.datasets.video_index import VideoIndex
from input_pipeline.decode.frame_folder import FrameFolder
from input_pipeline.source import LIMITS, Limits, OpenVideo, Video

FRAMES_START = 900.0  # second at which the frames of PySlowFast begin
FRAMES_FPS = 30.0
_CLIP = re.compile(r"(.+)_(\d{6})_(\d{6})")  # film, first and last second


class Piece(NamedTuple):
    """A part of a film."""

    start: float  # second of the film at which it begins
    end: float  # infinity if unknown
    file: str  # of the video; the folder of frames
    frames: Sequence[str] | None = None  # their paths


class Movies:
    """Finds the pieces of films by name.

    A file or a folder of frames has the name of its film. If first and last second follow, as in
    "o3lCwWyyc_s_000012_000022", which is how Kinetics is distributed, it holds these only.
    """

    def __init__(self, names: Iterable[str], start: float | None):
        """Starts without pieces.

        Args:
          names: of the films.
          start: second at which files and frames without seconds in their names begin.
        """
        self._names, self._start = frozenset(names), start
        self._pieces: dict[str, list[Piece]] = {}
        self._frames = self._videos = ""
        self._index: VideoIndex | None = None

    def __contains__(self, name: str) -> bool:
        return name in self._pieces

    def add_frames(self, folder: str, frames: Mapping[str, Sequence[str]]) -> None:
        """Adds the videos of a frame list, whose paths are relative to a folder."""
        self._frames = folder
        for name, paths in frames.items():
            film, start, end = self._place(name)
            if film in self._names:
                start = FRAMES_START if start is None else start
                file = os.path.join(folder, os.path.dirname(paths[0]))
                self._pieces.setdefault(film, []).append(Piece(start, end, file, paths))

    def add_videos(self, folder: str, index: str | None) -> None:
        """Adds the files of films without frames, at any depth of a folder; ignores other files.

        Args:
          folder: the folder.
          index: see `VideoIndex`.

        Raises:
          ValueError: none is there, a film has two files, or it is not known where one begins.
          OSError: a folder cannot be listed.
        """
        if not os.path.isdir(folder):
            raise ValueError(f"videos is {folder}, which is not a folder")
        self._videos, self._index = folder, VideoIndex(folder, index)
        names = self._names - self._pieces.keys()
        whole: dict[str, str] = {}
        files = []
        for file in FilesBelow(folder, ("video",)).walk():
            film, start, end = self._place(os.path.splitext(os.path.basename(file))[0])
            if film not in names:
                continue
            if math.isinf(end) and (other := whole.setdefault(film, file)) != file:
                raise ValueError(f"{folder} holds {other} and {file}; keep one file of each video")
            if start is None:
                raise ValueError(
                    f"start is missing; set it to the second of the film at which files such as "
                    f"{os.path.join(folder, file)} begin: 0 for whole films, 900 if they were cut "
                    "as for PySlowFast"
                )
            files.append(file)
            self._pieces.setdefault(film, []).append(Piece(start, end, file))
        if names and not files:
            raise ValueError(
                f"{folder} holds none of {len(names)} videos, such as {min(names)}.mp4; set "
                "videos to their folder"
            )
        self._index.warn_if_unused(files)

    def _place(self, name: str) -> tuple[str, float | None, float]:
        """Film, first and last second of a file or folder, by its name."""
        if name not in self._names and (match := _CLIP.fullmatch(name)):
            return match[1], float(match[2]), float(match[3])
        return name, self._start, math.inf

    def piece(self, name: str, second: int) -> Piece:
        """The piece of a film that holds a second, in whose middle it is, or next to it."""
        missing = Piece(self._start or 0.0, math.inf, f"{name}.mp4")
        pieces = self._pieces.get(name, [missing])

        def rank(piece: Piece) -> tuple[bool, float]:
            outside = not piece.start <= second <= piece.end
            return outside, abs(second - (piece.start + piece.end) / 2)

        return min(pieces, key=rank)

    def path(self, name: str, second: int) -> str:
        """The file, or the folder of frames, that shows a second of a film."""
        piece = self.piece(name, second)
        return piece.file if piece.frames is not None else os.path.join(self._videos, piece.file)

    def video(self, name: str, second: int) -> Video:
        """The video that shows a second of a film, whose key frame is at that second.

        Raises:
          BadMedia: the index marks the file as bad.
        """
        piece = self.piece(name, second)
        offset = second - piece.start
        if piece.frames is not None:
            key_frame = round(offset * FRAMES_FPS)
            frames = FrameFolder(self._frames, piece.frames, FRAMES_FPS, key_frame)
            return KeyFrameVideo(frames, offset)
        assert self._index is not None
        return KeyFrameVideo(self._index.video(piece.file), offset)


@dataclasses.dataclass(frozen=True)
class KeyFrameVideo:
    """A video with a key frame.

    Attributes:
      video: the whole.
      offset: seconds from its start to the key frame.
    """

    video: Video
    offset: float

    @property
    def stale(self) -> str:
        """See `Video`."""
        return getattr(self.video, "stale", "")

    @contextlib.contextmanager
    def open(self, limits: Limits = LIMITS) -> Iterator[OpenKeyFrameVideo]:
        """Opens the video; raises BadMedia if it has no frame at that time, see `Video.open`."""
        with self.video.open(limits) as video:
            key_frame = round(self.offset * video.fps)
            if not 0 <= key_frame < video.num_frames:
                raise BadMedia(
                    "short",
                    f"{video.num_frames} frames, {video.fps:g} per second, but the key frame is "
                    f"{self.offset:g} s after the first",
                )
            yield OpenKeyFrameVideo(video, key_frame)


class OpenKeyFrameVideo:
    """An open video, a `source.OpenVideo`, and the index of its key frame."""

    def __init__(self, video: OpenVideo, key_frame: int):
        self._video, self.key_frame = video, key_frame
        self.num_frames, self.fps = video.num_frames, video.fps
        self.height, self.width = video.height, video.width

    def frames(self, indices: Sequence[int], short_side: int | None = None) -> np.ndarray:
        """See `OpenVideo.frames`."""
        return self._video.frames(indices, short_side)
