"""Builds the index of a folder of videos: which of them can be used, and their properties.

The index is `index.jsonl`, one JSON object per line, sorted by path:

    path        relative to the folder
    status      "ok" or one of `bad_inputs.CLASSES`
    reason      error message; "" if the status is "ok"
    num_frames, fps, height, width    null if the video could not be opened
    bytes       size of the file; null if it could not be read
    mtime_ns    time of the last modification, nanoseconds since 1970
    decoded     true if every frame was decoded, false if the file was checked and frames counted
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from input_pipeline.bad_inputs import BadMedia, media_boundary
from input_pipeline.datasets.folders import FilesBelow
from input_pipeline.datasets.video_index import difference_to_file
from input_pipeline.decode.video import VideoFile
from input_pipeline.prepare import worker_processes
from input_pipeline.prepare.worker_processes import Died
from input_pipeline.source import LeftOut, Limits, OpenVideo
from input_pipeline.texts import as_name, name_bytes
from input_pipeline.views import crops

Line = dict[str, Any]
LIMITS = Limits(timeout_seconds=600.0)  # the time is for opening, and for each chunk of frames
CHUNK, CHUNK_BYTES = 512, 2**29  # frames decoded at a time, and bytes of their pixels
_FACTS = ("num_frames", "fps", "height", "width")
_KEYS = {"path", "status", "reason", *_FACTS, "bytes", "mtime_ns", "decoded"}
_SMALL = 32  # pixels of the shorter side; these frames are not used
# May be caused by the disk or the limits, not by the file.
_AGAIN = ("missing", "unreadable", "timeout", "too_large")


def find_videos(folder: Path) -> tuple[list[str], LeftOut]:
    """Sorted paths, relative to a folder, of the videos below it, and the number of other files.

    These are the videos that `VideoFolder` lists.
    """
    below = FilesBelow(str(folder), ("video",))
    return sorted(below.walk()), below.left_out


def scan(
    folder: Path,
    paths: list[str],
    index: Path,
    *,
    decode: bool,
    workers: int,
    limits: Limits = LIMITS,
) -> list[Line]:
    """Creates or completes the index of a folder, with a progress bar.

    Files in the index are not read again, unless they changed, or were not decoded but `decode` is
    set, could not be read at all, or were beyond the limits. Each result is written immediately: a
    killed run continues when it is run again, and the result is the same.

    Args:
      folder: of the videos.
      paths: the videos, sorted, see `find_videos`.
      index: path of `index.jsonl`.
      decode: decode every frame; otherwise damaged frames are not detected.
      workers: number of processes.
      limits: larger and longer videos are listed as "too_large".

    Returns:
      The lines of these videos, in the same order.

    Raises:
      OSError: the index cannot be written.
    """
    known = {line["path"]: line for line in read_index(index)} if index.exists() else {}
    lines = {path: known[path] for path in paths if _is_current(folder, known.get(path), decode)}
    todo = [path for path in paths if path not in lines]
    examined = worker_processes.results(
        functools.partial(examine, folder, decode, limits), todo, min(workers, len(todo))
    )
    with (
        index.open("a", encoding="utf-8") as file,
        tqdm(total=len(paths), initial=len(lines), desc="reading", unit=" videos") as bar,
    ):
        for path, outcome in examined:
            if isinstance(outcome, Died):
                reason = f"the decoder crashed (exit code {outcome.exit_code})"
                outcome = _line(folder, path, decode, BadMedia("decode_error", reason))
            file.write(json.dumps(outcome) + "\n")
            file.flush()
            lines[path] = outcome
            bar.update()
    ordered = [lines[path] for path in paths]
    write_atomically(index, "".join(json.dumps(line) + "\n" for line in ordered))
    return ordered


def read_index(index: Path) -> list[Line]:
    """The lines of an index, without an incomplete last line of a killed run.

    Raises:
      ValueError: it is not such an index.
    """
    text = index.read_text(encoding="utf-8")
    try:
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            write_atomically(index, whole)
        lines = [json.loads(line) for line in whole.split("\n")[:-1]]
        if all(line.keys() >= _KEYS for line in lines):
            return [{**line, "path": as_name(line["path"])} for line in lines]
    except (json.JSONDecodeError, AttributeError):
        pass
    raise ValueError(f"{index} was not written by input_pipeline.prepare; rename or delete it")


def write_atomically(path: Path, text: str) -> None:
    """Writes a file completely or not at all; raises OSError."""
    partial = path.with_name(f"partial.{path.name}")
    try:
        partial.write_bytes(name_bytes(text))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def examine(folder: Path, decode: bool, limits: Limits, path: str) -> Line:
    """Counts the frames of a video, checks the file and decodes it; a bad one does not raise."""
    file = VideoFile(os.path.join(folder, path))
    try:
        with media_boundary(), file.open(limits) as video:
            if decode:
                for chunk, short_side in chunks(video, range(video.num_frames), _SMALL):
                    video.frames(chunk, short_side)
            return _line(folder, path, decode, None, video)
    except BadMedia as bad:
        return _line(folder, path, decode, bad)


def chunks(video: OpenVideo, indices: range, short_side: int) -> Iterator[tuple[range, int | None]]:
    """Frames to decode at a time, and the shorter side to scale them to, only ever down.

    Their pixels are at most `CHUNK_BYTES`, or those of one frame.
    """
    height, width, scaled_to = video.height, video.width, None
    if min(height, width) > short_side:
        height, width = crops.short_side(height, width, short_side)
        scaled_to = short_side
    count = max(1, min(CHUNK, CHUNK_BYTES // (3 * height * width)))
    for start in range(0, len(indices), count):
        yield indices[start : start + count], scaled_to


def _line(
    folder: Path, path: str, decode: bool, bad: BadMedia | None, video: OpenVideo | None = None
) -> Line:
    size, mtime_ns = _stat(folder / path)
    return dict(
        path=path,
        status="ok" if bad is None else bad.kind,
        reason="" if bad is None else bad.reason,
        **{name: None if video is None else getattr(video, name) for name in _FACTS},
        bytes=size,
        mtime_ns=mtime_ns,
        decoded=decode,
    )


def _stat(path: Path) -> tuple[int | None, int | None]:
    try:
        found = path.stat()
    except OSError:
        return None, None
    return found.st_size, found.st_mtime_ns


def _is_current(folder: Path, line: Line | None, decode: bool) -> bool:
    return (
        line is not None
        and line["status"] not in _AGAIN
        and (line["decoded"] or not decode)
        and (folder / line["path"]).exists()
        and not difference_to_file(str(folder / line["path"]), line["bytes"], line["mtime_ns"])
    )
