"""What tells a transformer where a token is: a vector added to it."""

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
TABLE = "pos_embed"  # name of the parameter that holds a whole table


def positions(
    param: Callable[..., Array], kind: str, grid: Size3, width: int, class_tokens: int = 1
) -> Float[Array, "1 n {width}"]:
    """Vectors for the class token, if there is one, and every token of a grid.

    Args:
      param: makes a parameter of the module that asks.
      kind: "joint" learns a vector for each; "separate" learns one for the class token, each place
        of a frame and each frame, and adds the last two (MAE for video); "sincos" and "sinusoid"
        (VideoMAE) are tables of sines and cosines that are not learnt. They lie among the
        parameters, as in the checkpoints of MAE, so that fine-tuning with "joint" can go on.
      grid: tokens along time, height and width.
      width: of the tokens.
      class_tokens: 1, or 0 where there is none.
    """
    frames, places = grid[0], grid[1] * grid[2]
    if kind != "separate":
        shape = (1, class_tokens + frames * places, width)
        if kind == "joint":
            return param(TABLE, NORMAL, shape)
        table = param(TABLE, lambda key, shape: FIXED[kind](grid, width, class_tokens), shape)
        return lax.stop_gradient(table)
    of_class = [param("pos_embed_class", NORMAL, (1, 1, width))] if class_tokens else []
    of_place = param("pos_embed_spatial", NORMAL, (1, places, width))
    of_frame = param("pos_embed_temporal", NORMAL, (1, frames, width))
    of_token = of_frame[:, :, None] + of_place[:, None]
    return jnp.concatenate([*of_class, of_token.reshape(1, -1, width)], 1)


def fixed_positions(kind: str) -> tuple[str, ...]:
    """Names of the parameters of `positions` that are not learnt."""
    return (f"{TABLE}$",) if kind in FIXED else ()


def check_positions(kind: str, width: int) -> None:
    """Raises ValueError for a kind that does not exist or does not suit the width."""
    check_choice("positions", kind, POSITIONS)
    if kind == "sincos" and width % 16:
        raise ValueError(f"width {width} is not a multiple of 16, as positions='sincos' need")


def sincos_table(grid: Size3, width: int, class_tokens: int = 1) -> Float[Array, "1 n {width}"]:
    """Sines and cosines of the place of each token; zeros for the class token, if there is one.

    For one frame the first half of the channels tells the column, the second the row; for several
    the first quarter tells the frame and the rest the place like that.

    Source: MAE (arXiv:2111.06377), util/pos_embed.py of facebookresearch/mae; for several frames
    PySlowFast's `USE_FIXED_SINCOS_POS`.
    """
    frame, row, column = (axis.ravel() for axis in np.indices(grid, np.float64))
    of_frame = width // 4 if grid[0] > 1 else 0
    half = (width - of_frame) // 2
    parts = [(frame, of_frame), (column, half), (row, half)]
    table = np.concatenate([_sincos(place, channels) for place, channels in parts], 1)
    return _with_class(table, class_tokens)


def sinusoid_table(grid: Size3, width: int, class_tokens: int = 1) -> Float[Array, "1 n {width}"]:
    """Sines and cosines, in turns, of the index of each token; zeros for the class token, if any.

    Tokens are counted time slowest: their places in the grid are not told apart. Channels j = 2i
    and 2i + 1 hold the sine and the cosine of index / 10000^(2i / width).

    Source: VideoMAE (arXiv:2203.12602), modeling_finetune.py of MCG-NJU/VideoMAE.
    """
    channel = np.arange(width)
    angle = np.arange(math.prod(grid))[:, None] / 10000.0 ** (channel // 2 * 2 / width)
    return _with_class(np.where(channel % 2, np.cos(angle), np.sin(angle)), class_tokens)


def _with_class(table: np.ndarray, class_tokens: int) -> Float[Array, "1 n d"]:
    """The table of the grid's tokens after a row of zeros for each class token."""
    table = np.concatenate([np.zeros((class_tokens, table.shape[1])), table])[None]
    return jnp.asarray(table, jnp.result_type(float))


def _sincos(place: np.ndarray, channels: int) -> np.ndarray:
    """Sines, then cosines, of the place at frequencies from 1 down to 1/10000."""
    frequency = np.exp(-math.log(10000) * np.arange(channels // 2) / max(channels // 2, 1))
    angle = place[:, None] * frequency
    return np.concatenate([np.sin(angle), np.cos(angle)], 1)


FIXED = {"sincos": sincos_table, "sinusoid": sinusoid_table}
