"""Lookup of videos in the index that `python -m input_pipeline.prepare` writes."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from input_pipeline.bad_inputs import BadMedia
from input_pipeline.decode.video import VideoFile
from input_pipeline.paths import local_path, relative
from input_pipeline.source import Example, fingerprint
from input_pipeline.texts import as_name, name_bytes, printable

NAME = "index.jsonl"
_KEYS = ("status", "reason", "num_frames", "fps", "bytes", "mtime_ns")


@dataclasses.dataclass(frozen=True)
class StaleVideo(VideoFile):
    """A video whose file is not the one in the index, so that nothing is known about it."""

    stale: str = ""  # what differs


class VideoIndex:
    """Maps paths to videos, with number of frames and frame rate from the index.

    A video that the index marks as bad counts as a bad input when it is read, without being opened;
    it stays in its dataset, so that results never refer to another set of videos. An entry only
    counts while the file has the size and the time of modification in it.
    """

    def __init__(self, root: str, path: str | None = None):
        """Reads an index, JSON lines; None means root/index.jsonl, if it exists.

        Raises:
          ValueError: a line is not an entry of an index.
          OSError: the file cannot be read.
        """
        self._root = root
        self._file = Path(root, NAME) if path is None else local_path(path)
        self._known = _read(self._file) if path is not None or self._file.exists() else {}

    def warn_if_unused(self, paths: Iterable[str]) -> None:
        """Warns if it contains none of the videos: it is that of another folder."""
        if self._known and self._known.keys().isdisjoint(
            relative(path, self._root) for path in paths
        ):
            warnings.warn(
                f"{self._file} holds none of these videos, so it is not used; its paths must be "
                f"relative to {self._root}, but are such as {printable(next(iter(self._known)))}",
                RuntimeWarning,
                stacklevel=3,
            )

    def video(self, path: str) -> VideoFile:
        """The video at a path from the root, or an absolute one.

        It is a `StaleVideo` if the file was replaced since it was indexed.

        Raises:
          BadMedia: the index marks it as bad.
        """
        file, key = os.path.join(self._root, path), relative(path, self._root)
        if key not in self._known:
            return VideoFile(file)
        status, reason, num_frames, fps, *facts = self._known[key]
        if difference := difference_to_file(file, *facts):
            return StaleVideo(
                file, stale=f"{difference}; run python -m input_pipeline.prepare again"
            )
        if status != "ok":
            raise BadMedia(status, f"{reason} (according to the index)")
        return VideoFile(file, num_frames, fps)


def difference_to_file(file: str, num_bytes: int | None, mtime_ns: int | None) -> str:
    """What shows that a file is not the one that was indexed; empty if it is, or is missing now.

    Args:
      file: path of the file.
      num_bytes: size of the file that was indexed; None if it could not be read.
      mtime_ns: its time of modification. Archives keep whole seconds, so the rest counts only if
        both times have one.
    """
    try:
        found = os.stat(file)
    except OSError:
        return ""
    if num_bytes is None or mtime_ns is None:
        return "the file could not be read when it was indexed"
    if found.st_size != num_bytes:
        return f"the file has {found.st_size} bytes, but had {num_bytes} when it was indexed"
    seconds, indexed = (divmod(time, 10**9) for time in (found.st_mtime_ns, mtime_ns))
    if seconds[0] != indexed[0] or (seconds[1] != indexed[1] and seconds[1] and indexed[1]):
        return "the file was modified after it was indexed, by its time of modification"
    return ""


class ListedVideos:
    """The videos of a list, in its order; base of `VideoList` and `Ssv2`."""

    def __init__(
        self,
        root: str,
        files: list[str],
        labels: np.ndarray | None,
        class_names: tuple[str, ...] | None,
        index: str | None,
        identities: Iterable[str] | None = None,
    ):
        """Reads the index as `VideoIndex` does.

        Args:
          root: the folder that files are relative to.
          files: their paths.
          labels: integers (files,), class indices; None for none.
          class_names: by class index; None without labels.
          index: see `VideoIndex`.
          identities: names of the files in the fingerprint; None means their paths.
        """
        self._root, self._files = root, files
        self._labels = None if labels is None else labels.astype(np.int32)
        self.class_names, self.num_examples = class_names, len(files)
        self._index = VideoIndex(root, index)
        self._index.warn_if_unused(files)
        names = [*(class_names or ()), "files", *(files if identities is None else identities)]
        encoded = b"labels" if self._labels is None else self._labels.tobytes()
        self.fingerprint = fingerprint([*map(name_bytes, names), encoded])

    def name_of(self, index: int) -> str:
        """The path of the file."""
        return os.path.join(self._root, self._files[index])

    def read(self, index: int) -> Example:
        """A video, not opened yet; raises BadMedia if the index marks it as bad.

        See `VideoIndex.video`.
        """
        label = None if self._labels is None else int(self._labels[index])
        return Example(self._index.video(self._files[index]), label)


def _read(file: Path) -> dict[str, tuple]:
    """The values of `_KEYS`, by path."""
    known = {}
    with file.open(encoding="utf-8", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                known[os.path.normpath(as_name(entry["path"]))] = tuple(entry[k] for k in _KEYS)
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise ValueError(
                    f"{file}, line {number}: expected a JSON object with path, {', '.join(_KEYS)}; "
                    "run python -m input_pipeline.prepare again; if that refuses it, delete it"
                ) from error
    return known
