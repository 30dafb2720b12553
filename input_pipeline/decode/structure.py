"""Checks that a video file is complete: its elements must follow one another without a gap.

FFmpeg continues after damage at the next element that it recognises, and does not report the
frames in between. But each element has a length: after a damaged one, the next does not begin where
it should. The check reads the whole file, so it is done once, when the index is made; only a file
without an index is checked each time it is opened.

Source: RFC 8794 (EBML), RFC 9559 (Matroska); ISO/IEC 14496-12 (MP4); ISO/IEC 13818-1 (MPEG);
Adobe Flash Video File Format Specification 10.1 (FLV).
"""

from __future__ import annotations

from input_pipeline.bad_inputs import BadMedia
from input_pipeline.decode.asf import check_asf
from input_pipeline.decode.mp4 import Read, boxes, check_time

_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_ANYWHERE = {0xEC, 0xBF}  # void, checksum
# Head, information, tracks, chapters, cues, attachments, tags.
_IN_SEGMENT = {0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1043A770, 0x1C53BB6B, 0x1941A469, 0x1254C367}
_IN_SEGMENT |= {_CLUSTER} | _ANYWHERE
# Time, silent tracks, position, size before, blocks of four kinds.
_IN_CLUSTER = {0xE7, 0x5854, 0xA7, 0xAB, 0xA3, 0xA0, 0xA2, 0xAF} | _ANYWHERE

_PACKETS = 1 << 14  # of an MPEG transport stream, read at a time


def check_structure(container: str, read: Read, num_bytes: int, deadline: float) -> None:
    """Checks a file, 2 microseconds per element; 50 per packet of ASF.

    MP4 files without fragments list their frames in one table, so that a missing frame is always
    detected when they are read; AVI states how many there are, but often one or two too many. The
    pieces of an MPEG program stream are not checked.

    Raises:
      BadMedia: an element is missing, unknown, or extends beyond its parent; or past `deadline` of
        the monotonic clock.
    """
    if container == "matroska":
        _check_matroska(read, num_bytes, deadline)
    elif container == "mov":
        _check_fragments(read, num_bytes, deadline)
    elif container == "flv":
        _check_tags(read, num_bytes, deadline)
    elif container == "mpegts":
        _check_packets(read, num_bytes, deadline)
    elif container == "asf":
        check_asf(read, num_bytes, deadline)


def _check_matroska(read: Read, num_bytes: int, deadline: float) -> None:
    _, length, body = _element(read, 0)
    kind, length, at = _element(read, body + length)
    if kind != _SEGMENT:
        raise _damage(body + length)
    end = at + length if length >= 0 else num_bytes
    while at < end:
        check_time(at, deadline)
        kind, length, body = _element(read, at)
        if kind == _CLUSTER:
            at = _check_cluster(read, body, body + length if length >= 0 else None, end, deadline)
        elif kind in _IN_SEGMENT and length >= 0:
            at = body + length
        else:
            raise _damage(at)
    if at > end:
        raise BadMedia("short", f"the last element ends {at - end} bytes after the file")


def _check_cluster(read: Read, at: int, end: int | None, limit: int, deadline: float) -> int:
    """Offset of the end of a cluster; `end` is None if it is unknown, as in live recordings."""
    stop = limit if end is None else min(end, limit)
    while at < stop:
        check_time(at, deadline)
        kind, length, body = _element(read, at)
        if end is None and kind in _IN_SEGMENT - _ANYWHERE:
            return at
        if kind not in _IN_CLUSTER or length < 0:
            raise _damage(at)
        at = body + length
    if at > stop:
        raise _damage(stop)
    return at


def _element(read: Read, at: int) -> tuple[int, int, int]:
    """Kind of an element, its length (-1 if unknown) and the offset of its content."""
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
    return BadMedia("decode_error", f"no valid Matroska element at byte {at}")


def _check_fragments(read: Read, num_bytes: int, deadline: float) -> None:
    """Checks that the fragments of an MP4 file, if any, are contiguous up to its end."""
    fragments = at = 0
    for kind, body, end in boxes(read, 0, num_bytes, deadline):
        if kind == b"moof":
            fragments += 1
            _check_filled(read, body, min(end, num_bytes), deadline)
        at = end
    if fragments and at < num_bytes:
        raise _no_box(at)
    if fragments and at > num_bytes:
        raise BadMedia("short", f"the last box ends {at - num_bytes} bytes after the file")


def _check_filled(read: Read, at: int, end: int, deadline: float) -> None:
    """Checks that the boxes of a fragment, and of its tracks, end where their parent ends."""
    for kind, body, stop in boxes(read, at, end, deadline):
        if kind == b"traf":
            _check_filled(read, body, min(stop, end), deadline)
        at = stop
    if at != end:
        raise _no_box(min(at, end))


def _no_box(at: int) -> BadMedia:
    return BadMedia("decode_error", f"no valid MP4 box at byte {at}")


def _check_tags(read: Read, num_bytes: int, deadline: float) -> None:
    """Checks that the tags of an FLV file (sound, pictures, text) are contiguous up to its end."""
    at = int.from_bytes(read(5, 4), "big") + 4
    while at < num_bytes:
        check_time(at, deadline)
        head = read(at, 11)
        if len(head) < 11 or head[0] not in (8, 9, 18) or head[8:] != bytes(3):
            raise BadMedia("decode_error", f"no valid FLV tag at byte {at}")
        at += 11 + int.from_bytes(head[1:4], "big") + 4
    if at > num_bytes:
        raise BadMedia("short", f"the last tag ends {at - num_bytes} bytes after the file")


def _check_packets(read: Read, num_bytes: int, deadline: float) -> None:
    """Checks that each packet of an MPEG transport stream begins with its mark.

    FFmpeg finds missing packets by their numbers.
    """
    offset, size = (0, 188) if read(0, 1) == b"G" else (4, 192)
    for at in range(0, num_bytes, size * _PACKETS):
        check_time(at, deadline)
        marks = read(at, size * _PACKETS)[offset::size]
        if wrong := len(marks) - marks.count(b"G"):
            raise BadMedia("decode_error", f"{wrong} packets after byte {at} without their mark")
    if num_bytes % size:
        raise BadMedia("short", f"the file ends within a packet of {size} bytes")
