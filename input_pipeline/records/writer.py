"""Converts videos to TFRecord files of JPEG frames: planning, writing and verification."""

from __future__ import annotations

import collections
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from input_pipeline.bad_inputs import BadMedia, media_boundary
from input_pipeline.datasets.video_records import RecordVideo
from input_pipeline.decode.video import VideoFile
from input_pipeline.prepare.scan import LIMITS, Line, chunks, write_atomically
from input_pipeline.records import format as record_format
from input_pipeline.records import index as record_index
from input_pipeline.records.index import ShardIndex
from input_pipeline.source import Limits, OpenVideo

_SHARD_BYTES = 150e6
_BYTES_PER_PIXEL = 0.35  # of JPEG at quality 95, detailed pictures

cv2.setNumThreads(0)  # work is parallel over processes


class Settings(NamedTuple):
    """How frames are stored."""

    short_side: int = 256  # pixels of the shorter side; smaller videos keep their size
    quality: int = 95  # of JPEG, as in libjpeg, 1 to 100; chroma at half the resolution


class Clip(NamedTuple):
    """A video to be written to a record; label and text are None without labels."""

    path: str
    label: int | None
    label_text: str | None
    num_frames: int
    num_bytes: int
    mtime_ns: int


class ShardJob(NamedTuple):
    """One file to write: its videos, settings and path."""

    source: Path
    clips: tuple[Clip, ...]
    settings: Settings
    shard: Path
    limits: Limits = LIMITS

    @property
    def key(self) -> str:
        """Hash of everything that determines the contents of the file."""
        text = json.dumps([self.settings, self.clips])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def partial(self) -> Path:
        """Path of the file while it is being written."""
        return self.shard.with_name(f"partial.{self.shard.name}")

    @property
    def report(self) -> Path:
        """Path of the report of `write_shard`."""
        return self.shard.with_name("progress") / f"{self.shard.name}.json"


def plan(
    source: Path,
    out: Path,
    split: str,
    examples: list[tuple[Line, int | None, str | None]],
    settings: Settings,
    shards: int | None,
    limits: Limits = LIMITS,
) -> list[ShardJob]:
    """Distributes examples round-robin over files `<split>-00000-of-00010` and so on.

    Args:
      source: the folder of the videos.
      out: the folder of the files.
      split: prefix of their names.
      examples: index line, label and class name of each usable video.
      settings: how frames are stored.
      shards: number of files; None means files of about 150 MB.
      limits: as for the index.
    """
    clips = [
        Clip(line["path"], label, text, line["num_frames"], line["bytes"], line["mtime_ns"])
        for line, label, text in examples
    ]
    if shards is None:
        pixels = sum(_stored_pixels(line, settings.short_side) for line, _, _ in examples)
        shards = max(1, math.ceil(pixels * _BYTES_PER_PIXEL / _SHARD_BYTES))
    shards = min(shards, len(clips))
    return [
        ShardJob(
            source,
            tuple(clips[i::shards]),
            settings,
            out / f"{split}-{i:05d}-of-{shards:05d}",
            limits,
        )
        for i in range(shards)
    ]


def _stored_pixels(line: Line, short_side: int) -> float:
    scale = min(1, short_side / min(line["height"], line["width"]))
    return line["num_frames"] * line["height"] * line["width"] * scale**2


def finished(job: ShardJob, reports: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """The report of a file, if the file exists and would be written with the same contents again.

    `reports` are those of an earlier, complete run, by file name.
    """
    report = reports.get(job.shard.name)
    if job.report.exists():
        report = json.loads(job.report.read_text(encoding="utf-8"))
    if report is None or report["key"] != job.key or not job.shard.exists():
        return None
    return report if job.shard.stat().st_size == report["bytes"] else None


def write_shard(job: ShardJob) -> None:
    """Writes a file, its index and a report, each completely or not at all.

    A video that cannot be decoded now is left out and reported.

    Raises:
      OSError: a video is missing or cannot be read, or the file cannot be written.
    """
    skipped, counts = [], []
    try:
        with job.partial.open("wb") as file:
            for clip in job.clips:
                try:
                    record, count = _record(job, clip)
                except BadMedia as bad:
                    if bad.kind in ("missing", "unreadable"):  # an error of the disk
                        raise OSError(f"{job.source / clip.path}: {bad.reason}") from bad
                    skipped.append(dict(path=clip.path, status=bad.kind, reason=bad.reason))
                else:
                    file.write(record_format.framed(record))
                    counts.append((clip.label, count))
        index = record_index.read_shard(job.partial)
        if any(record.damage for record in index.records):
            raise OSError(f"{job.partial} differs from what was written; check the disk")
        index.save(job.shard)
        job.partial.replace(job.shard)
    finally:
        job.partial.unlink(missing_ok=True)
    report = dict(
        shard=job.shard.name,
        key=job.key,
        num_examples=len(counts),
        num_frames=sum(count for _, count in counts),
        bytes=index.num_bytes,
        class_counts=_counts(label for label, _ in counts),
        skipped=skipped,
    )
    job.report.parent.mkdir(exist_ok=True)
    write_atomically(job.report, json.dumps(report))


def _counts(labels: Iterable[int | None]) -> dict[str, int]:
    counts = collections.Counter(label for label in labels if label is not None)
    return {str(label): count for label, count in sorted(counts.items())}


def _record(job: ShardJob, clip: Clip) -> tuple[bytes, int]:
    """The SequenceExample of a video, and its number of frames."""
    with media_boundary(), _open(job, clip) as video:
        images = list(_images(video, range(video.num_frames), job.settings))
        height, width, _ = _decode(images[0]).shape
        context: dict[str, record_format.Value] = {
            "clip/start/timestamp": 0,
            "clip/end/timestamp": round(1e6 * video.num_frames / video.fps),
            "clip/fps": float(video.fps),
            "clip/num_frames": video.num_frames,
            "image/height": height,
            "image/width": width,
            "video/filename": clip.path,
        }
        if clip.label is not None:
            context["clip/label/index"] = clip.label
        if clip.label_text is not None:
            context["clip/label/text"] = clip.label_text
        return record_format.sequence_example(context, images), video.num_frames


def _open(job: ShardJob, clip: Clip):
    return VideoFile(os.path.join(job.source, clip.path), clip.num_frames).open(job.limits)


def _images(video: OpenVideo, indices: range, settings: Settings) -> Iterator[bytes]:
    for chunk, short_side in chunks(video, indices, settings.short_side):
        for frame in video.frames(chunk, short_side):
            yield _jpeg(frame, settings.quality)


def _jpeg(frame: np.ndarray, quality: int) -> bytes:
    bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _decode(jpeg: bytes) -> np.ndarray:
    frame = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert frame is not None
    return frame


def check_shard(job: ShardJob, records: int) -> list[str]:
    """Reads `records` evenly spaced records back; compares three frames of each with the video.

    Returns:
      Messages about differences; empty if there are none.
    """
    index = ShardIndex.load(job.shard)
    clips = {clip.path: clip for clip in job.clips}
    problems = []
    rows = np.linspace(0, len(index.records) - 1, min(records, len(index.records)))
    for row in rows.astype(int).tolist():
        record = index.records[row]
        clip = clips.get(record.name)
        where = f"record {row} of {job.shard.name} ({record.name})"
        if clip is None or (clip.num_frames, clip.label) != (record.num_frames, record.label):
            problems.append(f"{where}: the number of frames or the label differs from the video")
            continue
        last = record.num_frames - 1
        chosen = sorted({0, last // 2, last})
        with RecordVideo(job.shard, record, index.frames(row)).open(job.limits) as stored:
            pixels = stored.frames(chosen)
        with _open(job, clip) as video:
            for frame, found in zip(chosen, pixels, strict=True):
                (expected,) = _images(video, range(frame, frame + 1), job.settings)
                if not np.array_equal(_decode(expected), found):
                    problems.append(f"{where}: frame {frame} differs from the video")
    return problems
