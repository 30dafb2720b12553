"""Checks how many samples an MP4 header states: FFmpeg allocates memory for all of them at once.

Source: ISO/IEC 14496-12.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from input_pipeline.bad_inputs import BadMedia

_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"}  # boxes of boxes

Read = Callable[[int, int], bytes]  # offset, number of bytes -> bytes, fewer at the end of the file


def check_samples(read: Read, num_bytes: int, deadline: float) -> None:
    """Rejects files with more samples than bytes; reads box headers and sample tables.

    Raises:
      BadMedia: more samples than bytes, or past `deadline` of the monotonic clock.
    """
    samples = 0
    for kind, body, end in boxes(read, 0, num_bytes, deadline):
        if kind in _CONTAINERS:
            samples += _count_samples(read, body, min(end, num_bytes), deadline)
        if samples > num_bytes:
            raise BadMedia("short", f"{samples} samples in a file of {num_bytes} bytes")


def boxes(read: Read, at: int, end: int, deadline: float) -> Iterator[tuple[bytes, int, int]]:
    """Kind of each box, start and end of its content; stops at the first invalid box."""
    while at < end:
        check_time(at, deadline)
        head = read(at, 16)
        length, kind, body = int.from_bytes(head[:4], "big"), head[4:8], at + 8
        if length == 1:
            length, body = int.from_bytes(head[8:], "big"), at + 16
        elif length == 0:
            length = end - at
        if length < body - at or not (kind.isascii() and kind.isalnum()):
            return
        yield kind, body, at + length
        at += length


def check_time(at: int, deadline: float) -> None:
    """Raises BadMedia after the deadline."""
    if time.monotonic() > deadline:
        raise BadMedia(
            "timeout", f"structure not checked in time (timeout_seconds), {at} bytes so far"
        )


def _count_samples(read: Read, at: int, end: int, deadline: float) -> int:
    """Samples that a box states: the longest table of a track, the sum of all fragments."""
    stated = 0
    for kind, body, stop in boxes(read, at, end, deadline):
        if kind in _CONTAINERS:
            stated += _count_samples(read, body, min(stop, end), deadline)
        elif kind == b"trun":
            stated += int.from_bytes(read(body + 4, 4), "big")
        elif kind == b"stsz":
            one_size, all_count = np.frombuffer(read(body + 4, 8).ljust(8, b"\0"), ">u4")
            stated = max(stated, int(all_count) if one_size else 0)
        elif kind in (b"stts", b"ctts"):
            table = read(body + 8, min(stop, end) - body - 8)
            counts = np.frombuffer(table[: len(table) // 8 * 8], ">u4")[::2]
            stated = max(stated, int(counts.sum(dtype=np.int64)))
    return stated
