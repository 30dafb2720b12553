"""Mixed images and videos, distinguished by their content: a folder, a list or one file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from input_pipeline.datasets.folders import SPLITS, FileTree
from input_pipeline.datasets.video_lists import SUFFIXES, VideoList
from input_pipeline.decode.kinds import read_head, require
from input_pipeline.decode.regular_files import read_regular
from input_pipeline.decode.video import VideoFile
from input_pipeline.paths import local_path
from input_pipeline.source import Example, Source, fingerprint


class MediaFolder(FileTree):
    """Images and videos in a tree. See `FileTree` for the rules."""

    MEDIA = ("image", "video")
    NOUN = "images or videos"

    def read(self, index: int) -> Example:
        """See `open_media`."""
        return Example(open_media(self.name_of(index)), self.label_of(index))


class MediaList(VideoList):
    """Images and videos of a list. See `VideoList` for the rules."""

    LABELS_FROM_ONE = True

    def read(self, index: int) -> Example:
        """See `open_media`; raises BadMedia if the index marks a video as bad."""
        video = super().read(index)
        media = open_media(self.name_of(index))
        return video._replace(data=media) if isinstance(media, bytes) else video


class OneFile:
    """One image or video, without a label; raises ValueError if there is no such file."""

    def __init__(self, path: Path):
        if not path.is_file():
            raise ValueError(f"{path}: no such file or folder")
        self._path = path
        self.num_examples = 1
        self.class_names: tuple[str, ...] | None = None
        self.fingerprint = fingerprint([os.fsencode(path.name)])

    def name_of(self, index: int) -> str:
        """The path of the file."""
        return str(self._path)

    def read(self, index: int) -> Example:
        """See `open_media`."""
        return Example(open_media(str(self._path)), None)


def open_media(name: str) -> bytes | VideoFile:
    """The bytes of an image, or a video that is not opened yet, by the first bytes of the file.

    Raises:
      BadMedia: neither an image nor a video.
      OSError: it cannot be read.
    """
    kind = require(read_head(name), "image", "video")
    return read_regular(name) if kind.media == "image" else VideoFile(name)


def media_source(path: Path, *, root: str | None = None, labelled: bool = True) -> Source:
    """A source of the images and videos of a folder or a list, or of one file.

    Args:
      path: a folder, a list with lines `path` or `path label` (.txt, .csv), an image or a video.
      root: the folder that paths of a list are relative to; None means that of the list.
      labelled: whether folders are classes, see `FileTree`, and labels of a list are read.

    Raises:
      ValueError: no files, an invalid list, or a folder of splits.
      OSError: a folder or a list cannot be read.
    """
    path = local_path(path)
    labels: Literal["auto", "none"] = "auto" if labelled else "none"
    if path.suffix.lower() in SUFFIXES and not path.is_dir():
        return MediaList(path=str(path), root=root, labels=labels)
    if root is not None:
        raise ValueError(f"a root is for lists ({', '.join(SUFFIXES)}); {path} is not a list")
    if not path.is_dir():
        return OneFile(path)
    splits = [name for name in SPLITS if (path / name).is_dir()]
    if splits:
        raise ValueError(
            f"{path} holds {', '.join(splits)}; name one of them, such as {path / splits[0]}"
        )
    return MediaFolder(path=str(path), labels=labels)
