"""Matches classes by name: those of two datasets, or of a checkpoint and a dataset.

The number of a class means nothing without the list of names. Lists of the same classes in another
order are aligned; lists of different classes are an error.
"""

from __future__ import annotations

import collections
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

_LISTED = 3  # names of one kind in a message


class ClassesDiffer(ValueError):
    """Two lists of names are not of the same classes."""


def order_of(
    names: Sequence[str], wanted: Sequence[str], *, owner: str, wanted_by: str
) -> Int[np.ndarray, " classes"]:
    """The position in `names` of each name of `wanted`.

    The composed and the decomposed spelling of a letter (Unicode NFC, NFD) are the same.

    Args:
      names: class names by number.
      wanted: the same names, perhaps in another order.
      owner: what `names` are of, for messages.
      wanted_by: what `wanted` are of, for messages.

    Raises:
      ClassesDiffer: they are not the same names; shows the first differences.
    """
    if tuple(names) == tuple(wanted):
        return np.arange(len(names))
    keys, wanted_keys = (list(map(_composed, some)) for some in (names, wanted))
    if _repeated(keys) or _repeated(wanted_keys):
        keys, wanted_keys = list(names), list(wanted)  # spellings tell classes apart here
    numbers = {key: number for number, key in enumerate(keys)}
    others = {*wanted_keys}
    if numbers.keys() != others:
        lacking = [name for name, key in zip(names, keys, strict=True) if key not in others]
        added = [n for n, key in zip(wanted, wanted_keys, strict=True) if key not in numbers]
        raise ClassesDiffer(
            f"{owner} and {wanted_by} have different classes, {len(names)} and {len(wanted)}"
            + _only(owner, lacking)
            + _only(wanted_by, added)
        )
    if repeated := _repeated(keys) or _repeated(wanted_keys):
        raise ClassesDiffer(
            f"{owner} and {wanted_by} list their classes differently, and {repeated[0]!r} is the "
            "name of several, so they cannot be matched by name"
        )
    return np.array([numbers[key] for key in wanted_keys])


def numbers_of(names: Sequence[str]) -> Int[np.ndarray, " classes"]:
    """Class numbers of classes that are known by number only.

    Folders "0" to "999", as those of ImageNetV2, or "1" to "1000", which sort as 0, 1, 10, are
    named by them.
    """
    count = len(names)
    for first in (0, 1):
        if {*names} == {str(first + number) for number in range(count)}:
            return np.array(list(map(int, names))) - first
    return np.arange(count)


class Aligned:
    """A dataset whose class numbers are those of another list of the same names."""

    def __init__(self, source: Any, class_names: Sequence[str], *, owner: str, wanted_by: str):
        """Aligns `source` with `class_names`; see `order_of`, also for the errors."""
        self.class_names: tuple[str, ...] | None = tuple(class_names)
        self._source = source
        self._numbers = order_of(class_names, source.class_names, owner=owner, wanted_by=wanted_by)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def read(self, index: int) -> Any:
        """See `input_pipeline.Source`."""
        example = self._source.read(index)
        return example._replace(label=int(self._numbers[example.label]))


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _repeated(names: Sequence[str]) -> list[str]:
    return [name for name, count in collections.Counter(names).items() if count > 1]


def _only(owner: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"; only in {owner}: {', '.join(map(spelled, names[:_LISTED]))}{more}"


def spelled(name: str) -> str:
    """A name in quotes, with the code of each letter that others may look like."""
    plain = ascii(name)
    return plain if plain == repr(name) else f"{name!r} ({plain[1:-1]})"
