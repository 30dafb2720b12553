"""Text lists of videos, `path label`, as PySlowFast, mae_st, VideoMAE and mmaction2 write them."""

from __future__ import annotations

import array
import collections
import csv
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from input_pipeline.datasets.class_files import MAX_CLASSES, labels_from_one, read_class_names
from input_pipeline.datasets.video_index import ListedVideos
from input_pipeline.paths import local_path
from input_pipeline.texts import lines_of, raise_problems, read_text, unquoted

SUFFIXES = (".csv", ".txt")
MAX_PATH = 4096  # characters
_FIRST = 20  # entries whose files are looked for
_BY = " \t,;|\xa0"  # separators, with the no-break space
_LABEL = r'(?P<quote>"?)(?P<label>-?[0-9]{1,9})(?:\.0*)?(?P=quote)'
_BLANK = " \t\xa0"
_NO_LABEL = -1
_LAST = re.compile(rf"(?P<path>.*[^{_BY}])[{_BY}]+{_LABEL}[{_BY}]*")
_NUMBER = re.compile(rf"[{_BY}]*{_LABEL}[{_BY}]*")
_NUMBER_AT_END = re.compile(rf"[{_BY}]-?[0-9]+$")
_LABEL_THEN_PATH = re.compile(rf"{_LABEL}[{_BY}]+(?P<path>[^{_BY}].*)")
_PATH_COLUMN = re.compile(
    "(video|clip|image|file)?_?(path|file|filename|name)|video|image|youtube_id"
)
_LABEL_COLUMN = re.compile("labels?|target|(class|label)_?(id|index|idx)|class")
_SPLIT_COLUMNS = ("split", "subset")


class Listed(NamedTuple):
    """Contents of a list."""

    paths: list[str]  # as written
    labels: np.ndarray | None  # int64 (paths,), class indices; None without labels
    lines: np.ndarray  # int64 (paths,), line numbers from 1
    first: str  # the first entry, as written


class _Entry(NamedTuple):
    path: str
    label: int | None


class _Form(NamedTuple):
    """A form of lines: how messages call it, and what a line says; None if it has another form."""

    words: str
    read: Callable[[str], _Entry | None]


class VideoList(ListedVideos):
    """The videos of a text file with lines `path label`, in that order.

    All lines have the form of the first ones: `path label`, `label path`, `path`, or VideoMAE's
    `path 0 -1` without labels. Separators are spaces, tabs, commas, semicolons and vertical bars;
    paths may contain all of these, and be in double quotes. A header that names the columns is
    understood. Empty lines are ignored, and those that start with # and a space. Labels that are
    all -1 are none. Missing files count as bad inputs when they are read.
    """

    LABELS_FROM_ONE = False  # whether labels may be 1 to n, so that class 0 is empty

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
          classes: a file with the names of the classes, see `class_files.read_class_names`; or
            their number; None means the largest label + 1, which is too low for a split without
            the last class.
          labels: "none" ignores them.
          index: JSON lines that `input_pipeline.prepare` wrote for the root; None means
            root/index.jsonl, if it exists.

        Raises:
          ValueError: no such list, invalid lines (the message contains the first 20), labels out of
            range or from 1 on, or none of the first 20 files exists.
          OSError: a list cannot be read.
        """
        if labels not in ("auto", "none"):
            raise ValueError(f'labels is {labels!r}; it must be "auto" or "none"')
        file = _find_list(local_path(path), split)
        root = str(file.parent if root is None else local_path(root))
        listed = read_list(file, root, labels == "auto")
        _check_root(file, root, listed)
        names = None
        if listed.labels is not None:
            names = _class_names(file, listed, classes, self.LABELS_FROM_ONE)
        paths = list(map(os.path.normpath, listed.paths))
        super().__init__(root, paths, listed.labels, names, index)


def read_list(file: Path, root: str, labelled: bool = True) -> Listed:
    """Reads lines `path label`, or of another form; see `VideoList`.

    The form is the one in which most of the first 20 files exist; if none exists in any, the one
    that most of these lines have.

    Args:
      file: UTF-8, with or without a byte order mark, or UTF-16 with one; any line endings.
      root: the folder that paths are relative to.
      labelled: whether labels are read; otherwise they may be anything.

    Raises:
      ValueError: no entries, or invalid lines; the message contains the first 20.
      OSError: it cannot be read.
    """
    entries = [
        (number, line)
        for number, raw in enumerate(lines_of(read_text(file)), 1)
        if (line := raw.strip(_BLANK)) and not _is_comment(line, root)
    ]
    form = _form_of_header(file, entries[0][1], root, labelled) if entries else None
    if form is not None:
        del entries[0]
    if not entries:
        raise ValueError(f"{file} has no entries; expected lines `path label`")
    if form is None:
        form = _form_of_lines(file, [line for _, line in entries[:_FIRST]], root, labelled)
    paths, labels, problems = [], array.array("q"), []
    for number, line in entries:
        entry = None if _unreadable(line) else form.read(line)
        if entry is None or (problem := _doubt(entry, line, form, root, labelled)):
            problems.append(f"line {number}: {problem if entry else _misfit(line, form)}")
            continue
        paths.append(entry.path)
        labels.append(_NO_LABEL if entry.label is None else entry.label)
    raise_problems(file, problems)
    lines = np.array([number for number, _ in entries])
    listed = Listed(paths, np.array(labels), lines, entries[0][1])
    if not labelled or set(labels) == {_NO_LABEL}:
        return listed._replace(labels=None)
    numbered = zip(lines, labels, strict=True)
    raise_problems(
        file, (f"line {line}: label {x}; expected 0 or more" for line, x in numbered if x < 0)
    )
    raise_problems(file, _contradictions(listed))
    return listed


def _label_last(line: str) -> _Entry | None:
    match = _LAST.fullmatch(line)
    return match and _Entry(unquoted(match["path"]), int(match["label"]))


def _label_first(line: str) -> _Entry | None:
    match = _LABEL_THEN_PATH.fullmatch(line)
    return match and _Entry(unquoted(match["path"]), int(match["label"]))


def _more_numbers(line: str) -> _Entry | None:
    """The path before two numbers or more; the last of them."""
    path, numbers = line, []
    while match := _LAST.fullmatch(path):
        path = match["path"]
        numbers.append(int(match["label"]))
    return _Entry(unquoted(path), numbers[0]) if len(numbers) > 1 else None


def _path_and_separator(line: str) -> _Entry | None:
    return _Entry(unquoted(line.rstrip(_BY)), None) if line[-1] in _BY else None


def _path_alone(line: str) -> _Entry | None:
    return _Entry(unquoted(line), None)


def _path_and_text(line: str) -> _Entry | None:
    separator = next((character for character in "\t,;|" if character in line), " ")
    path = line.rpartition(separator)[0].rstrip(_BY)
    return _Entry(unquoted(path), None) if path and not _label_last(line) else None


_NUMBERS = _Form("`path number number`", _more_numbers)
_PATH_LABEL = _Form("`path label` with a whole number", _label_last)
_LABEL_PATH = _Form("`label path` with a whole number", _label_first)
_PATH = _Form("a path without a label", _path_alone)
_LABELLED = (_NUMBERS, _PATH_LABEL, _LABEL_PATH)
_FORMS = (
    *_LABELLED,
    _Form("a path without a label, then a separator", _path_and_separator),
    _PATH,
)


def _form_of_lines(file: Path, lines: list[str], root: str, labelled: bool) -> _Form:
    forms = _FORMS if labelled else (*_FORMS, _Form("a path and a text", _path_and_text))
    found, fitting = collections.Counter[_Form](), collections.Counter[_Form]()
    examples: dict[_Form, str] = {}
    for line in lines:
        entries = {form: entry for form in forms if (entry := form.read(line))}
        for form in [form for form, entry in entries.items() if _is_file(root, entry)]:
            found[form] += 1
            examples.setdefault(form, line)
        fitting.update([form for form in entries if form in _LABELLED] or list(entries))
    counts = found or fitting
    best = [form for form in forms if counts[form] == max(counts.values())]
    if found and len(best) > 1:
        both = " and ".join(f"{form.words}, such as {examples[form]!r}" for form in best)
        raise ValueError(
            f"{file} has lines of the forms {both}, as the files exist; write all in one form, "
            "with paths in double quotes"
        )
    return best[0]


def _form_of_header(file: Path, line: str, root: str, labelled: bool) -> _Form | None:
    """The form that a header with the names of columns announces; None if it is an entry."""
    separator = next((character for character in "\t,;|" if character in line), " ")
    names = [unquoted(name.strip(_BLANK)).lower() for name in line.split(separator)]
    paths = [column for column, name in enumerate(names) if _PATH_COLUMN.fullmatch(name)]
    labels = [column for column, name in enumerate(names) if _LABEL_COLUMN.fullmatch(name)]
    is_words = all(re.fullmatch("[a-z_ ]*", name) for name in names)
    if not paths or not is_words or _is_file(root, _Entry(line, None)):
        return None
    if len(paths) > 1 or (labelled and len(labels) > 1):
        raise ValueError(
            f"{file}: the header {line!r} names {len(paths)} columns of paths and {len(labels)} of "
            "labels; expected one of each, such as `path,label`"
        )
    if len(names) == 1:
        return _PATH
    pair = None  # whose path may contain the separator
    if len(names) == 2 and labels:
        pair = _PATH_LABEL if paths[0] == 0 else _LABEL_PATH
    if pair and labelled:
        return pair

    splits = set[str]()

    def read(line: str) -> _Entry | None:
        if pair and (entry := pair.read(line)):
            return entry
        (fields,) = csv.reader([line], delimiter=separator, skipinitialspace=True)
        if len(fields) != len(names):
            return None
        splits.update(fields[column] for column, name in enumerate(names) if name in _SPLIT_COLUMNS)
        if len(splits) > 1:
            raise ValueError(f"{file}: lines of the splits {sorted(splits)}; write a list for each")
        path = fields[paths[0]].strip(_BLANK)
        if not labels or not labelled:
            return _Entry(path, None)
        label = _NUMBER.fullmatch(fields[labels[0]])
        return label and _Entry(path, int(label["label"]))

    label = ", with a whole number as label" if labels and labelled else ""
    return _Form(f"the columns {line!r}{label}", read)


def _is_file(root: str, entry: _Entry) -> bool:
    return os.path.isfile(os.path.join(root, entry.path))


def _is_comment(line: str, root: str) -> bool:
    """Whether a line is # alone, or # and a space and not the name of a file."""
    if not line.startswith(("# ", "#\t")):
        return line == "#"
    entries = [entry for form in _FORMS if (entry := form.read(line))]
    return not any(_is_file(root, entry) for entry in entries)


def _unreadable(line: str) -> str:
    if len(line) > MAX_PATH:
        return f"a path of more than {MAX_PATH} characters; expected one file per line"
    if "\0" in line:
        return "NUL byte in the path; save the list as UTF-8 text"
    return "carriage return in the line; end all lines in the same way" if "\r" in line else ""


def _misfit(line: str, form: _Form) -> str:
    """Why a line cannot be read."""
    if problem := _unreadable(line):
        return problem
    if form is _PATH_LABEL and _NUMBER.fullmatch(line):
        return f"expected a path before the label, found {line!r}"
    comment = "; a comment starts with # and a space" if line.startswith("#") else ""
    return f"expected {form.words}, as in other lines, found {line[:80]!r}{comment}"


def _doubt(entry: _Entry, line: str, form: _Form, root: str, labelled: bool) -> str:
    """What is wrong with a line that has the form; a file that exists settles what is a path."""
    if not entry.path:
        return f"expected a path before the label, found {line!r}"
    if form is _NUMBERS and labelled and entry.label != _NO_LABEL:
        return (
            f"expected `path label`, found more numbers: {line[-60:]!r}; which one is the label is "
            "not known; lists of frame folders are not supported"
        )
    numbers = ""
    if form is _PATH_LABEL and _NUMBER_AT_END.search(entry.path):
        numbers = f"more numbers: {line[-60:]!r}"
    if form is _PATH and _label_last(line):
        numbers = repr(line[:80])
    if numbers and not line.startswith(f'"{entry.path}"') and not _is_file(root, entry):
        return (
            f"expected {form.words}, as in other lines, found {numbers}; if they belong to the "
            "path of a missing file, write it in double quotes"
        )
    return ""


def _contradictions(listed: Listed) -> Iterator[str]:
    labels, lines = listed.labels, listed.lines
    paths = list(map(os.path.normpath, listed.paths))  # ./a.mp4 is a.mp4
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
        raise ValueError(f"{file} is not a file; set path to a list or a folder of lists")
    if split != "train" and split not in file.name:
        raise ValueError(
            f"{file} is a single list, which is the split 'train'; for {split!r}, set path to a "
            'folder of lists, or to a file name that contains "{split}"'
        )
    return file


def _class_names(
    file: Path, listed: Listed, classes: str | int | None, may_be_from_one: bool
) -> tuple[str, ...]:
    labels, lines = listed.labels, listed.lines
    assert labels is not None
    from_one = "" if may_be_from_one else labels_from_one(labels.tolist())
    if isinstance(classes, str):
        names = read_class_names(local_path(classes))
    else:
        count = min(labels.max() + 1, MAX_CLASSES) if classes is None else classes
        names = tuple(map(str, range(count)))
    if from_one and classes is None:
        raise ValueError(
            f"{file}: {from_one}; subtract 1 from each, or, if class 0 exists and has no example, "
            f"set classes to the number of classes, {len(names)}"
        )
    hint = f" ({from_one})" if from_one else ""
    problems = (
        f"line {lines[row]}: label {labels[row]}; there are {len(names)} classes, from 0{hint}"
        for row in np.flatnonzero(labels >= len(names))
    )
    raise_problems(file, problems)
    return names


def _check_root(file: Path, root: str, listed: Listed) -> None:
    """Raises ValueError for a wrong root, or lines of a form that is not understood."""
    first = [os.path.join(root, path) for path in listed.paths[:_FIRST]]
    if any(map(os.path.isfile, first)):
        return
    label = "no label" if listed.labels is None else f"the label {listed.labels[0]}"
    understood = (
        f"line {listed.lines[0]}, {listed.first[:80]!r}, was understood as the path "
        f"{listed.paths[0][:80]!r} and {label}"
    )
    fields = [unquoted(field) for field in re.split(f"[{_BY}]+", listed.first) if field]
    if any(os.path.isfile(os.path.join(root, field)) for field in fields):
        raise ValueError(f"{file}: {understood}; expected `path label` with a whole number")
    if any(map(os.path.isdir, first)):
        raise ValueError(
            f"{file}: {understood}; expected files, found folders: lists of frame folders are not "
            "supported"
        )
    raise ValueError(
        f"{file}: none of the first {len(first)} files exists, such as {first[0]}: {understood}; "
        "set root to the folder that the paths are relative to, or correct the lines"
    )
