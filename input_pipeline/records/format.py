"""TFRecord files of SequenceExamples, one video in each record: writing, and finding the frames.

TensorFlow writes and reads the same files, but reads a record whole: 5 MB to use 300 KB of it. Here
a record is only walked over, to learn where each frame lies. No TensorFlow, so worker processes
start fast and small.

The keys are those of MediaSequence, dmvr and scenic: JPEG files in `image/encoded`, one feature for
each; `clip/label/index`, `clip/label/text` and `video/filename`; start and end in microseconds.
`clip/fps`, `image/height` and `image/width` are ours and do not disturb others.

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
_BLOCK = 256  # bytes whose CRC is looked up at once
_CHUNK = 512  # blocks at a time, to stay in the cache


class WrongSchema(ValueError):
    """A record is sound but does not hold what is expected."""


class Span(NamedTuple):
    """Where a value lies in a payload, in bytes."""

    start: int
    length: int


# Checksums: CRC-32C. Linear over bits, so that of a block is the sum (XOR) of those of its bytes.


@functools.cache
def _tables() -> np.ndarray:
    """CRC of a block of zeros but for one byte: (place, byte); the register starts as zeros."""
    crc: np.ndarray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crc = np.where(crc & 1, (crc >> 1) ^ np.uint32(0x82F63B78), crc >> 1)
    last, places = crc, [crc]
    for _ in range(_BLOCK - 1):
        crc = last[crc & 255] ^ (crc >> 8)
        places.append(crc)
    return np.stack(places[::-1])


def _after_zeros(crc: np.ndarray, table: np.ndarray) -> np.ndarray:
    """CRC after as many zeros as the table, (byte of the CRC, its value), stands for."""
    return functools.reduce(
        np.bitwise_xor, (table[byte][(crc >> 8 * byte) & 255] for byte in range(4))
    )


def crc32c(data: Buffer | np.ndarray) -> int:
    """CRC-32C (Castagnoli) of some bytes, at about 300 MB/s; releases Python's lock mostly."""
    padding = 4 + -(len(data) + 4) % _BLOCK  # zeros in front change nothing
    blocks = np.zeros(padding + len(data), np.uint8)
    blocks[padding:] = np.frombuffer(data, np.uint8)
    # The register starts as all ones: as if the first four bytes were inverted.
    blocks[padding : padding + 4] ^= 255
    if len(data) < 4:
        raise ValueError(f"{len(data)} bytes are too few; the checksum needs 4")
    places = _tables()
    offsets = np.arange(_BLOCK) * 256
    rows = blocks.reshape(-1, _BLOCK)
    crcs = np.concatenate(
        [
            np.bitwise_xor.reduce(places.ravel()[offsets + rows[i : i + _CHUNK]], axis=1)
            for i in range(0, len(rows), _CHUNK)
        ]
    )
    zeros = places[:4]  # the register acts as if added to the first bytes of the next block
    while len(crcs) > 1:  # join neighbours
        if len(crcs) % 2:
            crcs = np.concatenate([np.zeros(1, np.uint32), crcs])
        crcs = _after_zeros(crcs[0::2], zeros) ^ crcs[1::2]
        zeros = _after_zeros(zeros, zeros)  # twice as many
    return int(crcs[0]) ^ 0xFFFFFFFF


def masked_crc(data: Buffer | np.ndarray) -> int:
    """The checksum as TFRecord files store it."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def framed(payload: bytes) -> bytes:
    """A record as it stands in a TFRecord file."""
    length = struct.pack("<Q", len(payload))
    crcs = [struct.pack("<I", masked_crc(part)) for part in (length, payload)]
    return length + crcs[0] + payload + crcs[1]


# Writing. A value that is made of others is written as its length, then them.


def _varint(value: int) -> bytes:
    """An integer in groups of seven bits, negative ones as if of 64 bits."""
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
      context: what holds for the whole video, one value for each key.
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
    """Numbers and places of the fields of a message; of an integer, the place of its varint."""
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
            raise WrongSchema(f"it is not a serialised SequenceExample (byte {at})")
        if at + length > end:
            raise WrongSchema(f"it is not a serialised SequenceExample (byte {at})")
        yield tag >> 3, Span(at, length)
        at += length


def _only(data: Buffer, span: Span, number: int) -> Iterator[Span]:
    return (inner for found, inner in _fields(data, span) if found == number)


def _entries(data: Buffer, span: Span) -> Iterator[tuple[str, Span]]:
    """Keys and places of the values of a map, in a message that holds nothing else."""
    for entry in _only(data, span, 1):
        parts = dict(_fields(data, entry))
        if 1 in parts and 2 in parts:
            key = bytes(data[parts[1].start : sum(parts[1])])
            yield key.decode(errors="replace"), parts[2]


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
    """What a SequenceExample says about its video, and where its JPEG files lie.

    Args:
      payload: of a record.

    Returns:
      The context by key, text as bytes; the places of the frames in the payload.

    Raises:
      WrongSchema: it is something else, or has no images, or not one in each feature.
    """
    context: dict[str, list[Value]] = {}
    frames: list[Span] = []
    try:
        for number, part in _fields(payload, Span(0, len(payload))):
            for key, value in _entries(payload, part) if number in (1, 2) else ():
                if number == 1:
                    context[key] = _values(payload, value)
                elif key == IMAGES:
                    frames += _images(payload, value)
    except (IndexError, struct.error):
        raise WrongSchema("it is not a serialised SequenceExample") from None
    if not frames:
        raise WrongSchema(f"it has no feature list {IMAGES!r}")
    return context, frames


def _images(data: Buffer, feature_list: Span) -> Iterator[Span]:
    for feature in _only(data, feature_list, 1):
        images = [image for values in _only(data, feature, 1) for image in _only(data, values, 1)]
        if len(images) != 1:
            raise WrongSchema(
                f"a feature of {IMAGES!r} holds {len(images)} images, not one; write one feature "
                "for each frame (old converters put a whole clip into one)"
            )
        yield images[0]
