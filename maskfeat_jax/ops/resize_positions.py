"""Interpolation of positional embeddings to another token grid."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from maskfeat_jax.ops.patches import Size3


def resize_positions(
    rows: Float[np.ndarray, "*lead n d"], before: Size3, after: Size3
) -> Float[np.ndarray, "*lead m d"]:
    """Interpolates the vectors of a token grid: linear in time, bicubic in height and width.

    Half-pixel centres, no antialiasing, cubic coefficient -0.75, edges repeated: like the bicubic
    and linear `interpolate` of PyTorch, which MAE, PySlowFast, mmpretrain and transformers use.

    Args:
      rows: a vector for each token, time slowest.
      before: tokens along time, height and width.
      after: likewise, of the result.

    Raises:
      ValueError: the number of rows is not that of the tokens of `before`.

    Source: `interpolate_pos_embed` of facebookresearch/mae; `load_checkpoint` of PySlowFast.
    """
    *lead, n, d = rows.shape
    if n != math.prod(before):
        raise ValueError(f"{n} rows are not a grid of {'x'.join(map(str, before))} tokens")
    grid = rows.reshape(*lead, *before, d)
    t, h, w = (
        weights(old, new)
        for old, new, weights in zip(before, after, (_linear, _cubic, _cubic), strict=True)
    )
    grid = np.einsum("at,bh,cw,...thwd->...abcd", t, h, w, grid, optimize=True)
    return grid.reshape(*lead, -1, d).astype(rows.dtype)


def _sources(old: int, new: int) -> np.ndarray:
    """Position in the old grid of each element of the new one."""
    return (np.arange(new) + 0.5) * (old / new) - 0.5


def _linear(old: int, new: int) -> np.ndarray:
    """Weights `(new, old)`."""
    source = _sources(old, new).clip(0, old - 1)
    return np.maximum(1 - abs(source[:, None] - np.arange(old)), 0)


def _cubic(old: int, new: int) -> np.ndarray:
    """Weights `(new, old)`."""
    source = _sources(old, new)
    first = np.floor(source).astype(int)
    weights = np.zeros((new, old))
    for step in range(-1, 3):
        column = (first + step).clip(0, old - 1)
        np.add.at(weights, (np.arange(new), column), _kernel(source - first - step))
    return weights


def _kernel(x: np.ndarray, a: float = -0.75) -> np.ndarray:
    x = abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))
