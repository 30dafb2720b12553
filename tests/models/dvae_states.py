"""Tensors of DALL-E's networks by the names of the original, with no model of ours."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

Shapes = dict[str, tuple[int, int, int, int]]


def encoder_shapes(hidden: int, blocks: int, vocabulary: int) -> Shapes:
    """Kernels of an encoder."""
    widths = [hidden, hidden, 2 * hidden, 4 * hidden, 8 * hidden]
    return {
        "blocks.input": (hidden, 3, 7, 7),
        **_groups(widths, blocks, (3, 3, 3, 1)),
        "blocks.output.conv": (vocabulary, 8 * hidden, 1, 1),
    }


def decoder_shapes(hidden: int, blocks: int, vocabulary: int, initial: int) -> Shapes:
    """Kernels of a decoder."""
    widths = [initial, 8 * hidden, 4 * hidden, 2 * hidden, hidden]
    return {
        "blocks.input": (initial, vocabulary, 1, 1),
        **_groups(widths, blocks, (1, 3, 3, 3)),
        "blocks.output.conv": (6, hidden, 1, 1),
    }


def _groups(widths: list[int], blocks: int, sizes: tuple[int, ...]) -> Shapes:
    shapes: Shapes = {}
    for group in range(1, 5):
        inner, outer = widths[group - 1], widths[group]
        for block in range(1, blocks + 1):
            name, hidden = f"blocks.group_{group}.block_{block}", outer // 4
            if inner != outer:
                shapes[f"{name}.id_path"] = (outer, inner, 1, 1)
            ends = [(hidden, inner), (hidden, hidden), (hidden, hidden), (outer, hidden)]
            for i, (end, size) in enumerate(zip(ends, sizes, strict=True), 1):
                shapes[f"{name}.res_path.conv_{i}"] = (*end, size, size)
            inner = outer
    return shapes


def filled(shapes: Shapes, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """Weights and biases from the CRC of each name."""

    def random(name: str, shape: tuple[int, ...]) -> np.ndarray:
        return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)

    state = {}
    for name, shape in shapes.items():
        weights = random(f"{name}.w", shape) / np.sqrt(np.prod(shape[1:]))
        state[f"{name}.w"] = weights.astype(dtype)
        state[f"{name}.b"] = (0.05 * random(f"{name}.b", shape[:1])).astype(dtype)
    return state
