"""Videos in TFRecord files: one SequenceExample per video, one JPEG per frame."""

from __future__ import annotations

import contextlib
import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from input_pipeline.bad_inputs import BadMedia, refuse_larger
from input_pipeline.datasets.class_files import MAX_CLASSES, labels_from_one, read_class_names
from input_pipeline.decode.images import decoded_alone
from input_pipeline.paths import local_path
from input_pipeline.records.index import Record, open_indexes, path_of_index
from input_pipeline.source import LIMITS, Example, Limits, fingerprint
from input_pipeline.texts import name_bytes

_JPEG_END = b"\xff\xd9"
_SHARD = re.compile(r"(?P<split>.+?)(\.tfrecords?)?-(?P<number>\d{5,})-of-(?P<count>\d{5,})$")

cv2.setNumThreads(0)  # the loader has its own threads


class VideoRecords:
    """The videos of `path/<split>-00000-of-00010` and so on, with random access.

    The files are those that `python -m input_pipeline.prepare --records` writes, and those of dmvr
    and scenic (uncompressed, at most one label). Only the requested frames of a video are read:
    their byte offsets are in an index next to the file, which is made on first use, or beforehand
    with `python -m input_pipeline.records PATH`. The files must be in a file system; mount a
    bucket.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        path: str,
        fps: float | None = None,
        classes: str | None = None,
    ):
        """Opens the indexes; missing ones are made, which reads the files completely.

        Args:
          split: prefix of the file names, without `.tfrecord`.
          path: the folder.
          fps: frames per second of the stored videos; None means that in the records (`clip/fps`).
          classes: a file with the names of the classes, see `class_files.read_class_names`; None
            means `classes.txt` in the folder if it exists, else the names in the records.

        Raises:
          ValueError: files are missing, truncated or have other contents, records without a frame
            rate, labels on some videos only, or labels that are out of range or from 1 on.
          OSError: a file cannot be read.
        """
        if fps is not None and not 0 < fps <= 1000:
            raise ValueError(f"fps is {fps}; it must be above 0 and at most 1000")
        folder = local_path(path)
        self._shards = _find_shards(folder, split)
        self._indexes = open_indexes(self._shards)
        counts = [len(index.records) for index in self._indexes]
        self._firsts = np.cumsum([0, *counts])
        self.num_examples = int(self._firsts[-1])
        sound = [r for index in self._indexes for r in index.records if r.damage is None]
        if not sound:
            raise ValueError(f"{path} holds no usable video of split {split!r}")
        self._fps = fps
        if fps is None and (without := [record.name for record in sound if record.fps is None]):
            raise ValueError(
                f"{len(without)} videos of {path} have no frame rate (clip/fps), such as "
                f"{without[0] or 'the first'}; set fps to the frame rate of all videos"
            )
        self.class_names = _class_names(sound, folder, classes)
        self.fingerprint = fingerprint(self._identity())

    def name_of(self, index: int) -> str:
        """The file, the index of the record in it, and the name of the original video."""
        shard, row = self._find(index)
        name = self._indexes[shard].records[row].name
        return f"{self._shards[shard]}:{row}" + (f" ({name})" if name else "")

    def read(self, index: int) -> Example:
        """One video, not opened yet, and its class."""
        shard, row = self._find(index)
        record = self._indexes[shard].records[row]
        frames = self._indexes[shard].frames(row)
        return Example(RecordVideo(self._shards[shard], record, frames, self._fps), record.label)

    def _find(self, index: int) -> tuple[int, int]:
        if not 0 <= index < self.num_examples:
            raise IndexError(f"example {index} of {self.num_examples}")
        shard = int(np.searchsorted(self._firsts, index, side="right")) - 1
        return shard, index - int(self._firsts[shard])

    def _identity(self) -> Iterator[bytes]:
        for name in self.class_names or ():
            yield name_bytes(name)
        for shard, index in zip(self._shards, self._indexes, strict=True):
            yield name_bytes(shard.name)
            for record in index.records:
                yield name_bytes(f"{record.name} {record.label} {record.num_frames}")


class RecordVideo(NamedTuple):
    """A video of a shard that is not open yet."""

    shard: Path  # the file
    record: Record  # its entry in the index
    locations: np.ndarray  # of its frames, of dtype `records.index.FRAME`
    fps: float | None = None  # frames per second; None means that in the record

    @contextlib.contextmanager
    def open(self, limits: Limits = LIMITS) -> Iterator[OpenRecord]:
        """Opens the file.

        Raises:
          BadMedia: the record is damaged, too large, or not the one that was indexed.
          OSError: it cannot be read.
        """
        if self.record.damage is not None:
            raise BadMedia("decode_error", self.record.damage)
        refuse_larger(self.record.width, self.record.height, limits.frame_pixels)
        with open(self.shard, "rb", buffering=0) as file:
            end, crc = self.record.end, self.record.crc
            if end is not None and os.pread(file.fileno(), 4, end) != struct.pack("<I", crc):
                index = path_of_index(self.shard)
                raise BadMedia(
                    "decode_error",
                    f"the record is not the one that was indexed; delete {index}, it is made again",
                )
            yield OpenRecord(self, file.fileno())


class OpenRecord:
    """An open video of a shard, a `source.OpenVideo`."""

    def __init__(self, video: RecordVideo, descriptor: int):
        self._video, self._descriptor = video, descriptor
        record = video.record
        self.num_frames, self.height, self.width = record.num_frames, record.height, record.width
        self.fps = video.fps or record.fps or 0.0

    def frames(self, indices: Sequence[int], short_side: int | None = None) -> np.ndarray:
        """See `OpenVideo.frames`: pixels equal Pillow's; scaled down by area, up bicubic.

        Raises:
          ValueError: there is no such frame.
          BadMedia: the bytes of a frame differ from the index, or are not a JPEG file.
        """
        return decoded_alone(self._decode, indices, (self.height, self.width), short_side)

    def _decode(self, index: int) -> np.ndarray:
        if not 0 <= index < self.num_frames:
            raise ValueError(f"frame {index} of a video of {self.num_frames}")
        offset, length, crc = self._video.locations[index].tolist()
        jpeg = os.pread(self._descriptor, length, offset)
        if zlib.crc32(jpeg) != crc:
            raise BadMedia(
                "decode_error", f"the checksum of frame {index} in {self._video.shard} is wrong"
            )
        if not jpeg.rstrip(b"\0").endswith(_JPEG_END):  # OpenCV would fill up with grey
            raise BadMedia("decode_error", f"frame {index} is not a JPEG file, or is truncated")
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        frame = cv2.imdecode(np.frombuffer(jpeg, np.uint8), flags)
        if frame is None:
            raise BadMedia("decode_error", f"frame {index} is a damaged JPEG file")
        if frame.shape[:2] != (self.height, self.width):
            size = f"{frame.shape[1]}x{frame.shape[0]}"
            expected = f"{self.width}x{self.height}"
            raise BadMedia("decode_error", f"frame {index} has {size} pixels, expected {expected}")
        return frame


def _find_shards(folder: Path, split: str) -> list[Path]:
    """All files of a split, by number."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; set path to that of the TFRecord files")
    matches = [match for name in os.listdir(folder) if (match := _SHARD.match(name))]
    found = sorted(match.string for match in matches if match["split"] == split)
    if not found:
        splits = ", ".join(sorted({match["split"] for match in matches})) or "no TFRecord files"
        raise ValueError(f"{folder} has no files {split}-00000-of-...; it has {splits}")
    counts = {match["count"] for match in matches if match["split"] == split}
    if len(counts) > 1:
        raise ValueError(
            f"{folder} holds files of several conversions of {split}, into "
            f"{', '.join(sorted(counts))} files; keep those of one"
        )
    (count,) = counts
    numbers = [int(match["number"]) for match in matches if match["split"] == split]
    missing = sorted(set(range(int(count))) - set(numbers))
    if missing or len(numbers) != int(count):
        which = ", ".join(f"{number:05d}" for number in missing[:5])
        raise ValueError(
            f"{folder} holds {len(numbers)} of {int(count)} files of {split}; "
            f"{len(missing)} are missing: {which}; copy or create them again"
        )
    return [folder / name for name in found]


def _class_names(
    records: list[Record], folder: Path, classes: str | None
) -> tuple[str, ...] | None:
    labels = {record.label for record in records}
    if labels == {None}:
        return None
    known = [label for label in labels if label is not None]
    if len(known) < len(labels):
        raise ValueError("some videos have a label (clip/label/index) and others have none")
    if min(known) < 0 or max(known) >= MAX_CLASSES:
        raise ValueError(
            f"labels (clip/label/index) are from {min(known)} to {max(known)}; expected 0 to "
            f"{MAX_CLASSES - 1}"
        )
    from_one = labels_from_one(known)
    classes_file = folder / "classes.txt" if classes is None else local_path(classes)
    if classes is not None or classes_file.exists():
        names = read_class_names(classes_file)
        if max(known) >= len(names):
            raise ValueError(
                f"{classes_file} names {len(names)} classes, but the largest label is {max(known)}"
                + (f" ({from_one})" if from_one else "")
            )
        return names
    if from_one:
        raise ValueError(
            f"{folder}: {from_one} (clip/label/index); write them from 0, or, if class 0 exists "
            "and has no video, name all classes in classes"
        )
    texts = {record.label: record.label_text for record in records}
    return tuple(texts.get(label) or str(label) for label in range(max(known) + 1))
