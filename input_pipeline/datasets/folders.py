"""Datasets of images or videos in a folder tree."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from input_pipeline.datasets.video_index import VideoIndex
from input_pipeline.decode import video
from input_pipeline.decode.regular_files import read_regular
from input_pipeline.source import Example, fingerprint

SPLITS = ("train", "val", "valid", "validation", "test")


class FileTree:
    """The files of `path/split`, or of `path` without splits; folders are classes, or no labels.

    Files may be at any depth; links are followed; names that start with a dot are skipped. Classes
    are the folders directly below the root in the order of their names, so that class indices equal
    those of torchvision and TFDS; examples are ordered by class, then by path.
    """

    EXTENSIONS: tuple[str, ...]  # of file names, in lower case; names may have any case
    NOUN: str  # kind of the files, for messages

    def __init__(
        self,
        split: str = "train",
        *,
        path: str,
        labels: Literal["auto", "folders", "none"] = "auto",
    ):
        """Lists the files.

        Args:
          split: the folder of `path` to read. If `path` has none of the usual ones (train, val,
            valid, validation, test), all of it is the "train" split, and there is no other.
          path: root of the tree.
          labels: "folders": each folder directly below the root is a class; "none": no labels;
            "auto": "folders" if the root has two or more folders and no files, else "none".

        Raises:
          ValueError: no such folder or split, no files, or folders that cannot be classes.
          OSError: a folder cannot be listed.
        """
        if labels not in ("auto", "folders", "none"):
            raise ValueError(f'labels is {labels!r}; it must be "auto", "folders" or "none"')
        self._root = _split_root(Path(path).expanduser(), split, self.NOUN)
        folders, files = _list_folder(str(self._root), self.EXTENSIONS)
        if labels == "auto":
            labels = "folders" if len(folders) > 1 and not files else "none"
        self.class_names: tuple[str, ...] | None = None
        self._labels: np.ndarray | None = None
        if labels == "folders":
            self._files, self._labels = self._list_classes(folders, files)
            self.class_names = tuple(folders)
        else:
            self._files = sorted(walk(str(self._root), "", self.EXTENSIONS))
        if not self._files:
            raise ValueError(f"{self._root} holds no {self.NOUN} ({', '.join(self.EXTENSIONS)})")
        self.num_examples = len(self._files)
        # With classes, the first folder of the name is the label.
        self.fingerprint = fingerprint(
            map(os.fsencode, [*(self.class_names or ()), "files", *self._files])
        )

    def name_of(self, index: int) -> str:
        """The path of the file."""
        return os.path.join(self._root, self._files[index])

    def label_of(self, index: int) -> int | None:
        """Class index; None without labels."""
        return None if self._labels is None else int(self._labels[index])

    def _list_classes(self, folders: list[str], files: list[str]) -> tuple[list[str], np.ndarray]:
        if files:
            raise ValueError(
                f"{self._root} holds {self.NOUN} next to class folders, such as {files[0]}; "
                'move them into folders, or use labels="none"'
            )
        if len(folders) < 2:
            raise ValueError(
                f"{self._root} holds {len(folders)} class folders {folders}; labels need at least "
                'two: add one folder for each class, or use labels="none"'
            )
        by_class = [sorted(walk(str(self._root), folder, self.EXTENSIONS)) for folder in folders]
        empty = [folder for folder, names in zip(folders, by_class, strict=True) if not names]
        if empty:
            raise ValueError(
                f"{len(empty)} class folders of {self._root} hold no {self.NOUN}: "
                f'{", ".join(empty[:5])}; fill or remove them, or use labels="none"'
            )
        labels = np.repeat(np.arange(len(folders), dtype=np.int32), list(map(len, by_class)))
        return list(itertools.chain.from_iterable(by_class)), labels


class ImageFolder(FileTree):
    """Images (.jpg, .jpeg, .png, .webp) in a folder tree, labelled by folder or not at all."""

    EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
    NOUN = "images"

    def read(self, index: int) -> Example:
        """The bytes of the file; raises OSError if it is unreadable, BadMedia if not a file."""
        return Example(read_regular(self.name_of(index)), self.label_of(index))


class VideoFolder(FileTree):
    """Videos in a folder tree, labelled by folder or not at all. See `FileTree` for the rules.

    Files end in .mp4, .mov, .mkv, .webm or .avi, in upper or lower case.
    """

    EXTENSIONS = video.EXTENSIONS
    NOUN = "videos"

    def __init__(
        self,
        split: str = "train",
        *,
        path: str,
        labels: Literal["auto", "folders", "none"] = "auto",
        index: str | None = None,
    ):
        """Lists the files as `FileTree` does, and reads the index.

        Args:
          split: see `FileTree`.
          path: see `FileTree`.
          labels: see `FileTree`.
          index: JSON lines that `input_pipeline.prepare` wrote for `path`; None means
            path/index.jsonl, if it exists.
        """
        super().__init__(split, path=path, labels=labels)
        root = Path(path).expanduser()
        self._below = self._root.relative_to(root)  # paths in the index start with it
        self._index = VideoIndex(str(root), index)

    def read(self, index: int) -> Example:
        """A video, not opened yet; raises BadMedia if the index marks it as bad."""
        return Example(
            self._index.video(str(self._below / self._files[index])), self.label_of(index)
        )


def _split_root(path: Path, split: str, noun: str) -> Path:
    """The folder of a split; see `FileTree` for the rule, and for `ValueError`."""
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder; set data.path to the root of the {noun}")
    if (path / split).is_dir():
        return path / split
    found = [name for name in SPLITS if (path / name).is_dir()]
    if found:
        raise ValueError(f"{path} has no split {split!r}; it has {', '.join(found)}")
    if split != "train":
        raise ValueError(
            f"{path} has no folder {split!r} and no other split, so all of it is {SPLITS[0]!r}; "
            f"put the {noun} of split {split!r} into {path / split}"
        )
    return path


def _list_folder(folder: str, extensions: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Sorted names of the subfolders and of the media files of a folder."""
    folders, files = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if not (entry.is_symlink() and _leads_up(entry.path)):
                    folders.append(entry.name)
            elif entry.name.lower().endswith(extensions) and (
                # A dangling link is listed, to be counted as missing; a pipe is not.
                entry.is_file() or entry.is_symlink()
            ):
                files.append(entry.name)
    return sorted(folders), sorted(files)


def _leads_up(link: str) -> bool:
    """Whether a link to a folder points to one that contains the link: an endless recursion."""
    target = os.path.realpath(link)
    return os.path.commonpath([target, os.path.realpath(os.path.dirname(link))]) == target


def walk(root: str, folder: str, extensions: tuple[str, ...]) -> Iterator[str]:
    """Paths, relative to the root, of all media files below a folder."""
    folders, files = _list_folder(os.path.join(root, folder), extensions)
    for name in files:
        yield os.path.join(folder, name)
    for name in folders:
        yield from walk(root, os.path.join(folder, name), extensions)
