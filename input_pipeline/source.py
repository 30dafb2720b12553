"""What a source of examples is, and what it hands over."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np


class OpenVideo(Protocol):
    """A video of which any frames can be decoded."""

    num_frames: int  # in the order of presentation, 1 or more
    fps: float  # frames per second
    height: int  # pixels
    width: int

    def frames(self, indices: Sequence[int], short_side: int | None = None) -> np.ndarray:
        """Decodes some frames and nothing that is not needed for them.

        Args:
          indices: in increasing order, repeats allowed, from 0 to `num_frames - 1`.
          short_side: scale so that the shorter side has so many pixels; None for none.

        Returns:
          uint8 `(len(indices), height, width, 3)`, RGB.

        Raises:
          ValueError: the indices are not in increasing order, or none, or negative.
          BadMedia: one of the frames is missing or damaged, or the time is over.
          Exception: whatever the decoder finds wrong.
        """


@runtime_checkable
class Video(Protocol):
    """A video that is not open yet."""

    def open(self) -> contextlib.AbstractContextManager[OpenVideo]:
        """Opens it.

        Raises:
          BadMedia: empty, not a video, too large, shorter than it says, or too slow.
          OSError: it cannot be read.
          Exception: whatever the decoder finds wrong.
        """


class Example(NamedTuple):
    """One example as its dataset stores it."""

    data: bytes | np.ndarray | Video  # an image file; pixels: uint8 (height, width, 3), RGB
    label: int | None  # class index; None when the dataset has no labels


@runtime_checkable
class Source(Protocol):
    """A finite, ordered list of examples that can be read in any order, from several threads.

    An optional attribute `flippable = False` says that mirroring an example changes its class.
    """

    num_examples: int
    class_names: tuple[str, ...] | None  # by class index; None when there are no labels
    # Short hash of the list (names, order, labels), so that a resumed run can refuse a list that
    # was edited meanwhile. It does not depend on the folder.
    fingerprint: str

    def __init__(self, split: str = "train", **section):
        """Lists the examples of a split; the other arguments are a recipe's section."""

    def name_of(self, index: int) -> str:
        """Where an example comes from, for messages and reports."""

    def read(self, index: int) -> Example:
        """Reads one example; raises OSError when it cannot."""


def fingerprint(strings: Iterable[bytes]) -> str:
    """Hash of a sequence of byte strings, 16 hexadecimal digits; ("ab", "c") is not ("a", "bc")."""
    digest = hashlib.sha256()
    for string in strings:
        digest.update(b"%d:" % len(string))
        digest.update(string)
    return digest.hexdigest()[:16]
