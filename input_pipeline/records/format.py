"""TFRecord files of SequenceExamples, one video per record: writing, and locating the frames.

TensorFlow writes and reads the same files, but reads whole records: 5 MB to use 300 KB of it. Here
a record is parsed once for the offsets of its frames. Worker processes start fast and need little
memory, as TensorFlow is not imported.

The keys are those of MediaSequence, dmvr and scenic: JPEG files in `image/encoded`, one feature
each; `clip/label/index`, `clip/label/text` and `video/filename`; start and end in microseconds.
`clip/fps`, `image/height` and `image/width` are additional keys, which other readers ignore.

Source: TensorFlow's tfrecord.h and example.proto, and the encoding of Protocol Buffers.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

IMAGES = "image/encoded"
HEADER_BYTES, FOOTER_BYTES = 12, 4  # of each record: length and its CRC; CRC of the payload
Buffer = bytes | memoryview
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_BLOCK = 256  # bytes whose CRC is computed at once
_CHUNK = 512  # blocks at a time, to fit the cache


class WrongSchema(ValueError):
    """A record is intact but has other contents than expected."""


class Span(NamedTuple):
    """Offset and length of a value in a payload, in bytes."""

    start: int
    length: int


# Checksums: CRC-32C. It is linear over bits: the CRC of a block is the XOR of those of its bytes.


@functools.cache
def _tables() -> np.ndarray:
    """CRC of a block with one nonzero byte: (position, byte); the initial register is zero."""
    crc: np.ndarray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crc = np.where(crc & 1, (crc >> 1) ^ np.uint32(0x82F63B78), crc >> 1)
    last, tables = crc, [crc]
    for _ in range(_BLOCK - 1):
        crc = last[crc & 255] ^ (crc >> 8)
        tables.append(crc)
    return np.stack(tables[::-1])


def _after_zeros(crc: np.ndarray, table: np.ndarray) -> np.ndarray:
    """CRC after appending zeros, by a table (byte of the CRC, its value) for their number."""
    return functools.reduce(
        np.bitwise_xor, (table[byte][(crc >> 8 * byte) & 255] for byte in range(4))
    )


def crc32c(data: Buffer | np.ndarray) -> int:
    """CRC-32C (Castagnoli) of data, at about 300 MB/s, mostly without holding the GIL."""
    padding = 4 + -(len(data) + 4) % _BLOCK  # leading zeros do not change the CRC
    blocks = np.zeros(padding + len(data), np.uint8)
    blocks[padding:] = np.frombuffer(data, np.uint8)
    # The initial register is all ones, which is equivalent to inverting the first four bytes.
    blocks[padding : padding + 4] ^= 255
    if len(data) < 4:
        raise ValueError(f"{len(data)} bytes are too few; the checksum needs 4")
    tables = _tables()
    offsets = np.arange(_BLOCK) * 256
    rows = blocks.reshape(-1, _BLOCK)
    crcs = np.concatenate(
        [
            np.bitwise_xor.reduce(tables.ravel()[offsets + rows[i : i + _CHUNK]], axis=1)
            for i in range(0, len(rows), _CHUNK)
        ]
    )
    zeros = tables[:4]  # the register is added to the first four bytes of the next block
    while len(crcs) > 1:  # combine neighbours
        if len(crcs) % 2:
            crcs = np.concatenate([np.zeros(1, np.uint32), crcs])
        crcs = _after_zeros(crcs[0::2], zeros) ^ crcs[1::2]
        zeros = _after_zeros(zeros, zeros)  # twice as many
    return int(crcs[0]) ^ 0xFFFFFFFF


def masked_crc(data: Buffer | np.ndarray) -> int:
    """The masked checksum that TFRecord files store."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def framed(payload: bytes) -> bytes:
    """A record with length and checksums, as in a TFRecord file."""
    length = struct.pack("<Q", len(payload))
    crcs = [struct.pack("<I", masked_crc(data)) for data in (length, payload)]
    return length + crcs[0] + payload + crcs[1]


# Writing. A message is encoded as its length, followed by its fields.


def _varint(value: int) -> bytes:
    """An integer in groups of seven bits; negative ones in two's complement of 64 bits."""
    value &= 2**64 - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


Value = int | float | str | bytes


def _feature(values: Sequence[Value]) -> bytes:
    first = values[0]
    if isinstance(first, int):
        return _field(3, _field(1, b"".join(_varint(int(value)) for value in values)))
    if isinstance(first, float):
        return _field(2, _field(1, struct.pack(f"<{len(values)}f", *values)))
    texts = (os.fsencode(value) for value in values if isinstance(value, str | bytes))
    return _field(1, b"".join(_field(1, text) for text in texts))


def sequence_example(context: dict[str, Value], images: Sequence[bytes]) -> bytes:
    """A serialised tf.train.SequenceExample.

    Args:
      context: properties of the whole video, one value per key.
      images: the JPEG files of its frames.
    """
    entries = b"".join(
        _field(1, _field(1, key.encode()) + _field(2, _feature([value])))
        for key, value in sorted(context.items())
    )
    frames = b"".join(_field(1, _feature([image])) for image in images)
    lists = _field(1, _field(1, IMAGES.encode()) + _field(2, frames))
    return _field(1, entries) + _field(2, lists)


# Reading.


def _read_varint(data: Buffer, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _fields(data: Buffer, span: Span) -> Iterator[tuple[int, Span]]:
    """Field numbers of a message, with the spans of their values (of an integer: its varint)."""
    at, end = span.start, span.start + span.length
    while at < end:
        tag, at = _read_varint(data, at)
        kind = tag & 7
        if kind == _BYTES:
            length, at = _read_varint(data, at)
        elif kind == _VARINT:
            length = _read_varint(data, at)[1] - at
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise WrongSchema(f"not a serialised SequenceExample (byte {at})")
        if at + length > end:
            raise WrongSchema(f"not a serialised SequenceExample (byte {at})")
        yield tag >> 3, Span(at, length)
        at += length


def _only(data: Buffer, span: Span, number: int) -> Iterator[Span]:
    return (inner for found, inner in _fields(data, span) if found == number)


def _entries(data: Buffer, span: Span) -> Iterator[tuple[str, Span]]:
    """Keys of a map and spans of its values, in a message with no other fields."""
    for entry in _only(data, span, 1):
        fields = dict(_fields(data, entry))
        if 1 in fields and 2 in fields:
            key = bytes(data[fields[1].start : sum(fields[1])])
            yield key.decode(errors="replace"), fields[2]


def _values(data: Buffer, feature: Span) -> list[Value]:
    """All values of a feature."""
    values: list[Value] = []
    for kind, items in _fields(data, feature):
        for item in _only(data, items, 1):
            start, end = item.start, sum(item)
            if kind == 1:
                values.append(bytes(data[start:end]))
            elif kind == 2:
                values += struct.unpack(f"<{item.length // 4}f", data[start:end])
            else:
                while start < end:
                    value, start = _read_varint(data, start)
                    values.append(value - 2**64 if value >= 2**63 else value)
    return values


def find_frames(payload: Buffer) -> tuple[dict[str, list[Value]], list[Span]]:
    """Reads the context of a SequenceExample and locates its JPEG files.

    Args:
      payload: of a record.

    Returns:
      The context by key, text as bytes; the spans of the frames in the payload.

    Raises:
      WrongSchema: not a SequenceExample, no images, or not one image in each feature.
    """
    context: dict[str, list[Value]] = {}
    frames: list[Span] = []
    try:
        for number, field in _fields(payload, Span(0, len(payload))):
            for key, value in _entries(payload, field) if number in (1, 2) else ():
                if number == 1:
                    context[key] = _values(payload, value)
                elif key == IMAGES:
                    frames += _images(payload, value)
    except (IndexError, struct.error):
        raise WrongSchema("not a serialised SequenceExample") from None
    if not frames:
        raise WrongSchema(f"no feature list {IMAGES!r}")
    return context, frames


def _images(data: Buffer, feature_list: Span) -> Iterator[Span]:
    for feature in _only(data, feature_list, 1):
        images = [image for values in _only(data, feature, 1) for image in _only(data, values, 1)]
        if len(images) != 1:
            raise WrongSchema(
                f"a feature of {IMAGES!r} holds {len(images)} images, not one; write one feature "
                "per frame (old converters put a whole clip into one)"
            )
        yield images[0]
