"""Files of AVA: boxes with classes, excluded key frames, names of classes, lists of frames.

A row of a list of boxes is `video,second,left,top,right,bottom,class,last`; sides are fractions of
the frame, and `class` is from 1 on; -1 or nothing means no class. A box with several classes has a
row for each: rows with equal texts of all four sides are one box. In ground truth, `last` numbers
the person, and may be missing in the whole file; a row `video,second` is a key frame without boxes.
In predicted boxes, `last` is the score of the detector.

Source: https://research.google.com/ava/download.html; PySlowFast slowfast/datasets/ava_helper.py
"""

from __future__ import annotations

import array
import collections
import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from input_pipeline.texts import lines_of, printable, raise_problems, read_text

MAX_CLASSES = 10_000
_OUTSIDE = 0.01  # of the frame: how far detectors and rounding put a side of a box outside of it
_BLOCK = re.compile(r'\{((?:"[^"\n]*"|[^"{}])*)\}')
_FIELD = re.compile(r'(\w+)\s*:\s*(?:"([^"\n]*)"|([A-Za-z_]+|\d+))')
_NUMBERED = re.compile(r"(.*?)(\d+)(\D*)")  # the last number of a path


class BoxList(NamedTuple):
    """The boxes of a list, each once, and its rows."""

    file: Path
    videos: dict[str, int]  # all that are named, also by rows below the threshold -> first line
    boxes: list[str]  # "video,second,left,top,right,bottom", with four digits of the second
    keys: list[str]  # "video,second" of each box
    empty: frozenset[str]  # those of the rows without a box
    sides: np.ndarray  # float64 (boxes, 4)
    rows: np.ndarray  # int64 (rows,): the box of each row
    classes: np.ndarray  # int64 (rows,): its class, from 0 on; -1 for none


def read_boxes(file: Path, num_classes: int, threshold: float | None = None) -> BoxList:
    """Reads a list of boxes, see above.

    Args:
      file: the list.
      num_classes: number of classes.
      threshold: for a list of predicted boxes, the lowest score of those that are kept; None for
        ground truth.

    Raises:
      ValueError: invalid rows; the message contains the first 20.
      OSError: it cannot be read.
    """
    class_of = {str(number): number - 1 for number in range(1, num_classes + 1)}
    class_of |= {"": -1, "-1": -1}
    videos: dict[str, int] = {}
    found: dict[str, int] = {}  # texts of boxes -> number
    empty: set[str] = set()
    lines, rows, classes = (array.array("q") for _ in range(3))
    problems: list[str] = []
    columns = 0 if threshold is None else 8
    for line, text in enumerate(lines_of(read_text(file)), 1):
        if not text:
            continue
        count = text.count(",") + 1
        if threshold is None and (count == 2 or text.endswith(",,,,")):
            video, second = text.rstrip(",").split(",")
            videos.setdefault(video, line)
            try:
                empty.add(key_of(video, second))
            except ValueError:
                problems.append(f"line {line}: {text[:80]!r}; expected video,second")
            continue
        columns = columns or count
        if count != columns or count not in (7, 8):
            problems.append(f"line {line}: {_wrong_columns(text, columns, threshold)}")
            continue
        box, class_text, *last = text.rsplit(",", columns - 6)
        videos.setdefault(box[: box.index(",")], line)
        number = class_of.get(class_text)
        if number is None:
            problems.append(
                f"line {line}: class {class_text!r}; expected a whole number from 1 to "
                f"{num_classes}, the last id of the file of classes, or -1 for none"
            )
            continue
        if last and (problem := _wrong_last(last[0], threshold)):
            problems.append(f"line {line}: {problem}")
            continue
        if threshold is not None and float(last[0]) < threshold:
            continue
        rows.append(found.setdefault(box, len(found)))
        classes.append(number)
        if len(found) > len(lines):
            lines.append(line)
    keys, sides = _split(list(found), lines, problems)
    raise_problems(file, problems)
    boxes = [f"{key},{box.split(',', 2)[2]}" for key, box in zip(keys, found, strict=True)]
    arrays = sides, np.array(rows), np.array(classes)
    return BoxList(file, videos, boxes, keys, frozenset(empty), *arrays)


def _wrong_columns(text: str, columns: int, threshold: float | None) -> str:
    count = text.count(",") + 1
    found = f"{count} columns, {text[:80]!r}; expected"
    if threshold is not None:
        return f"{found} 8 columns of a predicted box, the last of which is its score"
    if columns in (7, 8):
        return f"{found} {columns}, as in the rows before"
    return f"{found} 7 or 8: video,second,left,top,right,bottom,class and perhaps person"


def _wrong_last(text: str, threshold: float | None) -> str:
    """What is wrong with the eighth column."""
    if threshold is None:
        if text.isdecimal() or text in ("", "-1"):
            return ""
        return f"person {text!r}; expected a whole number; predicted boxes are no ground truth"
    try:
        if 0 <= float(text) <= 1:
            return ""
    except ValueError:
        pass
    return f"score {text!r}; expected a number from 0 to 1; ground truth is no predicted boxes"


def _split(
    boxes: list[str], lines: Sequence[int], problems: list[str]
) -> tuple[list[str], np.ndarray]:
    """Keys and sides of boxes; adds what is wrong with them to `problems`."""
    keys, sides = [], np.empty((len(boxes), 4))
    for row, box in enumerate(boxes):
        video, second, *texts = box.split(",")
        try:
            keys.append(key_of(video, second))
            sides[row] = texts
        except ValueError:
            problems.append(
                f"line {lines[row]}: {box!r}; expected video,second,left,top,right,bottom with a "
                "whole second and sides as fractions of the frame"
            )
            sides[row] = 0
    inside = ((sides >= -_OUTSIDE) & (sides <= 1 + _OUTSIDE)).all(1)  # False for NaN
    upright = (sides[:, :2] <= sides[:, 2:]).all(1)
    for row in np.flatnonzero(~inside).tolist():
        problems.append(
            f"line {lines[row]}: a box outside the frame, {boxes[row]!r}; expected its sides as "
            "fractions of the frame, from 0 to 1"
        )
    for row in np.flatnonzero(inside & ~upright).tolist():
        problems.append(
            f"line {lines[row]}: a box whose right side is left of its left one, or whose bottom "
            f"is above its top, {boxes[row]!r}; expected left,top,right,bottom"
        )
    return keys, sides


def key_of(video: str, second: str) -> str:
    """The name of a key frame, such as "-5KQ66BBWC4,0902"; raises ValueError for no second."""
    number = float(second)
    if not number.is_integer() or number < 0 or not video:
        raise ValueError(f"{second!r} is not a whole number of seconds")
    return f"{video},{int(number):04d}"


def read_excluded(file: Path) -> dict[str, int]:
    """Key frames of rows `video,second`, see `key_of` -> line; there may be none.

    Raises:
      ValueError: invalid rows.
      OSError: it cannot be read.
    """
    keys: dict[str, int] = {}
    problems = []
    for line, text in enumerate(lines_of(read_text(file)), 1):
        try:
            if text:
                video, second = text.split(",")
                keys.setdefault(key_of(video, second), line)
        except ValueError:
            problems.append(f"line {line}: {text[:80]!r}; expected video,second")
    raise_problems(file, problems)
    return keys


@dataclasses.dataclass(frozen=True)
class Actions:
    """A label map: classes of actions by their ids.

    Attributes:
      names: id -> name.
      kinds: id -> the `label_type`, of those that have one.
    """

    names: dict[int, str]
    kinds: dict[int, str]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by class index, which is the id minus 1; "class 2" for an id that is left out."""
        ids = range(1, max(self.names) + 1)
        return tuple(self.names.get(number, f"class {number}") for number in ids)

    @property
    def groups(self) -> dict[str, tuple[int, ...]]:
        """Class indices of each kind."""
        groups = collections.defaultdict(list)
        for number in sorted(self.kinds):
            groups[self.kinds[number]].append(number - 1)
        return {kind: tuple(indices) for kind, indices in groups.items()}


def read_actions(file: Path) -> Actions:
    """Reads a label map: blocks `label { name: "stand" label_id: 12 label_type: PERSON_MOVEMENT }`.

    The key of an id may also be `id`; the type may be missing.

    Raises:
      ValueError: no blocks, blocks without name or id, or ids or names that occur twice.
      OSError: it cannot be read.
    """
    text = read_text(file)
    names: dict[int, str] = {}
    kinds: dict[int, str] = {}
    problems = []
    for block in _BLOCK.finditer(text):
        line = text.count("\n", 0, block.start()) + 1
        fields = {key: quoted or word for key, quoted, word in _FIELD.findall(block[1])}
        name, number = fields.get("name", ""), fields.get("label_id", fields.get("id", ""))
        if not name or not number.isdecimal() or not 1 <= int(number) <= MAX_CLASSES:
            problems.append(f"line {line}: expected a name, and an id from 1 to {MAX_CLASSES}")
            continue
        if int(number) in names or name in names.values():
            problems.append(f"line {line}: id {number} or name {name!r} for the second time")
        names[int(number)] = name
        if kind := fields.get("label_type"):
            kinds[int(number)] = kind
    raise_problems(file, problems)
    if not names:
        raise ValueError(
            f'{file} has no classes; expected blocks such as `label {{ name: "stand" label_id: 12 '
            'label_type: PERSON_MOVEMENT }` or `item { name: "stand" id: 12 }`'
        )
    return Actions(names, kinds)


@dataclasses.dataclass(frozen=True)
class NumberedPaths(Sequence[str]):
    """Paths that differ in a number, which counts up by 1."""

    before: str
    first: str  # number of the first, with its zeros
    after: str
    total: int

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # no slices
        return self._paths([range(self.total)[index]])[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths(range(self.total)))

    def _paths(self, positions: Iterable[int]) -> list[str]:
        before, after, first, digits = self.before, self.after, int(self.first), len(self.first)
        return [f"{before}{first + position:0{digits}d}{after}" for position in positions]


def read_frame_list(file: Path) -> dict[str, Sequence[str]]:
    """The paths of the frames of each video, in their order.

    Args:
      file: a header and lines `original_vido_id video_id frame_id path labels`, of which the first
        and the fourth column are read; a line for each frame: millions.

    Raises:
      ValueError: no frames, or invalid lines.
      OSError: it cannot be read.
    """
    frames: dict[str, Sequence[str]] = {}
    problems: list[str] = []
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        header = next(lines, "")
        if not header.startswith("original_vi") or len(header.split()) != 5:
            raise ValueError(
                f"{file}, line 1: {printable(header[:80].rstrip())!r}; expected the header "
                "`original_vido_id video_id frame_id path labels`"
            )
        current, block = "", list[str]()
        for number, line in enumerate(lines, 2):
            try:
                video, _, _, path, _ = line.split()
            except ValueError:
                if line := line.strip():
                    problems.append(
                        f"line {number}: {line.count(' ') + 1} columns, {line[:80]!r}; expected 5"
                    )
                continue
            if video != current:
                _add_frames(frames, current, block)
                current, block = video, []
            block.append(path)
        _add_frames(frames, current, block)
    raise_problems(file, problems)
    if not frames:
        raise ValueError(f"{file} has no frames")
    return frames


def _add_frames(frames: dict[str, Sequence[str]], video: str, paths: list[str]) -> None:
    """Adds paths; as `NumberedPaths` if they are, since a film has 27,000 frames."""
    if not paths:
        return
    paths = [*frames.get(video, ()), *paths]
    match = _NUMBERED.fullmatch(paths[0])
    numbered = match and NumberedPaths(match[1], match[2], match[3], len(paths))
    frames[video] = numbered if numbered and list(numbered) == paths else paths
