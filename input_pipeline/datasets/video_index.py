"""Lookup of videos in the index that `python -m input_pipeline.prepare` writes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from input_pipeline.bad_inputs import BadMedia
from input_pipeline.decode.video import VideoFile
from input_pipeline.source import Example, fingerprint

NAME = "index.jsonl"


class VideoIndex:
    """Maps paths to videos, with number of frames and frame rate from the index.

    A video that the index marks as bad counts as a bad input when it is read, without being opened;
    it stays in its dataset, so that results never refer to another set of videos.
    """

    def __init__(self, root: str, path: str | None = None):
        """Reads an index, JSON lines; None means root/index.jsonl, if it exists.

        Raises:
          ValueError: a line is not an entry of an index.
          OSError: the file cannot be read.
        """
        self._root = root
        file = Path(root, NAME) if path is None else Path(path).expanduser()
        self._known = _read(file) if path is not None or file.exists() else {}

    def video(self, path: str) -> VideoFile:
        """The video at a path below the root; raises BadMedia if the index marks it as bad."""
        status, reason, num_frames, fps = self._known.get(path, ("ok", "", None, None))
        if status != "ok":
            raise BadMedia(status, f"{reason} (according to the index)")
        return VideoFile(os.path.join(self._root, path), num_frames, fps)


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
        names = [*(class_names or ()), "files", *(files if identities is None else identities)]
        encoded = b"labels" if self._labels is None else self._labels.tobytes()
        self.fingerprint = fingerprint([*map(os.fsencode, names), encoded])

    def name_of(self, index: int) -> str:
        """The path of the file."""
        return os.path.join(self._root, self._files[index])

    def read(self, index: int) -> Example:
        """A video, not opened yet; raises BadMedia if the index marks it as bad."""
        label = None if self._labels is None else int(self._labels[index])
        return Example(self._index.video(self._files[index]), label)


def _read(file: Path) -> dict[str, tuple]:
    """Status, reason, number of frames and frames per second, by path."""
    known = {}
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                values = (entry.get(name) for name in ("status", "reason", "num_frames", "fps"))
                known[os.path.normpath(entry["path"])] = tuple(values)
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise ValueError(
                    f"{file}, line {number}: expected a JSON object with path, status, num_frames "
                    "and fps; delete it and run python -m input_pipeline.prepare again"
                ) from error
    return known
