"""Something-Something v2 as distributed: JSON files of annotations and a folder of videos."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.datasets.video_index import ListedVideos
from input_pipeline.paths import local_path
from input_pipeline.texts import raise_problems

NUM_CLASSES = 174
SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
FOLDERS = ("20bn-something-something-v2", "videos", "")  # of the videos, below the root
SUFFIXES = (".webm", ".mp4")


class Ssv2(ListedVideos):
    """Something-Something v2: the videos of a split in the order of its annotations.

    The `id` of a record is the file name, its `template` without brackets the class; the test split
    has no labels. Missing files count as bad inputs when they are read.

    Attributes:
      flippable: False: "from left to right" is a class, so clips must not be flipped.
    """

    flippable = False

    def __init__(
        self,
        split: str = "train",
        *,
        path: str,
        videos: str | None = None,
        index: str | None = None,
    ):
        """Reads the annotations.

        Args:
          split: "train", "val" (or "validation"), or "test".
          path: the folder with something-something-v2-labels.json, -train.json, -validation.json
            and -test.json, or labels.json, train.json, ...; they may be in its subfolder labels/.
          videos: the folder of {id}.webm (or .mp4); None means 20bn-something-something-v2, or
            videos, below `path`, or `path` itself.
          index: JSON lines that `input_pipeline.prepare` wrote for that folder; None means its
            index.jsonl, if it exists.

        Raises:
          ValueError: files are missing, or do not contain 174 labels numbered from 0, or records
            with an id and a template that is one of the labels.
          OSError: a file cannot be read.
        """
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
        root = local_path(path)
        file = _find(root, SPLITS[split])
        records = _load(file, list)
        _check_ids(file, records)
        class_names = labels = None
        if split != "test":
            class_names = _class_names(_find(root, "labels"))
            labels = _labels(file, records, class_names)
        ids = [record["id"] for record in records]
        folder = str(_find_videos(root, ids[0]) if videos is None else local_path(videos))
        suffix = _suffix(folder, ids[:20])
        # The fingerprint uses ids: a copy of the dataset in another container is the same.
        super().__init__(folder, [name + suffix for name in ids], labels, class_names, index, ids)


def _find(root: Path, name: str) -> Path:
    names = (f"something-something-v2-{name}.json", f"{name}.json")
    for folder in (root, root / "labels"):
        for file in names:
            if (folder / file).is_file():
                return folder / file
    raise ValueError(f"{root} and {root / 'labels'} hold neither {names[0]} nor {names[1]}")


def _load(file: Path, kind: type) -> Any:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, kind) or not content:
        expected = "list of records" if kind is list else "table of labels"
        raise ValueError(f"{file}: expected a {expected}, found {str(content)[:60]!r}")
    return content


def _class_names(file: Path) -> tuple[str, ...]:
    """Names by class index; the file maps names to indices, which are strings."""
    table = _load(file, dict)
    expected = [str(label) for label in range(NUM_CLASSES)]
    if sorted(map(str, table.values())) != sorted(expected):
        raise ValueError(
            f"{file} holds {len(table)} labels; expected {NUM_CLASSES}, numbered from 0 to "
            f"{NUM_CLASSES - 1}, each once"
        )
    return tuple(sorted(table, key=lambda name: int(table[name])))


def _check_ids(file: Path, records: list) -> None:
    seen: set[str] = set()
    problems = []
    for number, record in enumerate(records, 1):
        name = record.get("id") if isinstance(record, dict) else None
        if not isinstance(name, str) or not name.isdigit():
            problems.append(f"record {number}: expected an id such as '78687', found {name!r}")
        elif name in seen:
            problems.append(f"record {number}: duplicate id {name}")
        else:
            seen.add(name)
    raise_problems(file, problems)


def _labels(file: Path, records: list, class_names: tuple[str, ...]) -> np.ndarray:
    label_of = {name: label for label, name in enumerate(class_names)}
    labels = np.empty(len(records), np.int32)
    problems = []
    for row, record in enumerate(records):
        template = str(record.get("template")).replace("[", "").replace("]", "")
        if template in label_of:
            labels[row] = label_of[template]
        else:
            problems.append(
                f"record {row + 1} (id {record['id']}): no label for template {template!r}"
            )
    raise_problems(file, problems)
    return labels


def _find_videos(root: Path, first: str) -> Path:
    folders = [root / name for name in FOLDERS]
    for folder in folders:
        if any((folder / f"{first}{suffix}").exists() for suffix in SUFFIXES):
            return folder
    for folder in folders[:-1]:
        if folder.is_dir():
            return folder
    raise ValueError(
        f"no videos such as {first}.webm in {', '.join(map(str, folders))}; set videos to their "
        "folder"
    )


def _suffix(folder: str, ids: list[str]) -> str:
    for suffix in SUFFIXES:
        if any(os.path.exists(os.path.join(folder, name + suffix)) for name in ids):
            return suffix
    raise ValueError(
        f"{folder} holds none of the first {len(ids)} videos, such as {ids[0]}.webm; set "
        "videos to their folder"
    )
