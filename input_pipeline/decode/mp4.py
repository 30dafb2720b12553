"""The samples that an MP4 file promises: FFmpeg allocates memory for all, if they exist or not.

Source: ISO/IEC 14496-12.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from input_pipeline.bad_inputs import BadMedia

_HOLDERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"}  # boxes of boxes

Read = Callable[[int, int], bytes]  # position, bytes -> so many or, at the end, fewer


def check_samples(read: Read, num_bytes: int, deadline: float) -> None:
    """Refuses more samples than bytes; reads the headers of boxes and the tables of samples.

    Raises:
      BadMedia: there are more samples than bytes, or `deadline` passed, on the monotonic clock.
    """
    samples = 0
    for kind, body, end in boxes(read, 0, num_bytes, deadline):
        if kind in _HOLDERS:
            samples += _count_samples(read, body, min(end, num_bytes), deadline)
        if samples > num_bytes:
            raise BadMedia("short", f"{samples} samples in a file of {num_bytes} bytes")


def boxes(read: Read, at: int, end: int, deadline: float) -> Iterator[tuple[bytes, int, int]]:
    """Kind of each box, where its content begins and ends; up to what is none."""
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
    """Raises BadMedia if the time is over."""
    if time.monotonic() > deadline:
        raise BadMedia("timeout", f"not looked through in time, {at} bytes so far")


def _count_samples(read: Read, at: int, end: int, deadline: float) -> int:
    """Samples that a box promises: of the tables of a track that with most, of fragments all."""
    promised = 0
    for kind, body, stop in boxes(read, at, end, deadline):
        if kind in _HOLDERS:
            promised += _count_samples(read, body, min(stop, end), deadline)
        elif kind == b"trun":
            promised += int.from_bytes(read(body + 4, 4), "big")
        elif kind == b"stsz":
            one_size, all_count = np.frombuffer(read(body + 4, 8).ljust(8, b"\0"), ">u4")
            promised = max(promised, int(all_count) if one_size else 0)
        elif kind in (b"stts", b"ctts"):
            table = read(body + 8, min(stop, end) - body - 8)
            counts = np.frombuffer(table[: len(table) // 8 * 8], ">u4")[::2]
            promised = max(promised, int(counts.sum(dtype=np.int64)))
    return promised
