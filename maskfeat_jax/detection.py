"""Average precision of detected boxes at an IoU of 0.5, as it is reported for AVA.

Two scorers are in use, and their numbers differ:

- `slowfast`, of PySlowFast (`slowfast/utils/ava_eval_helper.py`, `ava_evaluation/`): without the
  excluded keys; a box on any other key without truth is wrong; of several boxes on one true box,
  the first in the given order is right.
- `activitynet`, of ActivityNet (`Evaluation/get_ava_performance.py`): it has no excluded keys, and
  ignores boxes on keys that were not annotated; of each key, it reads the 50 best pairs of a box
  and a scored class; of several boxes on one true box, the one with the highest score is right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

SCORERS = ("slowfast", "activitynet")
_IOU = 0.5
_MOST = 50  # pairs of a box and a class that ActivityNet's scorer reads of a key


class Truth(Protocol):
    """True boxes: each row is a box with one class."""

    @property
    def keys(self) -> np.ndarray:
        """`(m,)` str, such as "-5KQ66BBWC4,0902": video and second of each row."""

    @property
    def sides(self) -> np.ndarray:
        """`(m, 4)` float64: left, top, right, bottom."""

    @property
    def classes(self) -> np.ndarray:
        """`(m,)` int: number of the class, from 0."""

    @property
    def excluded(self) -> frozenset[str]:
        """Keys that `slowfast` leaves out."""

    @property
    def empty(self) -> frozenset[str]:
        """Keys that were annotated and have no row."""

    @property
    def scored(self) -> tuple[int, ...] | None:
        """Classes that count; None for all."""


class Detections(NamedTuple):
    """Boxes, each with a score for every class; -inf where it is no detection of that class."""

    keys: np.ndarray  # (n,) str: video and second of each box
    sides: np.ndarray  # float64 (n, 4): left, top, right, bottom, in the unit of the truth
    scores: np.ndarray  # float32 (n, classes)


def average_precisions(
    truth: Truth, detections: Detections, scorer: str = "slowfast"
) -> Float[np.ndarray, " classes"]:
    """Average precision of each class: the area below all points of precision over recall.

    A box is right about a class if the true box of that class with which it overlaps most has an
    IoU of at least 0.5, and no other box was right about that one before. Boxes without area are
    left out. Of boxes with equal scores, the one given last comes first, where the keys are in the
    order in which they first appear.

    Args:
      truth: what should be detected.
      detections: what was.
      scorer: one of `SCORERS`.

    Returns:
      NaN for a class that does not count or has no true box.

    Raises:
      ValueError: no such scorer.
    """
    if scorer not in SCORERS:
        raise ValueError(f"scorer {scorer!r} is not one of {', '.join(SCORERS)}")
    official = scorer == "activitynet"
    sides, scores = detections.sides, detections.scores
    number: dict[str, int] = {}  # of each key, in the order of their appearance
    own, true = (
        np.array([number.setdefault(key, len(number)) for key in keys.tolist()], np.int64)
        for keys in (detections.keys, truth.keys)
    )
    scored = np.zeros(scores.shape[1], bool)
    scored[slice(None) if truth.scored is None else list(truth.scored)] = True

    counts = scored[truth.classes]
    read = scored & ~np.isneginf(scores)
    if official:
        annotated = {number[key] for key in truth.empty if key in number}.union(true.tolist())
        read &= np.isin(own, list(annotated))[:, None]
        read &= _best_of_each_key(own, scores, scored)
    else:
        excluded = [number[key] for key in truth.excluded if key in number]
        counts &= ~np.isin(true, excluded)
        read &= ~np.isin(own, excluded)[:, None]
    read &= ((sides[:, 0] < sides[:, 2]) & (sides[:, 1] < sides[:, 3]))[:, None]

    classes = truth.classes[counts]
    box, of = _matches((own, sides), (true[counts], truth.sides[counts]), classes, read)
    rank = -scores[box, classes[of]] if official else np.zeros(len(box))
    first = _first_of_each(of, rank, box)
    right = np.zeros(read.shape, bool)
    right[box[first], classes[of[first]]] = True

    totals = np.bincount(classes, minlength=len(scored))
    precisions = np.full(len(scored), np.nan)
    by_key = np.argsort(own, kind="stable")
    for k in np.flatnonzero(totals):
        rows = by_key[read[by_key, k]]
        rows = rows[np.argsort(scores[rows, k], kind="stable")[::-1]]
        precisions[k] = _average_precision(right[rows, k], totals[k])
    return precisions


def mean_ap(
    precisions: Float[np.ndarray, " classes"], groups: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """`mAP`, the mean average precision over classes that have one, and that of each group.

    Args:
      precisions: by class, see `average_precisions`.
      groups: classes of each; the mean of the group `pose` is called `mAP_pose`.

    Returns:
      Fractions; NaN where no class has an average precision.
    """
    parts = {"mAP": precisions, **{f"mAP_{k}": precisions[list(v)] for k, v in groups.items()}}
    known = {name: part[~np.isnan(part)] for name, part in parts.items()}
    return {name: float(part.mean()) if len(part) else np.nan for name, part in known.items()}


def detections_csv(detections: Detections, classes: Sequence[int]) -> Iterator[str]:
    """Lines of AVA's csv of detections, which both originals write or read; those of each box.

    Columns, without a header: video, second, left, top, right, bottom (3 decimals), action (from
    1), score (4 decimals). It is rounded: score detections, not this file.

    Args:
      detections: with keys "video,second".
      classes: those to write, such as those that count.
    """
    columns = [(k, f"{k + 1}") for k in classes]
    for key, sides, scores in zip(*detections, strict=True):
        box = ",".join([key, *(f"{side:.3f}" for side in sides)])
        some = ((action, float(scores[k])) for k, action in columns)
        yield "".join(f"{box},{action},{p:.4f}\n" for action, p in some if p != -math.inf)


def _best_of_each_key(
    keys: Int[np.ndarray, " n"],
    scores: Float[np.ndarray, "n classes"],
    scored: Bool[np.ndarray, " classes"],
) -> Bool[np.ndarray, "n classes"]:
    """The pairs that ActivityNet's scorer reads; of equal scores the first ones."""
    best = np.zeros(scores.shape, bool)
    columns = np.flatnonzero(scored)
    by_key = np.argsort(keys, kind="stable")
    ends = np.cumsum(np.bincount(keys))[:-1]
    for rows in np.split(by_key, ends):
        pairs = -scores[np.ix_(rows, columns)].ravel()
        chosen = np.argsort(pairs, kind="stable")[:_MOST]
        row, column = np.divmod(chosen, len(columns))
        best[rows[row], columns[column]] = True
    return best


def _matches(
    found: tuple[np.ndarray, np.ndarray],
    true: tuple[np.ndarray, np.ndarray],
    classes: Int[np.ndarray, " m"],
    read: Bool[np.ndarray, "n classes"],
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """For each box and class, the true box of that class with the largest IoU, if at least 0.5.

    Args:
      found: keys and sides of the boxes.
      true: of the true boxes.
      classes: of the true boxes.
      read: pairs of boxes and classes to consider.

    Returns:
      Rows of the boxes and of the true boxes.
    """
    by_key = np.argsort(true[0], kind="stable")
    start, end = (np.searchsorted(true[0], found[0], side, by_key) for side in ("left", "right"))
    many = (end - start) * read.any(1)
    box = np.repeat(np.arange(len(many)), many)
    of = by_key[np.arange(len(box)) + np.repeat(start - np.cumsum(many) + many, many)]
    iou = _iou(found[1][box], true[1][of])
    near = np.flatnonzero((iou >= _IOU) & read[box, classes[of]])
    box, of, iou = box[near], of[near], iou[near]
    best = _first_of_each(box * read.shape[1] + classes[of], -iou, of)
    return box[best], of[best]


def _iou(a: Float[np.ndarray, "n 4"], b: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, " n"]:
    """Intersection over union of pairs of boxes."""
    inner = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    common = np.maximum(inner, 0).prod(1)
    areas = [(box[:, 2:] - box[:, :2]).prod(1) for box in (a, b)]
    return common / (areas[0] + areas[1] - common)


def _first_of_each(groups: Int[np.ndarray, " n"], *ranks: np.ndarray) -> Int[np.ndarray, " groups"]:
    """Of each group, the row with the lowest rank, where the first ranks count most."""
    order = np.lexsort((*ranks[::-1], groups))
    return order[np.unique(groups[order], return_index=True)[1]]


def _average_precision(right: Bool[np.ndarray, " n"], total: int) -> float:
    """Of boxes with decreasing scores.

    Precision at a recall is the largest at this or a higher one.
    """
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[right].sum() / total)
