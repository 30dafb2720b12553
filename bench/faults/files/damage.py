"""Ways to damage a file; the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Sequence

HEAD = 512  # bytes that count as the header, from either end: MP4 may have it at the end
Others = Sequence[bytes]
EXTREME = (0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 10**6)


def damage(data: bytes, draws: random.Random, others: Others) -> tuple[str, bytes]:
    """What was done to a sound file, and the file; `others` are sound files of other formats."""
    way = draws.choice(tuple(WAYS))
    return way, WAYS[way](data, draws, others)


def _bytes(data: bytes, draws: random.Random, _: Others) -> bytes:
    changed = bytearray(data)
    for _ in range(draws.randint(1, 19)):
        changed[draws.randrange(len(data))] = draws.randrange(256)
    return bytes(changed)


def _bit(data: bytes, draws: random.Random, _: Others) -> bytes:
    changed = bytearray(data)
    changed[draws.randrange(len(data))] ^= 1 << draws.randrange(8)
    return bytes(changed)


def _head(data: bytes, draws: random.Random, _: Others) -> bytes:
    changed = bytearray(data)
    for _ in range(draws.randint(1, 9)):
        at = draws.randrange(min(HEAD, len(data)))
        changed[at if draws.random() < 0.5 else -1 - at] = draws.randrange(256)
    return bytes(changed)


def _number(data: bytes, draws: random.Random, _: Others) -> bytes:
    """A word of the header, as sizes and counts are."""
    at = draws.randrange(min(HEAD, len(data)))
    at = at if draws.random() < 0.5 else max(0, len(data) - 4 - at)
    word = draws.choice(EXTREME).to_bytes(4, draws.choice(("big", "little")))
    return data[:at] + word + data[at + 4 :]


def _cut(data: bytes, draws: random.Random, _: Others) -> bytes:
    return data[: draws.randrange(len(data))]


def _zeros(data: bytes, draws: random.Random, _: Others) -> bytes:
    at, length = draws.randrange(len(data)), draws.randint(1, max(1, len(data) // 4))
    length = min(length, len(data) - at)
    return data[:at] + bytes(length) + data[at + length :]


def _zero_head(data: bytes, draws: random.Random, _: Others) -> bytes:
    length = draws.randint(1, 64)
    return bytes(length) + data[length:]


def _swap_head(data: bytes, draws: random.Random, others: Others) -> bytes:
    length = draws.choice((4, 8, 12, 16, 32, 64, 256))
    return draws.choice(others)[:length] + data[length:]


def _insert(data: bytes, draws: random.Random, _: Others) -> bytes:
    at = draws.randrange(len(data))
    return data[:at] + draws.randbytes(draws.randint(1, 300)) + data[at:]


def _leave_out(data: bytes, draws: random.Random, _: Others) -> bytes:
    at = draws.randrange(len(data))
    return data[:at] + data[at + draws.randint(1, 300) :]


def _swap(data: bytes, draws: random.Random, _: Others) -> bytes:
    """Two pieces change places."""
    a, b, c = sorted(draws.randrange(len(data) + 1) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _append(data: bytes, draws: random.Random, _: Others) -> bytes:
    return data + draws.randbytes(draws.randint(1, 300))


WAYS = {
    "bytes changed": _bytes,
    "one bit changed": _bit,
    "bytes of the header changed": _head,
    "a number of the header changed": _number,
    "cut short": _cut,
    "a piece zeroed": _zeros,
    "header zeroed": _zero_head,
    "header of another format": _swap_head,
    "garbage inserted": _insert,
    "a piece left out": _leave_out,
    "two pieces swapped": _swap,
    "garbage appended": _append,
}
