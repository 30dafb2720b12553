"""AVA v2.2, AVA-Kinetics, and datasets in their format: people in key frames, and their actions."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from input_pipeline.boxes import LabelledBoxes, Truth
from input_pipeline.datasets.box_lists import (
    Actions,
    BoxList,
    read_actions,
    read_boxes,
    read_excluded,
    read_frame_list,
)
from input_pipeline.datasets.movies import Movies
from input_pipeline.paths import local_path
from input_pipeline.source import Example, fingerprint
from input_pipeline.texts import name_bytes, raise_problems

GROUPS = {  # of classes, by `label_type` of the list of actions
    "PERSON_MOVEMENT": "pose",
    "OBJECT_MANIPULATION": "object",
    "PERSON_INTERACTION": "person",
}
_FIRST = 20  # videos whose frames are looked for


class Ava:
    """Key frames with boxes of people, each with the actions of its person.

    An example is a second of a film with at least one box. Frame round((second - start) x frame
    rate) shows it, counted from 0; the clip lies around it. In training the boxes are those of the
    ground truth and of `train_boxes`; in other splits those of `eval_boxes`, or of the ground truth
    if that is empty. Missing files, and seconds that a film lacks, count as bad inputs when they
    are read.

    The defaults are the layout of PySlowFast: `frames/<video>/<video>_000001.jpg` at 30 frames per
    second, `frame_lists/`, `annotations/`. AVA-Kinetics has rows of the same form, without the
    number of a person; its second counts from the start of the whole film. The clips that Kinetics
    distributes have first and last second in their names, which are used, see `Movies`: give AVA's
    frames by `frame_lists` and the folder of Kinetics by `videos`, and both lists in `truth`.

    Attributes:
      boxes: see `LabelledBoxes`; the class index is the id of the action minus 1.

    Source: PySlowFast slowfast/datasets/ava_dataset.py, ava_helper.py; for AVA-Kinetics mmaction2
    tools/data/ava_kinetics.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        path: str,
        truth: Sequence[str] = ("annotations/ava_{split}_v2.2.csv",),
        train_boxes: Sequence[str] = (),
        eval_boxes: Sequence[str] = ("annotations/ava_{split}_predicted_boxes.csv",),
        threshold: float = 0.9,
        every: int = 1,
        excluded: Sequence[str] = ("annotations/ava_{split}_excluded_timestamps_v2.2.csv",),
        classes: str = "annotations/ava_action_list_v2.2.pbtxt",
        scored: str | None = "annotations/ava_action_list_v2.2_for_activitynet_2019.pbtxt",
        frames: str = "frames",
        frame_lists: Sequence[str] | None = None,
        videos: str | None = None,
        start: float | None = None,
        index: str | None = None,
    ):
        """Reads the lists.

        Args:
          split: "train", or "val" or another one of evaluation; it replaces "{split}" in all names.
          path: the folder that all others are relative to.
          truth: lists of boxes of the ground truth; none for a test split.
          train_boxes: lists of predicted boxes with classes, which training takes in addition.
          eval_boxes: lists of predicted boxes for evaluation.
          threshold: predicted boxes with a lower score are left out. Recipes of SlowFast networks
            have 0.8.
          every: only seconds that this number divides; 4 makes evaluation during training quick.
          excluded: lists of key frames that are not scored.
          classes: the label map with all actions.
          scored: the label map of the actions that are scored; None for all.
          frames: the folder that paths in `frame_lists` are relative to.
          frame_lists: lists of the frames of the videos, see `box_lists.read_frame_list`; None
            means frame_lists/{split}.csv, or no list if `videos` is set.
          videos: a folder of videos, for those that no frame list has.
          start: second of the film at which its frames or its file begin: 900 for AVA's, as they
            are prepared for PySlowFast, 0 for whole films. None means 900 for frames; whole files
            need it.
          index: JSON lines that `input_pipeline.prepare` wrote for `videos`; None means its
            index.jsonl, if it exists.

        Raises:
          ValueError: files are missing, invalid rows (the message contains the first 20), lists of
            different videos, or no boxes.
          OSError: a file cannot be read.
        """
        if every < 1 or not 0 <= threshold <= 1:
            raise ValueError(
                f"every is {every} and threshold {threshold}; expected 1 or more, and 0 to 1"
            )
        root, training = local_path(path), split == "train"

        def files(key: str, names: Sequence[str]) -> list[Path]:
            found = [root / local_path(name.replace("{split}", split)) for name in names]
            if missing := [file for file in found if not file.is_file()]:
                raise ValueError(f"{missing[0]} is not a file; correct {key}")
            return found

        (classes_file,) = files("classes", [classes])
        actions = read_actions(classes_file)
        self.class_names: tuple[str, ...] | None = actions.class_names
        count = len(actions.class_names)
        true = [read_boxes(file, count) for file in files("truth", truth)]
        boxes_key, lists = ("train_boxes", train_boxes) if training else ("eval_boxes", eval_boxes)
        predicted = [read_boxes(file, count, threshold) for file in files(boxes_key, lists)]
        used = true + predicted if training or not predicted else predicted
        _check_videos(true, predicted, complete=not training)
        skipped = _read_excluded(files("excluded", excluded if true else []), true)
        scored_ids = None
        if scored is not None:
            (scored_file,) = files("scored", [scored])
            scored_ids = _scored(scored_file, classes_file, actions)
        if frame_lists is None:
            frame_lists = ("frame_lists/{split}.csv",) if videos is None else ()
        self._movies = Movies({video for boxes in used for video in boxes.videos}, start)
        for file in files("frame_lists", frame_lists):
            self._movies.add_frames(str(root / local_path(frames)), read_frame_list(file))
        if videos is not None:
            self._movies.add_videos(str(root / local_path(videos)), index)
        else:
            _check_frames(used, self._movies)
        self.boxes = _merge(
            used, every, count, _truth(true, every, skipped, scored_ids, actions) if true else None
        )
        self.num_examples = len(self.boxes.keys)
        if not self.num_examples:
            raise ValueError(
                f"{', '.join(str(boxes.file) for boxes in used) or 'no list'}: no boxes of the "
                f"split {split!r} (threshold={threshold}, every={every})"
            )
        if videos is None:
            self._check_folders()
        boxes = self.boxes
        self.fingerprint = fingerprint(
            [
                *map(name_bytes, [*actions.class_names, "keys", *boxes.keys]),
                *(array.tobytes() for array in (boxes.first, boxes.sides, boxes.classes)),
            ]
        )

    def name_of(self, index: int) -> str:
        """The video, or the folder of its frames, and the second."""
        return f"{self._movies.path(*self._place(index))}, second {self._place(index)[1]}"

    def read(self, index: int) -> Example:
        """A video with a key frame, not opened yet; raises BadMedia if the index marks it as bad.

        See `movies.KeyFrameVideo`.
        """
        return Example(self._movies.video(*self._place(index)), None)

    def _place(self, index: int) -> tuple[str, int]:
        video, _, second = self.boxes.keys[index].rpartition(",")
        return video, int(second)

    def _check_folders(self) -> None:
        some = range(0, self.num_examples, max(1, self.num_examples // _FIRST))
        paths = [self._movies.path(*self._place(index)) for index in some]
        if not any(map(os.path.isdir, paths)):
            raise ValueError(
                f"none of {len(paths)} folders of frames exists, such as {paths[0]}; set "
                "frames to the folder that the paths in frame_lists are relative to"
            )


def _check_videos(true: list[BoxList], predicted: list[BoxList], complete: bool) -> None:
    """Raises ValueError if predicted boxes and the ground truth are of different videos.

    Args:
      true: lists of the ground truth.
      predicted: lists of predicted boxes.
      complete: whether all videos need predicted boxes, except those with one key frame, as in
        AVA-Kinetics, where a detector may find nobody.
    """
    if not true or not predicted:
        return
    known = {video for boxes in true for video in boxes.videos}
    files = " and ".join(str(boxes.file) for boxes in true)
    for boxes in predicted:
        strangers = [(line, video) for video, line in boxes.videos.items() if video not in known]
        raise_problems(
            boxes.file,
            (f"line {line}: the video {video} is not in {files}" for line, video in strangers),
        )
    if not complete:
        return
    found = {video for boxes in predicted for video in boxes.videos}
    files = " and ".join(str(boxes.file) for boxes in predicted)
    for boxes in true:
        seconds = _seconds_of_videos(boxes)
        if 2 * len(boxes.videos.keys() & found) < len(boxes.videos):
            raise ValueError(
                f"{boxes.file}: {len(boxes.videos.keys() - found)} of its {len(boxes.videos)} "
                f"videos have no box in {files}; add the list of their boxes to eval_boxes"
            )
        raise_problems(
            boxes.file,
            (
                f"line {line}: the video {video} has {seconds[video]} key frames, but no box in "
                f"{files}"
                for video, line in boxes.videos.items()
                if video not in found and seconds.get(video, 0) > 1
            ),
        )


def _seconds_of_videos(boxes: BoxList) -> dict[str, int]:
    """Number of key frames with boxes, by video."""
    counts: dict[str, int] = {}
    for key in set(boxes.keys):
        video = key.rpartition(",")[0]
        counts[video] = counts.get(video, 0) + 1
    return counts


def _read_excluded(files: list[Path], true: list[BoxList]) -> frozenset[str]:
    known = {video for boxes in true for video in boxes.videos}
    excluded: set[str] = set()
    for file in files:
        lines = read_excluded(file)
        if lines and known.isdisjoint(key.rpartition(",")[0] for key in lines):
            raise ValueError(
                f"{file}: none of its videos, such as {next(iter(lines))}, is in "
                f"{' and '.join(str(boxes.file) for boxes in true)}; set excluded to the list of "
                "this split, or to an empty list"
            )
        excluded.update(lines)
    return frozenset(excluded)


def _check_frames(lists: list[BoxList], movies: Movies) -> None:
    """Raises ValueError if the frame lists lack a video."""
    for boxes in lists:
        raise_problems(
            boxes.file,
            (
                f"line {line}: the video {video} is in none of frame_lists"
                for video, line in boxes.videos.items()
                if video not in movies
            ),
        )


def _scored(file: Path, classes: Path, actions: Actions) -> tuple[int, ...]:
    ids = sorted(read_actions(file).names)
    last = len(actions.class_names)
    raise_problems(
        file, (f"id {i} is beyond {last}, the last of {classes}" for i in ids if i > last)
    )
    return tuple(i - 1 for i in ids)


def _truth(
    lists: list[BoxList],
    every: int,
    excluded: frozenset[str],
    scored: tuple[int, ...] | None,
    actions: Actions,
) -> Truth:
    keys, sides, classes = [], [], []
    for boxes in lists:
        chosen = np.flatnonzero(_is_kept(boxes.keys, every)[boxes.rows] & (boxes.classes >= 0))
        keys.append(np.array(boxes.keys, np.str_)[boxes.rows[chosen]])
        sides.append(boxes.sides[boxes.rows[chosen]])
        classes.append(boxes.classes[chosen])
    groups = {GROUPS.get(kind, kind): indices for kind, indices in actions.groups.items()}
    rows = np.concatenate(keys), np.concatenate(sides), np.concatenate(classes)
    annotated = sorted({key for boxes in lists for key in (*boxes.keys, *boxes.empty)})
    kept = _is_kept(annotated, every)
    empty = frozenset(np.array(annotated, np.str_)[kept].tolist()) - set(rows[0].tolist())
    return Truth(*rows, excluded, scored, groups, empty)


def _merge(
    lists: list[BoxList], every: int, num_classes: int, truth: Truth | None
) -> LabelledBoxes:
    """The boxes of the lists, each once, by key frame in the order of the keys."""
    numbers: dict[str, int] = {}
    places = [
        np.array([numbers.setdefault(box, len(numbers)) for box in boxes.boxes], np.int64)
        for boxes in lists
    ]
    keys = [""] * len(numbers)
    sides = np.empty((len(numbers), 4))
    classes = np.zeros((len(numbers), num_classes), np.bool_)
    for boxes, place in zip(lists, places, strict=True):
        for number, key in zip(place.tolist(), boxes.keys, strict=True):
            keys[number] = key
        sides[place] = boxes.sides
        labelled = boxes.classes >= 0
        classes[place[boxes.rows[labelled]], boxes.classes[labelled]] = True
    kept = np.flatnonzero(_is_kept(keys, every))
    examples = sorted({keys[row] for row in kept})
    number_of = {key: number for number, key in enumerate(examples)}
    example = np.array([number_of[keys[row]] for row in kept], np.int64)
    order = kept[np.argsort(example, kind="stable")]
    counts = np.bincount(example, minlength=len(examples))
    first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return LabelledBoxes(tuple(examples), first, sides[order], classes[order], truth)


def _is_kept(keys: Sequence[str], every: int) -> np.ndarray:
    """Whether the seconds are divisible: bool (keys,)."""
    if every == 1:
        return np.ones(len(keys), np.bool_)
    return np.fromiter((second % every == 0 for second in _seconds(keys)), np.bool_, len(keys))


def _seconds(keys: Sequence[str]) -> Iterator[int]:
    return (int(key[key.rindex(",") + 1 :]) for key in keys)
