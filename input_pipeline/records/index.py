"""Index of a TFRecord file of videos: offsets of the frames, so that single frames can be read.

An index is a file next to its shard, `<shard>.index`: a line of JSON, then one row of `FRAME` for
each frame of each record. Making it reads the shard once and verifies the checksum of each record.
"""

from __future__ import annotations

import concurrent.futures
import io
import json
import math
import os
import struct
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from input_pipeline.records import format as record_format
from input_pipeline.records.format import FOOTER_BYTES, HEADER_BYTES, WrongSchema

VERSION = 1
FRAME = np.dtype([("offset", "<u8"), ("length", "<u4"), ("crc", "<u4")])  # zlib.crc32 of the JPEG


class Record(NamedTuple):
    """One video of a shard; None for values that the record does not contain."""

    name: str  # of the original file; "" if the record does not contain it
    label: int | None  # class index
    label_text: str | None  # class name
    fps: float | None  # frames per second
    height: int  # pixels
    width: int
    num_frames: int  # 0 if the record is damaged
    damage: str | None  # error message; None if the record is intact
    end: int | None = None  # offset of its checksum in the shard; None in indexes of before
    crc: int | None = None  # the checksum


class ShardIndex:
    """The videos of a shard of `num_bytes`, and the locations of their frames."""

    def __init__(self, records: list[Record], frames: np.ndarray, num_bytes: int):
        self.records, self.num_bytes = records, num_bytes
        self._frames = frames
        self._ends = np.cumsum([0] + [record.num_frames for record in records])

    def frames(self, index: int) -> np.ndarray:
        """Locations of the frames of a record, of dtype `FRAME`."""
        return self._frames[self._ends[index] : self._ends[index + 1]]

    def save(self, shard: Path) -> None:
        """Writes the index of a shard completely or not at all; raises OSError."""
        records = [record._asdict() for record in self.records]
        header = dict(version=VERSION, shard_bytes=self.num_bytes, records=records)
        target = path_of_index(shard)
        partial = target.with_name(f"partial.{uuid.uuid4().hex}.{target.name}")
        try:
            with partial.open("wb") as file:
                file.write(json.dumps(header).encode() + b"\n")
                self._frames.tofile(file)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, shard: Path) -> ShardIndex:
        """Reads the index of a shard.

        Raises:
          FileNotFoundError: there is no index.
          ValueError: the file is not an index, or belongs to another shard.
        """
        path = path_of_index(shard)
        with path.open("rb") as file:
            line = file.readline()
            start = file.tell()
        try:
            header = json.loads(line)
            current = header["version"] == VERSION
            records = [Record(**record) for record in header["records"]] if current else []
            num_bytes = header["shard_bytes"]
        except (ValueError, TypeError, KeyError):
            raise ValueError(f"{path} is not an index of videos; delete it") from None
        count = sum(record.num_frames for record in records)
        if not current or path.stat().st_size != start + count * FRAME.itemsize:
            raise ValueError(f"{path} is incomplete or of another version; delete it")
        if shard.stat().st_size != num_bytes:
            raise ValueError(
                f"{shard} has {shard.stat().st_size} bytes, but had {num_bytes} when it was "
                f"indexed; copy it again, or delete {path} if the shard is correct"
            )
        frames = np.memmap(path, FRAME, "r", offset=start) if count else np.empty(0, FRAME)
        return cls(records, frames, num_bytes)


def path_of_index(shard: Path) -> Path:
    """The path of the index of a shard."""
    return shard.with_name(f"{shard.name}.index")


def open_indexes(shards: Sequence[Path]) -> list[ShardIndex]:
    """Reads the indexes of shards; makes missing ones on all cores.

    Indexes that cannot be written next to the shards are kept in memory only.

    Raises:
      ValueError: a shard is truncated or has other contents, or an index is invalid; the message
        lists all of them.
      OSError: a shard cannot be read.
    """
    problems: list[str] = []

    def open_one(shard: Path) -> ShardIndex | None:
        try:
            return ShardIndex.load(shard) if path_of_index(shard).exists() else _make(shard)
        except ValueError as error:
            problems.append(str(error))
            return None

    missing = sum(not path_of_index(shard).exists() for shard in shards)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        opened = pool.map(open_one, shards)
        bar = tqdm(opened, "indexing", len(shards), unit=" shards", disable=not missing)
        try:
            indexes = [index for index in bar if index is not None]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if problems:
        raise ValueError("\n".join(sorted(problems)))
    return indexes


def _make(shard: Path) -> ShardIndex:
    index = read_shard(shard)
    try:
        index.save(shard)
    except PermissionError:
        pass
    except OSError as error:
        if error.errno != 30:  # a read-only file system
            raise
    return index


def read_shard(shard: Path) -> ShardIndex:
    """Reads a shard once, verifies it and locates all frames.

    A record with a wrong checksum is marked as damaged; the others can be used.

    Raises:
      ValueError: the shard is truncated, or a record has other contents.
      OSError: it cannot be read.
    """
    size = shard.stat().st_size
    data = np.memmap(shard, np.uint8, "r") if size else np.empty(0, np.uint8)
    records: list[Record] = []
    tables, at = [np.empty(0, FRAME)], 0
    while at < size:
        length = _payload_bytes(shard, data, at)
        start, end = at + HEADER_BYTES, at + HEADER_BYTES + length
        (stored,) = struct.unpack("<I", data[end : end + FOOTER_BYTES])
        payload = data[start:end]
        if record_format.masked_crc(payload) != stored:
            damage = f"the checksum of record {len(records)} of {shard.name} is wrong"
            records.append(Record("", None, None, None, 0, 0, 0, damage))
        else:
            try:
                record, frames = _describe(memoryview(payload))
            except WrongSchema as error:
                raise ValueError(f"record {len(records)} of {shard}: {error}") from None
            frames["offset"] += start
            records.append(record._replace(end=end, crc=stored))
            tables.append(frames)
        at = end + FOOTER_BYTES
    return ShardIndex(records, np.concatenate(tables), size)


def _payload_bytes(shard: Path, data: np.ndarray, at: int) -> int:
    """Length of the payload of the record at an offset, checked before anything is allocated."""
    header = bytes(data[at : at + HEADER_BYTES])
    if len(header) == HEADER_BYTES:
        length, stored = struct.unpack("<QI", header)
        if record_format.masked_crc(header[:8]) != stored:
            raise ValueError(
                f"{shard} is damaged, or not a TFRecord file without compression: the length of "
                f"the record at byte {at} has a wrong checksum; copy or create it again"
            )
        if at + HEADER_BYTES + length + FOOTER_BYTES <= len(data):
            return length
    raise ValueError(
        f"{shard} is truncated: {len(data)} bytes, the record at byte {at} is incomplete; "
        "copy or create it again"
    )


def _describe(payload: memoryview) -> tuple[Record, np.ndarray]:
    """The index entry of a record, and the locations of its frames in the payload."""
    context, spans = record_format.find_frames(payload)
    frames = np.empty(len(spans), FRAME)
    for row, (start, length) in enumerate(spans):
        frames[row] = start, length, zlib.crc32(payload[start : start + length])
    try:
        first = bytes(payload[spans[0].start : sum(spans[0])])
        width, height = Image.open(io.BytesIO(first), formats=["JPEG"]).size
    except (OSError, Image.DecompressionBombError):
        raise WrongSchema(f"{record_format.IMAGES!r} does not hold JPEG files") from None
    labels = context.get("clip/label/index", [])
    if len(labels) > 1 or not all(isinstance(label, int) for label in labels):
        raise WrongSchema(f"clip/label/index is {labels[:5]}, expected at most one whole number")
    text = _text(context, "clip/label/text")
    return Record(
        name=_text(context, "video/filename") or "",
        label=next((label for label in labels if isinstance(label, int)), None),
        label_text=text if labels else None,
        fps=_frames_per_second(context),
        height=height,
        width=width,
        num_frames=len(spans),
        damage=None,
    ), frames


def _text(context: dict, key: str) -> str | None:
    values = context.get(key) or [None]
    return os.fsdecode(values[0]) if isinstance(values[0], bytes) else None


def _frames_per_second(context: dict) -> float | None:
    values = context.get("clip/fps") or [None]
    fps = values[0] if isinstance(values[0], int | float) else 0.0
    return float(fps) if 0 < fps < math.inf else None
