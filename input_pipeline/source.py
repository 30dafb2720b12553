"""What a source of examples is, and what it hands over."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np


class OpenVideo(Protocol):
    """A video of which any frames can be decoded.

    Attributes:
      num_frames: frames in the order of presentation, 1 or more.
      fps: frames per second.
      height: in pixels.
      width: in pixels.
    """

    num_frames: int
    fps: float
    height: int
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
        """Opens it; raises BadMedia, OSError or whatever the decoder finds wrong."""


class Example(NamedTuple):
    """One example as its dataset stores it.

    Attributes:
      data: the bytes of an image file, or its pixels: uint8 (height, width, 3), RGB; or a video.
      label: class index; None when the dataset has no labels.
    """

    data: bytes | np.ndarray | Video
    label: int | None


class Source(Protocol):
    """A finite, ordered list of examples that can be read in any order, from several threads.

    Attributes:
      num_examples: how many examples there are.
      class_names: name of each class, by class index; None when there are no labels.
      fingerprint: short hash of the list (names, order, labels), so that a resumed run can refuse
        a list that was edited meanwhile. It does not depend on the folder.
      flippable: optional; False says that mirroring an example changes its class.
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


def fingerprint(strings: Iterable[bytes]) -> str:
    """Hash of a sequence of byte strings, 16 hexadecimal digits.

    Args:
      strings: their borders count, so ("ab", "c") differs from ("a", "bc").
    """
    digest = hashlib.sha256()
    for string in strings:
        digest.update(b"%d:" % len(string))
        digest.update(string)
    return digest.hexdigest()[:16]
