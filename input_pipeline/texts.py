"""Text files that hold names of files and classes. A name is bytes, as it is in a file system.

In Python a name is a string as `os.fsdecode` makes it: bytes that are not UTF-8 are kept in it as
surrogates, and come out again as they were. `str.splitlines` cuts at characters that occur in
names, so it must not be used for them.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterable
from pathlib import Path

_LISTED = 20  # problems in a message
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def name_bytes(name: str) -> bytes:
    """The bytes of a name, whatever the locale is."""
    return name.encode("utf-8", "surrogateescape")


def as_name(text: str) -> str:
    """A name that was read from JSON, as `os.fsdecode` makes it."""
    return os.fsdecode(name_bytes(text))


def read_text(file: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark, or in UTF-16 with one.

    Raises:
      ValueError: UTF-16 with an incomplete or invalid character.
      OSError: it cannot be read.
    """
    data = file.read_bytes()
    if data.startswith(_UTF16):
        try:
            data = data.decode("utf-16").encode()
        except UnicodeError as error:
            raise ValueError(f"{file} is not valid UTF-16 ({error}); save it as UTF-8") from None
    return os.fsdecode(data.removeprefix(codecs.BOM_UTF8))


def lines_of(text: str) -> list[str]:
    """The lines of a text, without their ends, which are LF, CRLF or, if there is no LF, CR.

    The last line is empty if the text ends with an end of line.
    """
    if "\n" not in text:
        return text.split("\r")
    return [line.removesuffix("\r") for line in text.split("\n")]


def unquoted(field: str) -> str:
    """A field without the double quotes around it, if there are any, as in CSV files."""
    if len(field) > 1 and field[0] == field[-1] == '"':
        return field[1:-1].replace('""', '"')
    return field


def printable(text: str) -> str:
    """Escapes line breaks, control characters and bytes that are not UTF-8, as names may have."""
    return text.encode("unicode_escape").decode() if not text.isprintable() else text


def raise_problems(file: Path, problems: Iterable[str]) -> None:
    """Raises ValueError with the first 20 problems of a file, if there are any."""
    found = list(problems)
    if found:
        first = "\n  ".join(found[:_LISTED])
        more = f"\n  and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        raise ValueError(f"{file} has {len(found)} invalid lines or entries:\n  {first}{more}")


def escape_unprintable() -> None:
    """Lets `print` escape characters that the terminal's encoding lacks, instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
