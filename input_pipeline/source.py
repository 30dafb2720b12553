"""Protocols of sources of examples and of videos."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from input_pipeline.texts import printable

_ENDINGS = 8  # of files that are left out, in a sentence
IMAGE_PIXELS = 64_000_000
FRAME_PIXELS = 4096 * 4096  # of a video: its decoder holds up to 17 frames, and a clip as many


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of a file; one beyond them is rejected before its pixels are allocated.

    Attributes:
      max_pixels: of an image or of a frame; None means `IMAGE_PIXELS` or `FRAME_PIXELS`.
      max_frames: of a video.
      timeout_seconds: for opening a video, and for each request for frames.
    """

    max_pixels: int | None = None
    max_frames: int = 500_000
    timeout_seconds: float = 30.0

    @property
    def image_pixels(self) -> int:
        """Largest number of pixels of an image."""
        return self.max_pixels or IMAGE_PIXELS

    @property
    def frame_pixels(self) -> int:
        """Largest number of pixels of a frame of a video."""
        return self.max_pixels or FRAME_PIXELS


LIMITS = Limits()


class OpenVideo(Protocol):
    """An open video; decodes any of its frames.

    An optional attribute `key_frame` is the index of the frame that its labels are of; it may lie
    outside a video that is too short.
    """

    num_frames: int  # in the order of presentation, 1 or more
    fps: float  # frames per second
    height: int  # pixels
    width: int

    def frames(self, indices: Sequence[int], short_side: int | None = None) -> np.ndarray:
        """Decodes the requested frames, and only the other frames that they depend on.

        Args:
          indices: in increasing order, repeats allowed, from 0 to `num_frames - 1`.
          short_side: number of pixels to scale the shorter side to; None for no scaling.

        Returns:
          uint8 `(len(indices), height, width, 3)`, RGB.

        Raises:
          ValueError: the indices are empty, negative or not in increasing order.
          BadMedia: one of the frames is missing or damaged, or decoding timed out.
          Exception: any other error of the decoder.
        """


@runtime_checkable
class Video(Protocol):
    """A video that is not open yet.

    An optional attribute `stale` says why an index does not apply to it, if the file was replaced.
    """

    def open(self, limits: Limits = LIMITS) -> contextlib.AbstractContextManager[OpenVideo]:
        """Opens it.

        Raises:
          BadMedia: empty, not a video, too large, shorter than its header states, or timed out.
          OSError: it cannot be read.
          Exception: any other error of the decoder.
        """


class Example(NamedTuple):
    """One example as its dataset stores it."""

    data: bytes | np.ndarray | Video  # an image file; pixels: uint8 (height, width, 3), RGB
    label: int | None  # class index; None when the dataset has no labels


class Columns(Protocol):
    """Further arrays of each row of a batch, of a source whose examples have more than a label."""

    @property
    def columns(self) -> Mapping[str, tuple[tuple[int, ...], Any]]:
        """Shape and dtype of a row of each array, by name."""

    def read(self, index: int, cut: Any) -> dict[str, np.ndarray]:
        """The rows of the clips of an example.

        Args:
          index: of the example.
          cut: its clips, a `views.clips.Cut`.

        Raises:
          BadMedia: the example cannot be used.
        """


@runtime_checkable
class Source(Protocol):
    """A finite, ordered list of examples that can be read in any order, from several threads.

    Optional attributes: `flippable = False` means that mirroring an example changes its class;
    `left_out`, a `LeftOut`, counts the other files of its folder; runs report it; `label_maps`, a
    `LabelMaps`, or `boxes`, a `LabelledBoxes`, are those that its examples have.
    """

    num_examples: int
    class_names: tuple[str, ...] | None  # by class index; None when there are no labels
    # Short hash of the list (names, order, labels), so that a resumed run can reject a list that
    # has changed. It does not depend on the folder.
    fingerprint: str

    def __init__(self, split: str = "train", **section):
        """Lists the examples of a split; the other arguments are keys of a recipe's section."""

    def name_of(self, index: int) -> str:
        """Origin of an example, such as its path, for messages and reports."""

    def read(self, index: int) -> Example:
        """Reads one example; raises OSError when it cannot."""


class LeftOut(collections.Counter[str]):
    """Number of files that a source does not list, by their ending.

    As a string it is a sentence, such as "5 other files left out: .txt 3, .tif 2"; "" if empty.
    """

    def __str__(self) -> str:
        if not self:
            return ""
        common = sorted(self, key=lambda ending: (-self[ending], ending))[:_ENDINGS]
        words = [f"{printable(ending)} {self[ending]}" for ending in common]
        if rest := self.total() - sum(self[ending] for ending in common):
            words.append(f"with other endings {rest}")
        return f"{self.total()} other file{'s'[: self.total() - 1]} left out: {', '.join(words)}"


def fingerprint(strings: Iterable[bytes]) -> str:
    """Hash of a sequence of byte strings, 16 hexadecimal digits; ("ab", "c") is not ("a", "bc")."""
    digest = hashlib.sha256()
    for string in strings:
        digest.update(b"%d:" % len(string))
        digest.update(string)
    return digest.hexdigest()[:16]
