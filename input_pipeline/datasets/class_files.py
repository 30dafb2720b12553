"""Files with the names of classes, as they are published: one name per line, CSV or JSON."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from input_pipeline.texts import as_name, lines_of, name_bytes, raise_problems, read_text, unquoted

MAX_CLASSES = 1_000_000
_HEADER = re.compile(
    "(class|label|category)?[_ ]?(id|index|idx|number|names?)|class(es)?|labels?|category"
)
_BY = r"(?P<by>[ \t]*[,;\t][ \t]*| +)"  # what separates number and name
_NUMBER = r'(?P<quote>"?)(?P<number>[0-9]{1,7})(?P=quote)'
_NUMBERED = tuple(
    re.compile(pattern)
    for pattern in (rf"{_NUMBER}{_BY}(?P<name>.+)", rf"(?P<name>.+?){_BY}{_NUMBER}")
)


def read_class_names(file: Path) -> tuple[str, ...]:
    """The names of the classes, by class index.

    Args:
      file: one name per line, in the order of the labels; a name in double quotes is a JSON string
        or a field of a CSV file. Or lines `number,name` or `name,number`, with or without a header
        such as `id,name`. Or a .json file: a list of names, or a table from names to numbers or
        from numbers to names. Numbers are from 0.

    Raises:
      ValueError: no names, a name twice, an empty line between names, numbers other than those
        from 0 on, text that is not UTF-8, or a first line that may or may not be a header.
      OSError: it cannot be read.
    """
    if file.suffix.lower() == ".json":
        return _from_json(file)
    return _from_lines(file, lines_of(read_text(file)))


def class_lines(names: Sequence[str]) -> str:
    """The text of a file from which `read_class_names` reads these names: one per line.

    All are JSON strings if one would not be read as it is, such as a name with a line end.
    """
    plain = "".join(f"{name}\n" for name in names)
    with contextlib.suppress(ValueError):
        if _from_lines(Path(), lines_of(plain)) == tuple(names):
            return plain
    return "".join(json.dumps(name) + "\n" for name in names)


def labels_from_one(labels: Iterable[int]) -> str:
    """What is wrong with labels that are 1 to n, each present, n > 1; empty for other labels."""
    found = set(labels)
    if len(found) > 1 and min(found) == 1 and max(found) == len(found):
        return f"label 0 is empty: the labels are 1 to {len(found)}, they seem to start at 1"
    return ""


def _from_lines(file: Path, lines: list[str]) -> tuple[str, ...]:
    lines = [line.strip(" \t") for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise ValueError(f"{file} has no names; expected the name of each class, one per line")
    raise_problems(file, _unreadable(lines))
    header = _has_header(lines)
    numbers, names = _numbered(lines[header:], header)
    if header and (columns := len(re.split("[,;\t]", lines[0]))) > 2:
        raise ValueError(f"{file}: {columns} columns, {lines[0]!r}; expected a number and a name")
    if header and not numbers:
        raise ValueError(
            f"{file}: line 1, {lines[0]!r}, is the header of a table, but not all other lines are "
            "`number,name`"
        )
    return _in_order(file, numbers, list(map(_unquoted, names)), 1 + header)


def _unreadable(lines: list[str]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            name_bytes(line).decode()
        except UnicodeDecodeError:
            yield (
                f"line {number}: {name_bytes(line)[:80]!r} is not UTF-8; save the file as UTF-8, "
                "such as with `iconv -f LATIN1 -t UTF-8`; or, if a folder has this name, write "
                f"{json.dumps(line[:80])}"
            )
        if "\0" in line:
            yield f"line {number}: a NUL byte; save the file as UTF-8 text"
        if "\r" in line:
            yield f"line {number}: a carriage return in the line; end all lines in the same way"
    if _HEADER.fullmatch(lines[0].lower()) or lines[0].startswith(("# ", "{")):
        yield (
            f"line 1: {lines[0]!r} may be a header, a comment or JSON; remove it, name the file "
            ".json, or, if it is the name of class 0, write it in double quotes"
        )


def _has_header(lines: list[str]) -> bool:
    words = [unquoted(word) for word in re.split(r"[,;\t ]+", lines[0].lower())]
    if len(words) > 1 and all(map(_HEADER.fullmatch, words)):
        return True
    is_table = len(lines) > 2 and _numbered(lines[1:], False)[0] is not None
    return is_table and _numbered(lines[:1], True)[0] is None


def _numbered(lines: list[str], is_table: bool) -> tuple[list[int] | None, list[str]]:
    """The numbers of lines `number,name` or `name,number`, None for other lines, and the names.

    Names may contain numbers and spaces: if it is not known that the lines are a table, numbers
    next to spaces count only if they are those from 0 or 1 on and the names differ.
    """
    for pattern in _NUMBERED:
        matches = [match for line in lines if (match := pattern.fullmatch(line))]
        if len(matches) < len(lines):
            continue
        numbers, names = [int(match["number"]) for match in matches], [m["name"] for m in matches]
        differ = len(set(names)) == len(names)
        counted = min(numbers, default=2) < 2 and len(set(numbers)) == len(numbers)
        if is_table or all(m["by"].strip(" ") for m in matches) or (counted and differ):
            return numbers, names
    return None, lines


def _unquoted(field: str) -> str:
    if field.startswith('"'):
        with contextlib.suppress(ValueError):
            return as_name(str(json.loads(field)))
    return unquoted(field)


def _from_json(file: Path) -> tuple[str, ...]:
    try:
        content = json.loads(read_text(file))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    names, numbers = content, None
    if isinstance(content, dict):
        names, numbers = list(content), list(content.values())
        if all(map(_is_number, names)):
            names, numbers = numbers, names
        if not all(map(_is_number, numbers)):
            names = None
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise ValueError(
            f"{file}: expected a list of names, or a table from names to numbers or from numbers "
            f"to names, found {str(content)[:60]!r}"
        )
    # The names in PySlowFast's table for Kinetics have quotes around them.
    names = [as_name(unquoted(name)) for name in names]
    return _in_order(file, numbers and list(map(int, numbers)), names, 1)


def _is_number(value: object) -> bool:
    return re.fullmatch("[0-9]{1,7}", str(value)) is not None


def _in_order(
    file: Path, numbers: Sequence[int] | None, names: list[str], first: int
) -> tuple[str, ...]:
    """The names by number, or as they are; `first` is the line (or entry) of the first."""
    raise_problems(file, _wrong_names(names, first))
    if numbers is None:
        return tuple(names)
    if sorted(numbers) == list(range(1, len(numbers) + 1)):
        raise ValueError(
            f"{file} numbers its classes from 1 to {len(numbers)}; class indices start at 0: "
            "subtract 1, here and from the labels of the lists"
        )
    if missing := sorted(set(range(len(numbers))) - set(numbers)):
        raise ValueError(
            f"{file}, understood as a table of numbers and names: expected the numbers 0 to "
            f"{len(numbers) - 1}, each once, but {missing[0]} is missing; correct them, or, if "
            "they belong to the names, write each name in double quotes"
        )
    return tuple(name for _, name in sorted(zip(numbers, names, strict=True)))


def _wrong_names(names: list[str], first: int) -> Iterator[str]:
    before: dict[str, int] = {}
    for line, name in enumerate(names, first):
        if not name:
            yield f"line {line}: no name; expected one per line"
        elif name in before:
            yield f"line {line}: {name!r} is also in line {before[name]}; names must differ"
        before.setdefault(name, line)
