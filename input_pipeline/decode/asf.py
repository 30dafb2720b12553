"""Checks that no piece of a frame is missing in an ASF file (.wmv, .asf).

FFmpeg leaves out frames of which a piece is missing, and does not report them. But each piece has
the number of its frame, its offset in it, and the size of the frame.

Source: Advanced Systems Format (ASF) Specification, revision 01.20.03.
"""

from __future__ import annotations

from input_pipeline.bad_inputs import BadMedia
from input_pipeline.decode.mp4 import Read, check_time

_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_WIDTHS = (0, 1, 2, 4)  # bytes of a field, by two bits
_LIVE = 1  # flag: sizes are not known


def check_asf(read: Read, num_bytes: int, deadline: float) -> None:
    """Checks sizes and pieces of a whole file.

    Raises:
      BadMedia: shorter than stated, a piece is missing, or past `deadline` of the monotonic clock.
    """
    header = read(0, min(_number(read(16, 8)), num_bytes))
    at = header.find(_PROPERTIES)
    properties = header[at : at + 104]
    packet_bytes = _number(properties[96:100])
    start = len(header)
    same_size = properties[92:96] == properties[96:100]  # smallest and largest packet
    if at < 0 or not packet_bytes or not same_size or read(start, 16) != _DATA:
        raise BadMedia("decode_error", f"no valid ASF header before byte {start}")
    stated = _number(properties[40:48])
    if not properties[88] & _LIVE and num_bytes < stated:
        raise BadMedia("short", f"{num_bytes} of {stated} bytes")
    end = min(num_bytes, start + (_number(read(start + 16, 8)) or num_bytes))
    pieces = _Pieces()
    for at in range(start + 50, end - packet_bytes + 1, packet_bytes):
        check_time(at, deadline)
        try:
            pieces.add(read(at, packet_bytes))
        except (IndexError, ValueError) as error:
            raise BadMedia("decode_error", f"no valid ASF packet at byte {at}") from error
    if not all(filled == size for _, filled, size in pieces.last.values()):
        raise BadMedia("short", "the file ends within a frame")


def _number(field: bytes) -> int:
    return int.from_bytes(field, "little")


class _Pieces:
    """The last frame of each stream: its number, the bytes found so far, its size."""

    def __init__(self) -> None:
        self.last: dict[int, tuple[int, int, int]] = {}

    def add(self, packet: bytes) -> None:
        """Adds the pieces of a packet; raises ValueError or IndexError if one is missing."""
        at = 1 + (packet[0] & 15) if packet[0] & 128 else 0
        widths, more_widths = packet[at], packet[at + 1]
        at += 2

        def field(bits: int) -> int:
            nonlocal at
            at += (width := _WIDTHS[bits & 3])
            return _number(packet[at - width : at])

        field(widths >> 5)
        field(widths >> 1)
        end = len(packet) - field(widths >> 3)
        at += 6  # times
        count, size_bits = (packet[at] & 63, packet[at] >> 6) if widths & 1 else (1, 0)
        at += widths & 1
        for _ in range(count):
            stream = packet[at] & 127
            at += 1
            number, offset, copied = (field(more_widths >> shift) for shift in (4, 2, 0))
            size = _number(packet[at : at + 4]) if copied > 1 else 0
            at += copied
            length = field(size_bits) if widths & 1 else end - at
            if not stream or not copied or at + length > end:
                raise ValueError
            at += length
            if copied > 1:  # otherwise: many whole frames, of sound
                self._add(stream, number, offset, size, length)

    def _add(self, stream: int, number: int, offset: int, size: int, length: int) -> None:
        last, filled, expected = self.last.get(stream, (number, 0, size))
        if stream in self.last and offset == 0:
            if filled != expected:
                raise ValueError
            last, filled = (last + 1) % 256, 0
        if number % 256 != last % 256 or offset != filled or filled + length > size:
            raise ValueError
        if offset and size != expected:
            raise ValueError
        self.last[stream] = number, filled + length, size
