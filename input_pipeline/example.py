"""What a source of examples is, and what it hands over."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple, Protocol

import numpy as np


class Example(NamedTuple):
    """One example as it lies in its dataset.

    Attributes:
      data: the bytes of an image file, or its pixels: uint8 (height, width, 3), RGB.
      label: class index; None when the dataset has no labels.
    """

    data: bytes | np.ndarray
    label: int | None


class Source(Protocol):
    """A finite, ordered list of examples that can be read in any order, from several threads.

    Attributes:
      num_examples: how many examples there are.
      class_names: name of each class, by class index; None when there are no labels.
      fingerprint: short hash of the list (names, order, labels), so that a resumed run can refuse
        a list that was edited meanwhile. It does not depend on where the data lies.
    """

    num_examples: int
    class_names: tuple[str, ...] | None
    fingerprint: str

    def __init__(self, split: str = "train", **section):
        """Lists the examples of a split; the other arguments are a recipe's section."""

    def name_of(self, index: int) -> str:
        """Where an example comes from, for messages and reports."""

    def read(self, index: int) -> Example:
        """Reads one example; raises OSError when it cannot."""


def fingerprint(parts: Iterable[bytes]) -> str:
    """Hash of a sequence of byte strings, 16 hexadecimal digits.

    Args:
      parts: the strings; their borders count, so ("ab", "c") differs from ("a", "bc").
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.hexdigest()[:16]
