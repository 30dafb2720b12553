"""Whether the parts of a video file fit into one another.

FFmpeg goes on after damage, at the next part that it knows, and says nothing of the frames in
between. But each part says how long it is: where one is damaged, the next does not begin where it
should.

Source: RFC 8794 (EBML), RFC 9559 (Matroska); ISO/IEC 14496-12 (MP4).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from input_pipeline.bad_inputs import BadMedia

_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_ANYWHERE = {0xEC, 0xBF}  # void, checksum
# Head, information, tracks, chapters, cues, attachments, tags.
_IN_SEGMENT = {0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1043A770, 0x1C53BB6B, 0x1941A469, 0x1254C367}
_IN_SEGMENT |= {_CLUSTER} | _ANYWHERE
# Time, silent tracks, position, size before, blocks of four kinds.
_IN_CLUSTER = {0xE7, 0x5854, 0xA7, 0xAB, 0xA3, 0xA0, 0xA2, 0xAF} | _ANYWHERE

_HOLDERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"}  # boxes of boxes

Read = Callable[[int, int], bytes]  # position, bytes -> so many or, at the end, fewer


def check_matroska(read: Read, num_bytes: int, deadline: float) -> None:
    """Goes through the file from element to element, 2 microseconds each.

    Args:
      read: of the file.
      num_bytes: of the file.
      deadline: when to give up, on the monotonic clock.

    Raises:
      BadMedia: an element is not there, unknown, or reaches beyond the one that holds it; or the
        time is over.
    """
    _, length, body = _element(read, 0)
    kind, length, at = _element(read, body + length)
    if kind != _SEGMENT:
        raise _damage(body + length)
    end = at + length if length >= 0 else num_bytes
    while at < end:
        _check_time(at, deadline)
        kind, length, body = _element(read, at)
        if kind == _CLUSTER:
            at = _check_cluster(read, body, body + length if length >= 0 else None, end, deadline)
        elif kind in _IN_SEGMENT and length >= 0:
            at = body + length
        else:
            raise _damage(at)
    if at > end:
        raise BadMedia("short", f"the last element ends {at - end} bytes after the file")


def check_mp4(read: Read, num_bytes: int, deadline: float) -> None:
    """Goes through the boxes of an MP4 file.

    If its frames are in fragments, nothing may come between these; other files list their frames in
    one place, so that a missing one is noticed. A list of samples may not be longer than the file
    has bytes: FFmpeg would make room for all of them.

    Args:
      read: of the file.
      num_bytes: of the file.
      deadline: when to give up, on the monotonic clock.

    Raises:
      BadMedia: after a fragment there is something that is no box, there are more samples than
        bytes, or the time is over.
    """
    fragments = samples = at = 0
    for at, kind, body, end in _boxes(read, 0, num_bytes, deadline):
        fragments += kind == b"moof"
        if kind in _HOLDERS:
            samples += _count_samples(read, body, min(end, num_bytes), deadline)
        if samples > num_bytes:
            raise BadMedia("short", f"{samples} samples in a file of {num_bytes} bytes")
        at = end
    if fragments and at < num_bytes:
        raise BadMedia("decode_error", f"there is no box of MP4 at byte {at}")
    if fragments and at > num_bytes:
        raise BadMedia("short", f"the last box ends {at - num_bytes} bytes after the file")


def _boxes(read: Read, at: int, end: int, deadline: float) -> Iterator[tuple[int, bytes, int, int]]:
    """Where each box begins, its kind, where its content begins and ends; up to what is none."""
    while at < end:
        _check_time(at, deadline)
        head = read(at, 16)
        length, kind, body = int.from_bytes(head[:4], "big"), head[4:8], at + 8
        if length == 1:
            length, body = int.from_bytes(head[8:], "big"), at + 16
        elif length == 0:
            length = end - at
        if length < body - at or not (kind.isascii() and kind.isalnum()):
            return
        yield at, kind, body, at + length
        at += length


def _count_samples(read: Read, at: int, end: int, deadline: float) -> int:
    """Samples that a box promises: of the tables of a track that with most, of fragments all."""
    promised = 0
    for _, kind, body, stop in _boxes(read, at, end, deadline):
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


def _check_cluster(read: Read, at: int, end: int | None, limit: int, deadline: float) -> int:
    """Where a cluster ends; `end` is None where it does not say so itself, as in recordings."""
    stop = limit if end is None else min(end, limit)
    while at < stop:
        _check_time(at, deadline)
        kind, length, body = _element(read, at)
        if end is None and kind in _IN_SEGMENT - _ANYWHERE:
            return at
        if kind not in _IN_CLUSTER or length < 0:
            raise _damage(at)
        at = body + length
    if at > stop:
        raise _damage(stop)
    return at


def _check_time(at: int, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise BadMedia("timeout", f"not looked through in time, {at} bytes so far")


def _element(read: Read, at: int) -> tuple[int, int, int]:
    """Kind, length (-1 if unknown) and where the content begins."""
    head = read(at, 12)
    id_width = 9 - head[0].bit_length() if head else 9
    if id_width > 4 or len(head) <= id_width or not head[id_width]:
        raise _damage(at)
    size_width = 9 - head[id_width].bit_length()
    begin = id_width + size_width
    if len(head) < begin:
        raise _damage(at)
    mask = (1 << 7 * size_width) - 1
    length = int.from_bytes(head[id_width:begin], "big") & mask
    kind = int.from_bytes(head[:id_width], "big")
    return kind, -1 if length == mask else length, at + begin


def _damage(at: int) -> BadMedia:
    return BadMedia("decode_error", f"there is no element of Matroska at byte {at}")
