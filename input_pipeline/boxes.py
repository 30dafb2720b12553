"""Labelled boxes of key frames: where people are, and what they do."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from input_pipeline.views.clips import Cut


class Truth(NamedTuple):
    """What the detections of a dataset are scored against; a row is one box with one class."""

    keys: np.ndarray  # str (m,): video and second, such as "-5KQ66BBWC4,0902"
    sides: np.ndarray  # float64 (m, 4): left, top, right, bottom, as fractions of the frame
    classes: np.ndarray  # int (m,): indices of class names
    excluded: frozenset[str] = frozenset()  # keys that are not scored
    scored: tuple[int, ...] | None = None  # classes that are; None for all
    groups: Mapping[str, tuple[int, ...]] = {}  # of classes, each with a mean of its own
    empty: frozenset[str] = frozenset()  # keys that were annotated and have no row


@dataclasses.dataclass(frozen=True)
class LabelledBoxes:
    """The boxes of a dataset whose examples are key frames; the attribute `boxes` of its source.

    Attributes:
      keys: of each example, as in `truth`; each once.
      first: int64 (examples + 1,); the boxes of example i are rows first[i] to first[i + 1] - 1.
      sides: float64 (rows, 4): left, top, right, bottom, as fractions of the frame.
      classes: bool (rows, classes); a box may have several classes, or none.
      truth: None if the dataset is not for scoring.
    """

    keys: tuple[str, ...]
    first: np.ndarray
    sides: np.ndarray
    classes: np.ndarray
    truth: Truth | None = None

    @functools.cached_property
    def most(self) -> int:
        """Largest number of boxes of an example, to which all are padded in a batch."""
        return max(1, int(np.diff(self.first).max(initial=0)))

    @property
    def columns(self) -> Mapping[str, tuple[tuple[int, ...], Any]]:
        """See `source.Columns`."""
        classes = self.classes.shape[1]
        return {
            "boxes": ((self.most, 4), np.float32),
            "box_classes": ((self.most, classes), np.bool_),
            "box_valid": ((self.most,), np.bool_),
        }

    def read(self, index: int, cut: Cut) -> dict[str, np.ndarray]:
        """The boxes of an example in pixels of each of its clips, see `source.Columns`."""
        rows = slice(self.first[index], self.first[index + 1])
        sides, count = self.sides[rows], rows.stop - rows.start
        clips = len(cut.video)
        read = {name: np.zeros((clips, *s), dtype) for name, (s, dtype) in self.columns.items()}
        for clip, placement in enumerate(cut.placements):
            read["boxes"][clip, :count] = placement.boxes(sides)
        read["box_classes"][:, :count] = self.classes[rows]
        read["box_valid"][:, :count] = True
        return read
