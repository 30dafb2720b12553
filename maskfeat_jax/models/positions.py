"""Absolute positional embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from maskfeat_jax.models.layers import NORMAL, check_choice
from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.typing import Array

POSITIONS = ("joint", "separate", "sincos", "sinusoid")
TABLE = "pos_embed"  # parameter with one vector per token


def positions(
    param: Callable[..., Array], kind: str, grid: Size3, width: int, class_tokens: int = 1
) -> Float[Array, "1 n {width}"]:
    """Positional embeddings of the class token, if there is one, and of every token of a grid.

    Args:
      param: `param` method of the calling module.
      kind: "joint" has a learned vector for each token; "separate" has learned vectors for the
        class token, each position in a frame and each frame, and adds the last two (MAE for video);
        "sincos" and "sinusoid" (VideoMAE) are fixed tables of sines and cosines. These are stored
        as parameters too, as in the checkpoints of MAE, so that fine-tuning with "joint" can start
        from them.
      grid: tokens along time, height and width.
      width: of the tokens.
      class_tokens: 1, or 0 for none.
    """
    frames, per_frame = grid[0], grid[1] * grid[2]
    if kind != "separate":
        shape = (1, class_tokens + frames * per_frame, width)
        if kind == "joint":
            return param(TABLE, NORMAL, shape)
        table = param(TABLE, lambda key, shape: FIXED[kind](grid, width, class_tokens), shape)
        return lax.stop_gradient(table)
    of_class = [param("pos_embed_class", NORMAL, (1, 1, width))] if class_tokens else []
    spatial = param("pos_embed_spatial", NORMAL, (1, per_frame, width))
    temporal = param("pos_embed_temporal", NORMAL, (1, frames, width))
    of_token = temporal[:, :, None] + spatial[:, None]
    return jnp.concatenate([*of_class, of_token.reshape(1, -1, width)], 1)


def grid_of_table(rows: int, name: str, class_tokens: int, grid: Size3) -> Size3:
    """The grid that a table of positions is of: as many square frames as `grid`, or `grid`.

    Args:
      rows: of the table.
      name: of its parameter.
      class_tokens: rows of the class token in `TABLE`.
      grid: tokens of a clip along time, height and width.

    Raises:
      ValueError: it is of none of them.
    """
    frames, height, width = grid
    per_frame = rows if name != TABLE else (rows - class_tokens) / frames
    side = math.isqrt(int(per_frame))
    if per_frame == side * side:
        return frames, side, side
    if per_frame != height * width:
        raise ValueError(
            f"{rows} positions are not those of {frames} x {height} x {width} tokens, or of "
            f"{frames} square frames"
        )
    return grid


def fixed_positions(kind: str) -> tuple[str, ...]:
    """Regular expressions for the parameters of `positions` that are not trained."""
    return (f"{TABLE}$",) if kind in FIXED else ()


def check_positions(kind: str, width: int) -> None:
    """Raises ValueError for an unknown kind, or one that does not support the width."""
    check_choice("positions", kind, POSITIONS)
    if kind == "sincos" and width % 16:
        raise ValueError(f"width {width} is not a multiple of 16, which positions='sincos' needs")


def sincos_table(grid: Size3, width: int, class_tokens: int = 1) -> Float[Array, "1 n {width}"]:
    """Sines and cosines of the position of each token; zeros for the class token, if any.

    For one frame, the first half of the channels encodes the column and the second the row. For
    several, the first quarter encodes the frame, and the rest column and row in the same way.

    Source: MAE (arXiv:2111.06377), util/pos_embed.py of facebookresearch/mae; for several frames
    PySlowFast's `USE_FIXED_SINCOS_POS`.
    """
    frame, row, column = (axis.ravel() for axis in np.indices(grid, np.float64))
    for_frame = width // 4 if grid[0] > 1 else 0  # channels
    half = (width - for_frame) // 2
    axes = [(frame, for_frame), (column, half), (row, half)]
    table = np.concatenate([_sincos(index, channels) for index, channels in axes], 1)
    return _with_class(table, class_tokens)


def sinusoid_table(grid: Size3, width: int, class_tokens: int = 1) -> Float[Array, "1 n {width}"]:
    """Alternating sines and cosines of the index of each token; zeros for the class token, if any.

    The index counts tokens with time slowest, regardless of the shape of the grid. Channels 2i and
    2i + 1 are the sine and the cosine of index / 10000^(2i / width).

    Source: VideoMAE (arXiv:2203.12602), modeling_finetune.py of MCG-NJU/VideoMAE.
    """
    channel = np.arange(width)
    angle = np.arange(math.prod(grid))[:, None] / 10000.0 ** (channel // 2 * 2 / width)
    return _with_class(np.where(channel % 2, np.cos(angle), np.sin(angle)), class_tokens)


def _with_class(table: np.ndarray, class_tokens: int) -> Float[Array, "1 n d"]:
    """Prepends a row of zeros for each class token."""
    table = np.concatenate([np.zeros((class_tokens, table.shape[1])), table])[None]
    return jnp.asarray(table, jnp.result_type(float))


def _sincos(index: np.ndarray, channels: int) -> np.ndarray:
    """Sines, then cosines, of an index at frequencies from 1 down to 1/10000."""
    frequency = np.exp(-math.log(10000) * np.arange(channels // 2) / max(channels // 2, 1))
    angle = index[:, None] * frequency
    return np.concatenate([np.sin(angle), np.cos(angle)], 1)


FIXED = {"sincos": sincos_table, "sinusoid": sinusoid_table}
