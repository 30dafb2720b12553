"""What `python -m input_pipeline.prepare` found out about the videos of a folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

from input_pipeline.bad_inputs import BadMedia
from input_pipeline.decode.video import VideoFile

NAME = "index.jsonl"


class _Known(NamedTuple):
    status: str
    reason: str
    num_frames: int | None
    fps: float | None


class VideoIndex:
    """Makes videos of paths, with what an index says about them.

    A video that the index calls bad counts as a bad input when it is read, without another try; it
    stays in its dataset, so that no number is ever that of another set of videos.

    Attributes:
      num_bad: videos that the index calls bad.
    """

    def __init__(self, root: str, path: str | None = None):
        """Reads the index.

        Args:
          root: the folder of the videos.
          path: JSON lines; `path` is relative to the root. None means root/index.jsonl, if there.

        Raises:
          ValueError: a line is not one of an index.
          OSError: the file cannot be read.
        """
        self._root = root
        file = Path(root, NAME) if path is None else Path(path).expanduser()
        self._known = _read(file) if path is not None or file.exists() else {}
        self.num_bad = sum(known.status != "ok" for known in self._known.values())

    def video(self, path: str) -> VideoFile:
        """The video at a path, relative to the root; raises BadMedia if the index says so."""
        known = self._known.get(path)
        if known is None:
            return VideoFile(os.path.join(self._root, path))
        if known.status != "ok":
            raise BadMedia(known.status, f"{known.reason} (as the index says)")
        return VideoFile(os.path.join(self._root, path), known.num_frames, known.fps)


def _read(file: Path) -> dict[str, _Known]:
    known = {}
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                values = (entry.get(name) for name in _Known._fields)
                known[os.path.normpath(entry["path"])] = _Known(*values)
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise ValueError(
                    f"{file}, line {number}: expected a JSON object with path, status, num_frames "
                    "and fps; make the index anew with python -m input_pipeline.prepare"
                ) from error
    return known
