"""Videos in text lists `path label`, as PySlowFast, mae_st, VideoMAE and mmaction2 write them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from input_pipeline.example import Example, fingerprint
from input_pipeline.video_index import VideoIndex

SUFFIXES = (".csv", ".txt")
MAX_PATH = 4096  # bytes
_SHOWN = 20  # problems and missing files to look at
_SEPARATORS = " ,\t"
_LABEL = re.compile(r"-?[0-9]+")


class Entry(NamedTuple):
    """One line of a list.

    Attributes:
      line: its number, from 1.
      path: as it stands there.
      label: class index; None for none.
    """

    line: int
    path: str
    label: int | None


class VideoList:
    """The videos of a text file with lines `path label`, in that order.

    The label follows the last space, comma or tab, so paths may hold all of these; a path may stand
    in double quotes. Empty lines and lines that start with # do not count. Either all lines end
    with a label or none does. Files that are missing count as bad inputs when they are read.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        path: str,
        root: str | None = None,
        classes: str | int | None = None,
        labels: Literal["auto", "none"] = "auto",
        index: str | None = None,
    ):
        """Reads the list.

        Args:
          split: which list. `path` must say where: one list without a split in its name is "train".
          path: a folder that holds {split}.csv or {split}.txt, or one list, such as
            "lists/k400_{split}_videos.txt", where {split} stands for the split.
          root: the folder that paths are relative to; None means that of the list. Absolute paths
            stand for themselves.
          classes: a text file with the name of each class, one a line, in the order of the labels;
            or their number; None means the largest label + 1, which a small split may lack.
          labels: "none" ignores them.
          index: JSON lines that `input_pipeline.prepare` made of the root; None means
            root/index.jsonl, if it is there.

        Raises:
          ValueError: no such list, wrong lines (the first 20 are named), labels out of range, or
            none of the first 20 files exists.
          OSError: a list cannot be read.
        """
        if labels not in ("auto", "none"):
            raise ValueError(f'labels is {labels!r}; it must be "auto" or "none"')
        file = _find_list(Path(path).expanduser(), split)
        entries = read_list(file)
        self._root = str(file.parent if root is None else Path(root).expanduser())
        self._paths = [os.path.normpath(entry.path) for entry in entries]
        self.class_names: tuple[str, ...] | None = None
        self._labels: np.ndarray | None = None
        if entries[0].label is not None and labels == "auto":
            self.class_names = _class_names(file, entries, classes)
            self._labels = np.array([entry.label for entry in entries], np.int32)
        _check_root(file, self._root, self._paths)
        self._index = VideoIndex(self._root, index)
        self.num_examples = len(entries)
        self.fingerprint = fingerprint(self._identity())

    def name_of(self, index: int) -> str:
        """The path of the file."""
        return os.path.join(self._root, self._paths[index])

    def read(self, index: int) -> Example:
        """A video, not opened yet; raises BadMedia if the index calls it bad."""
        label = None if self._labels is None else int(self._labels[index])
        return Example(self._index.video(self._paths[index]), label)

    def _identity(self) -> Iterator[bytes]:
        for name in self.class_names or ():
            yield os.fsencode(name)
        yield b"files"
        for path in self._paths:
            yield os.fsencode(path)
        yield b"labels" if self._labels is None else self._labels.tobytes()


def read_list(file: Path) -> list[Entry]:
    """Reads lines `path label`, or `path`.

    Args:
      file: UTF-8, with or without a byte order mark, any ends of lines.

    Raises:
      ValueError: empty, or lines are wrong; names the first 20 with what was expected.
      OSError: it cannot be read.
    """
    data = file.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{file} is UTF-16; save it as UTF-8")
    text = data.decode("utf-8-sig", "surrogateescape")
    lines = [
        (number, line.strip(" \t\r"))
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not lines:
        raise ValueError(f"{file} lists nothing; expected lines `path label`")
    labelled = [bool(_LABEL.fullmatch(_split(line)[1])) for _, line in lines]
    has_labels = 2 * sum(labelled) >= len(lines)
    problems: list[str] = []
    entries = []
    for (number, line), ends_with_label in zip(lines, labelled, strict=True):
        path, label = _split(line) if has_labels else (line, None)
        problem = _problem(path, label) if has_labels == ends_with_label else _unlike(line, label)
        if problem:
            problems.append(f"line {number}: {problem}")
        else:
            entries.append(Entry(number, _unquote(path), None if label is None else int(label)))
    raise_problems(file, problems or _contradictions(entries))
    return entries


def raise_problems(file: Path, problems: list[str]) -> None:
    """Raises ValueError with the first 20 problems of a file, if there are any."""
    if problems:
        shown = "\n  ".join(problems[:_SHOWN])
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ValueError(f"{file} has {len(problems)} wrong lines or entries:\n  {shown}{more}")


def _split(line: str) -> tuple[str, str]:
    at = max(line.rfind(separator) for separator in _SEPARATORS)
    return line[: max(at, 0)].rstrip(_SEPARATORS), line[at + 1 :]


def _unquote(path: str) -> str:
    if len(path) > 1 and path[0] == path[-1] == '"':
        return path[1:-1].replace('""', '"')
    return path


def _unlike(line: str, label: str | None) -> str:
    wanted = "a path without a label" if label is None else "`path label` with a whole number"
    return f"expected {wanted}, as in other lines: {line[:80]!r}"


def _problem(path: str, label: str | None) -> str | None:
    if not path:
        return "expected a path before the label"
    if "\0" in path:
        return "there is a NUL byte in the path; save the list as UTF-8 text"
    if len(os.fsencode(path)) > MAX_PATH:
        return f"a path of more than {MAX_PATH} bytes; expected one file a line"
    if label is not None and int(label) < 0:
        return f"label {label}; expected 0 or more"
    if label is not None and re.search(r"[ ,\t]-?[0-9]+$", path):
        return (
            f"expected `path label`, found further numbers: {path[-60:]!r}; lists of frame folders "
            "are not read"
        )
    return None


def _contradictions(entries: list[Entry]) -> list[str]:
    if len({entry.path for entry in entries}) == len(entries):
        return []
    first: dict[str, Entry] = {}
    return [
        f"line {entry.line}: {entry.path} has label {entry.label}, but {before.label} in line "
        f"{before.line}"
        for entry in entries
        if (before := first.setdefault(entry.path, entry)).label != entry.label
    ]


def _find_list(path: Path, split: str) -> Path:
    if path.is_dir():
        files = [path / f"{split}{suffix}" for suffix in SUFFIXES]
        found = [file for file in files if file.is_file()]
        if len(found) != 1:
            names = " or ".join(file.name for file in files)
            raise ValueError(f"{path} holds {len(found) or 'no'} {names}; expected one of them")
        return found[0]
    file = Path(str(path).replace("{split}", split))
    if not file.is_file():
        raise ValueError(f"{file} is not a file; point data.path to a list or a folder of lists")
    if split != "train" and split not in file.name:
        raise ValueError(
            f"{file} is one list, which is the split 'train'; for {split!r}, point data.path to a "
            'folder of lists or write "{split}" in its place'
        )
    return file


def _class_names(file: Path, entries: list[Entry], classes: str | int | None) -> tuple[str, ...]:
    largest = max(entry.label for entry in entries if entry.label is not None)
    if isinstance(classes, str):
        text = Path(classes).expanduser().read_text(encoding="utf-8-sig")
        names = tuple(line.strip() for line in text.splitlines() if line.strip())
    else:
        names = tuple(map(str, range(largest + 1 if classes is None else classes)))
    problems = [
        f"line {entry.line}: label {entry.label}; there are {len(names)} classes, from 0"
        for entry in entries
        if entry.label is not None and entry.label >= len(names)
    ]
    raise_problems(file, problems)
    return names


def _check_root(file: Path, root: str, paths: list[str]) -> None:
    """A wrong root would make a bad input of every video."""
    first = [os.path.join(root, path) for path in paths[:_SHOWN]]
    if not any(map(os.path.exists, first)):
        raise ValueError(
            f"{file}: none of the first {len(first)} files exists, such as {first[0]}; point "
            "data.root to the folder that the paths are relative to"
        )
