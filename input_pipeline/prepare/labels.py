"""Splits and labels of a folder of videos, from its subfolders or from a list."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

from input_pipeline.datasets.class_files import class_lines, read_class_names
from input_pipeline.datasets.folders import SPLITS
from input_pipeline.datasets.video_lists import read_list
from input_pipeline.paths import relative
from input_pipeline.prepare.scan import Line, write_atomically
from input_pipeline.texts import printable

Example = tuple[Line, int | None, str | None]  # line of the index, label, class name


class Split(NamedTuple):
    """The videos of a split."""

    name: str  # such as "train"
    class_names: list[str] | None  # by label; None if there are only numbers, or no labels
    examples: list[Example]  # usable videos, in order
    skipped: list[Line]  # unusable videos: path, status, reason


def splits(folder: Path, lines: list[Line], labels: Path | None, name: str | None) -> list[Split]:
    """The splits of a folder of videos.

    Args:
      folder: of the videos.
      lines: its index, from `scan`.
      labels: a file for `video_lists.read_list`, with paths relative to the folder; None means that
        subfolders are classes, if there are two or more and no videos next to them.
      name: of the split; None means all of train, val, ... that are subfolders, else "train".

    Raises:
      ValueError: no such split, no usable video, or an invalid list.
    """
    if labels is not None:
        return [_listed(folder, labels, lines, name or "train")]
    found = [split for split in SPLITS if (folder / split).is_dir()]
    if name is not None and found:
        if not (folder / name).is_dir():
            raise ValueError(f"{folder} has no split {name!r}; it has {', '.join(found)}")
        found = [name]
    roots = {split: [split] for split in found} or {name or "train": []}
    below = {split: list(_below(root, lines)) for split, root in roots.items()}
    # Classes of all splits together, so that a label has the same meaning in each.
    folders = {folder for members in below.values() for _, folder in members}
    names = sorted(folders) if len(folders) > 1 and "" not in folders else None
    return [
        _split(
            split,
            names,
            [
                (line, names.index(folder), folder) if names else (line, None, None)
                for line, folder in members
            ],
        )
        for split, members in below.items()
    ]


def _below(root: list[str], lines: list[Line]) -> Iterator[tuple[Line, str]]:
    """Lines of a split, each with its subfolder directly below the root; "" for none."""
    for line in lines:
        parts = PurePath(line["path"]).parts
        if list(parts[: len(root)]) == root:
            yield line, "".join(parts[len(root) : -1][:1])


def _split(name: str, class_names: list[str] | None, examples: list[Example]) -> Split:
    usable = [example for example in examples if example[0]["status"] == "ok"]
    if not usable:
        first = "".join(
            f"; the first is {printable(line['path'])} ({line['status']}: {line['reason']})"
            for line, _, _ in examples[:1]
        )
        raise ValueError(f"split {name!r} has no usable video{first}")
    skipped = [
        {key: line[key] for key in ("path", "status", "reason")}
        for line, _, _ in examples
        if line["status"] != "ok"
    ]
    return Split(name, class_names, usable, skipped)


def _listed(folder: Path, labels: Path, lines: list[Line], name: str) -> Split:
    by_path = {line["path"]: line for line in lines}
    missing = dict(status="missing", reason="in the list of labels but not in the folder")
    examples: list[Example] = []
    listed = read_list(labels, str(folder))
    for row, listed_path in enumerate(listed.paths):
        path = relative(listed_path, str(folder))
        label = None if listed.labels is None else int(listed.labels[row])
        examples.append((by_path.get(path, dict(path=path, **missing)), label, None))
    return _split(name, None, examples)


def write_classes(path: Path, found: list[Split]) -> None:
    """Writes the class names, by label, for `read_class_names`; nothing if there are none.

    Raises:
      ValueError: the file exists with other names.
    """
    names = found[0].class_names
    if names is None:
        return
    if path.exists() and read_class_names(path) != tuple(names):
        raise ValueError(
            f"{path} names other classes than the {len(names)} of this conversion, so labels would "
            "differ between splits; choose another OUT"
        )
    write_atomically(path, class_lines(names))
