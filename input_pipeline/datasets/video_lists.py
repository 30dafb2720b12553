"""Text lists of videos, `path label`, as PySlowFast, mae_st, VideoMAE and mmaction2 write them."""

from __future__ import annotations

import array
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from input_pipeline.datasets.video_index import ListedVideos

SUFFIXES = (".csv", ".txt")
MAX_PATH = 4096  # characters
_FIRST = 20  # problems in a message; also the files whose existence is checked
_SEPARATORS = " ,\t"
_LABEL = re.compile(r"-?[0-9]{1,9}")
_NO_LABEL = -(2**62)
_NUMBER_AT_END = re.compile(r"[ ,\t]-?[0-9]+$")


class Listed(NamedTuple):
    """Contents of a list."""

    paths: list[str]  # as written
    labels: np.ndarray | None  # int64 (paths,), class indices; None without labels
    lines: np.ndarray  # int64 (paths,), line numbers from 1


class VideoList(ListedVideos):
    """The videos of a text file with lines `path label`, in that order.

    The label follows the last space, comma or tab, so paths may contain all of these; a path may be
    in double quotes. Empty lines and lines that start with # are ignored. Either all lines end
    with a label or none does. Missing files count as bad inputs when they are read.
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
          split: which list to read; a single list without a split in its name is "train".
          path: a folder that contains {split}.csv or {split}.txt, or one list, such as
            "lists/k400_{split}_videos.txt", where {split} is replaced by the split.
          root: the folder that paths are relative to; None means that of the list. Absolute paths
            are kept.
          classes: a text file with the name of each class, one per line, in the order of the
            labels; or their number; None means the largest label + 1, which is too low for a split
            without the last class.
          labels: "none" ignores them.
          index: JSON lines that `input_pipeline.prepare` wrote for the root; None means
            root/index.jsonl, if it exists.

        Raises:
          ValueError: no such list, invalid lines (the message contains the first 20), labels out of
            range, or none of the first 20 files exists.
          OSError: a list cannot be read.
        """
        if labels not in ("auto", "none"):
            raise ValueError(f'labels is {labels!r}; it must be "auto" or "none"')
        file = _find_list(Path(path).expanduser(), split)
        listed = read_list(file)
        root = str(file.parent if root is None else Path(root).expanduser())
        paths = [os.path.normpath(path) for path in listed.paths]
        names = None
        numbers = listed.labels if labels == "auto" else None
        if numbers is not None:
            names = _class_names(file, numbers, listed.lines, classes)
        _check_root(file, root, paths)
        super().__init__(root, paths, numbers, names, index)


def read_list(file: Path) -> Listed:
    """Reads lines `path label`, or `path`.

    Args:
      file: UTF-8, with or without a byte order mark, any line endings.

    Raises:
      ValueError: no entries, or invalid lines; the message contains the first 20.
      OSError: it cannot be read.
    """
    paths, numbers, lines = [], array.array("q"), array.array("q")
    for line_number, line in _lines_of(file):
        path, last = _split(line)
        is_number = _LABEL.fullmatch(last) is not None
        paths.append(path if is_number else line)
        numbers.append(int(last) if is_number else _NO_LABEL)
        lines.append(line_number)
    if not paths:
        raise ValueError(f"{file} has no entries; expected lines `path label`")
    labels = np.array(numbers)
    labelled = 2 * int(np.count_nonzero(labels != _NO_LABEL)) >= len(labels)
    problems = (
        f"line {line}: {problem}"
        for line, path, label in zip(lines, paths, numbers, strict=True)
        if (problem := _problem(path, label, labelled))
    )
    raise_problems(file, problems)
    listed = Listed(list(map(_unquote, paths)), labels if labelled else None, np.array(lines))
    raise_problems(file, _contradictions(listed))
    return listed


def _lines_of(file: Path) -> Iterator[tuple[int, str]]:
    """Line numbers and text, without empty lines and comments."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if number == 1:
                if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise ValueError(f"{file} is UTF-16; save it as UTF-8")
                line = line.removeprefix(b"\xef\xbb\xbf")
            text = line.decode("utf-8", "surrogateescape").strip(" \t\r\n")
            if text and not text.startswith("#"):
                yield number, text


def raise_problems(file: Path, problems: Iterable[str]) -> None:
    """Raises ValueError with the first 20 problems of a file, if there are any."""
    found = list(problems)
    if found:
        first = "\n  ".join(found[:_FIRST])
        more = f"\n  and {len(found) - _FIRST} more" if len(found) > _FIRST else ""
        raise ValueError(f"{file} has {len(found)} invalid lines or entries:\n  {first}{more}")


def _split(line: str) -> tuple[str, str]:
    at = max(line.rfind(separator) for separator in _SEPARATORS)
    return line[: max(at, 0)].rstrip(_SEPARATORS), line[at + 1 :]


def _unquote(path: str) -> str:
    if len(path) > 1 and path[0] == path[-1] == '"':
        return path[1:-1].replace('""', '"')
    return path


def _problem(path: str, label: int, labelled: bool) -> str | None:
    if labelled != (label != _NO_LABEL):
        expected = "`path label` with a whole number" if labelled else "a path without a label"
        return f"expected {expected}, as in other lines, found {path[:80]!r}"
    if not path:
        return "expected a path before the label"
    if "\0" in path:
        return "NUL byte in the path; save the list as UTF-8 text"
    if len(path) > MAX_PATH:
        return f"a path of more than {MAX_PATH} characters; expected one file per line"
    if labelled and label < 0:
        return f"label {label}; expected 0 or more"
    if labelled and _NUMBER_AT_END.search(path):
        return (
            f"expected `path label`, found more numbers: {path[-60:]!r}; lists of frame folders "
            "are not supported"
        )
    return None


def _contradictions(listed: Listed) -> Iterator[str]:
    paths, labels, lines = listed.paths, listed.labels, listed.lines
    if labels is None or len(set(paths)) == len(paths):
        return
    first: dict[str, int] = {}
    for row, path in enumerate(paths):
        before = first.setdefault(path, row)
        if labels[before] != labels[row]:
            yield (
                f"line {lines[row]}: {path} has label {labels[row]}, but {labels[before]} in line "
                f"{lines[before]}"
            )


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
        raise ValueError(f"{file} is not a file; set data.path to a list or a folder of lists")
    if split != "train" and split not in file.name:
        raise ValueError(
            f"{file} is a single list, which is the split 'train'; for {split!r}, set data.path to "
            'a folder of lists, or to a file name that contains "{split}"'
        )
    return file


def _class_names(
    file: Path, labels: np.ndarray, lines: np.ndarray, classes: str | int | None
) -> tuple[str, ...]:
    if isinstance(classes, str):
        text = Path(classes).expanduser().read_text(encoding="utf-8-sig")
        names = tuple(line.strip() for line in text.splitlines() if line.strip())
    else:
        names = tuple(map(str, range(labels.max() + 1 if classes is None else classes)))
    problems = (
        f"line {lines[row]}: label {labels[row]}; there are {len(names)} classes, from 0"
        for row in np.flatnonzero(labels >= len(names))
    )
    raise_problems(file, problems)
    return names


def _check_root(file: Path, root: str, paths: list[str]) -> None:
    """Raises ValueError for a wrong root, which would make every video a bad input."""
    first = [os.path.join(root, path) for path in paths[:_FIRST]]
    if not any(map(os.path.exists, first)):
        raise ValueError(
            f"{file}: none of the first {len(first)} files exists, such as {first[0]}; set "
            "data.root to the folder that the paths are relative to"
        )
