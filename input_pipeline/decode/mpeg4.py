"""Which packets of an MPEG-4 video give a frame.

A picture that equals the one before may be stored as a few bytes, "not coded": the decoder returns
nothing for it. In a packed bitstream (DivX, Xvid) a packet holds two pictures and the next one such
bytes, for which the decoder returns the second picture.

Source: ISO/IEC 14496-2, 6.2.3 and 6.2.5; FFmpeg libavcodec/mpeg4videodec.c, h263dec.c.
"""

from __future__ import annotations

_START = b"\0\0\1"
_PICTURE = 0xB6
_LAYERS = range(0x20, 0x30)
_HEADER_BYTES = 64  # more than the headers of a layer or a picture that are read


class Pictures:
    """Follows the packets of a stream, in the order of the file.

    Attributes:
      packed: whether a packet with two pictures was found; then the timestamps of packets are not
        those of the pictures.
    """

    def __init__(self, extradata: bytes):
        """Reads the header of the layer, if the container holds it."""
        self.packed = False
        self._waiting = False  # the second picture of a packet
        self._time_bits = 0  # width of the time of a picture; 0 if no header of the layer was found
        self._coded(extradata)

    def gives_frame(self, packet: bytes) -> bool:
        """Whether the decoder returns a frame for the next packet."""
        coded = self._coded(packet)
        if len(coded) > 1:
            self.packed = True
        if self._waiting:
            self._waiting = any(coded)
            return True
        self._waiting = any(coded[1:])
        # DivX writes one byte instead of a picture.
        return coded[0] if coded else len(packet) > 1

    def _coded(self, data: bytes) -> list[bool]:
        """Whether each picture of a packet is coded."""
        coded = []
        at = data.find(_START)
        while 0 <= at < len(data) - 4:
            code, body = data[at + 3], _Bits(data[at + 4 : at + 4 + _HEADER_BYTES])
            if code in _LAYERS:
                self._time_bits = _time_bits(body)
            elif code == _PICTURE:
                coded.append(self._is_coded(body))
            at = data.find(_START, at + 3)
        return coded

    def _is_coded(self, body: _Bits) -> bool:
        body.read(2)  # type
        while body.read(1):  # seconds
            pass
        body.read(1 + self._time_bits)
        return not self._time_bits or not body.read(1) or bool(body.read(1))


class _Bits:
    """Reads bits, the first one first; zeros follow the end."""

    def __init__(self, data: bytes):
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def read(self, count: int) -> int:
        self._left -= count
        shifted = self._value >> self._left if self._left >= 0 else self._value << -self._left
        return shifted & ((1 << count) - 1)


def _time_bits(body: _Bits) -> int:
    body.read(1 + 8)  # random access, type
    version = 1
    if body.read(1):
        version = body.read(4)
        body.read(3)  # priority
    if body.read(4) == 15:  # pixel aspect ratio
        body.read(16)
    if body.read(1):
        body.read(2 + 1)  # chroma, low delay
        if body.read(1):
            body.read(79)  # buffer
    if body.read(2) == 3 and version != 1:  # shape
        body.read(4)
    body.read(1)
    return max(1, (body.read(16) - 1).bit_length())
