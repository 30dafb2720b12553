"""Datasets of images or videos in a folder tree."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from input_pipeline.bad_inputs import BadMedia
from input_pipeline.datasets.video_index import VideoIndex
from input_pipeline.decode.kinds import ENDINGS, SIDE_FILES, Media, kind_of, read_head
from input_pipeline.decode.regular_files import read_regular
from input_pipeline.label_maps import LabelMaps
from input_pipeline.paths import local_path
from input_pipeline.source import Example, LeftOut, fingerprint
from input_pipeline.texts import printable

SPLITS = ("train", "val", "valid", "validation", "test")


class FileTree:
    """The files of `path/split`, or of `path` without splits; folders are classes, or no labels.

    Files may be at any depth; see `FilesBelow` for which of them are examples. Classes are the
    folders directly below the root in the order of their names, so that class indices equal those
    of torchvision and TFDS; examples are ordered by class, then by path.
    """

    MEDIA: tuple[Media, ...]
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
        root = local_path(path)
        self._root = _split_root(root, split, self.NOUN)
        below = FilesBelow(str(self._root), self.MEDIA)
        folders, files = below.list_folder()
        self.left_out = below.left_out
        if self._root != root:
            beside, loose = FilesBelow(str(root), self.MEDIA).list_folder()
            self.left_out.update(f"folder {name}" for name in beside if name not in SPLITS)
            self.left_out.update(os.path.splitext(name)[1].lower() for name in loose)
        if labels == "auto":
            labels = "folders" if len(folders) > 1 and not files else "none"
        self.class_names: tuple[str, ...] | None = None
        self._labels: np.ndarray | None = None
        if labels == "folders":
            self._files, self._labels = self._list_classes(below, folders, files)
            self.class_names = tuple(folders)
        else:
            in_folders = itertools.chain.from_iterable(map(below.walk, folders))
            self._files = sorted([*files, *in_folders])
        if not self._files:
            others = self.left_out or "it holds no other files either"
            raise ValueError(f"{self._root} holds no {self.NOUN}; {others}")
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

    def _list_classes(
        self, below: FilesBelow, folders: list[str], files: list[str]
    ) -> tuple[list[str], np.ndarray]:
        if files:
            raise ValueError(
                f"{self._root} holds {self.NOUN} next to class folders, such as "
                f'{printable(files[0])}; move them into folders, or use labels="none"'
            )
        if len(folders) < 2:
            raise ValueError(
                f"{self._root} holds {len(folders)} class folders {folders}; labels need at least "
                'two: add one folder for each class, or use labels="none"'
            )
        by_class = [sorted(below.walk(folder)) for folder in folders]
        empty = [folder for folder, paths in zip(folders, by_class, strict=True) if not paths]
        if empty:
            names = ", ".join(map(printable, empty[:5]))
            raise ValueError(
                f"{len(empty)} class folders of {self._root} hold no {self.NOUN}: {names}; "
                'fill or remove them, or use labels="none" '
                f"({self.left_out or 'there are no other files'})"
            )
        labels = np.repeat(np.arange(len(folders), dtype=np.int32), list(map(len, by_class)))
        return list(itertools.chain.from_iterable(by_class)), labels


class ImageFolder(FileTree):
    """Images in a folder tree, labelled by folder or not at all. See `FileTree` for the rules."""

    MEDIA = ("image",)
    NOUN = "images"

    def __init__(
        self,
        split: str = "train",
        *,
        path: str,
        labels: Literal["auto", "folders", "none"] = "auto",
        label_maps: str | None = None,
        map_classes: int = 1000,
    ):
        """Lists the files as `FileTree` does, and reads the first label map.

        Args:
          split: see `FileTree`.
          path: see `FileTree`.
          labels: see `FileTree`.
          label_maps: folder with a label map of each image, see `LabelMaps`; if it has folders of
            splits, that of the split.
          map_classes: number of classes of the label maps.
        """
        super().__init__(split, path=path, labels=labels)
        self.label_maps: LabelMaps | None = None
        if label_maps is not None:
            root = _split_root(local_path(label_maps), split, "label maps", "label_maps")
            self.label_maps = LabelMaps(root, self._files, map_classes)

    def read(self, index: int) -> Example:
        """The bytes of the file; raises OSError if it is unreadable, BadMedia if not a file."""
        return Example(read_regular(self.name_of(index)), self.label_of(index))


class VideoFolder(FileTree):
    """Videos in a folder tree, labelled by folder or not at all. See `FileTree` for the rules."""

    MEDIA = ("video",)
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
        root = local_path(path)
        self._below = self._root.relative_to(root)  # paths in the index start with it
        self._index = VideoIndex(str(root), index)
        self._index.warn_if_unused(str(self._below / file) for file in self._files)

    def read(self, index: int) -> Example:
        """A video, not opened yet; raises BadMedia if the index marks it as bad."""
        return Example(
            self._index.video(str(self._below / self._files[index])), self.label_of(index)
        )


def _split_root(path: Path, split: str, noun: str, key: str = "path") -> Path:
    """The folder of a split; see `FileTree` for the rule, and for `ValueError`."""
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder; set {key} to the root of the {noun}")
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


class FilesBelow:
    """Lists the images or videos below a folder, and counts the other files.

    A usual ending is trusted (`kinds.ENDINGS`, in upper or lower case), so that large folders are
    listed without opening their files. Files with any other ending, or none, are opened, and listed
    if their first bytes are those of an image or a video, except `kinds.SIDE_FILES`. Links are
    followed. Names that start with a dot are skipped.

    Attributes:
      left_out: number of other files so far, by their ending in lower case; "hidden" for names that
        start with a dot (a folder counts as one), "no ending".
    """

    def __init__(self, root: str, media: tuple[Media, ...]):
        self._root, self._media = root, media
        self._endings = {ending for medium in media for ending in ENDINGS[medium]}
        self._others = SIDE_FILES.union(*ENDINGS.values()) - self._endings
        self.left_out = LeftOut()

    def list_folder(self, folder: str = "") -> tuple[list[str], list[str]]:
        """Sorted names of the subfolders and of the images or videos of a folder below the root."""
        folders, files = [], []
        with os.scandir(os.path.join(self._root, folder)) as entries:
            for entry in entries:
                ending = os.path.splitext(entry.name)[1].lower()
                if entry.name.startswith("."):
                    self.left_out["hidden"] += 1
                elif _is_folder(entry):
                    if not (entry.is_symlink() and _leads_up(entry.path)):
                        folders.append(entry.name)
                elif self._is_listed(entry, ending):
                    files.append(entry.name)
                else:
                    self.left_out[ending or "no ending"] += 1
        return sorted(folders), sorted(files)

    def walk(self, folder: str = "") -> Iterator[str]:
        """Paths, relative to the root, of all images or videos below a folder."""
        folders, files = self.list_folder(folder)
        for name in files:
            yield os.path.join(folder, name)
        for name in folders:
            yield from self.walk(os.path.join(folder, name))

    def _is_listed(self, entry: os.DirEntry[str], ending: str) -> bool:
        if ending in self._endings:
            # A dangling link is listed, to be counted as missing; a pipe is not.
            return entry.is_symlink() or entry.is_file()
        if ending in self._others:
            return False
        try:
            kind = kind_of(read_head(entry.path)) if entry.is_file() else None
        except (OSError, BadMedia):
            return False
        return kind is not None and kind.media in self._media


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to where nothing may be read
        return False


def _leads_up(link: str) -> bool:
    """Whether a link to a folder points above a folder on the way to it: an endless recursion."""
    target = os.path.realpath(link)
    return any(
        os.path.commonpath([target, os.path.realpath(folder)]) == target
        for folder in Path(link).parents
    )
