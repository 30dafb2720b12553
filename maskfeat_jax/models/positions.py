"""What tells a transformer where a token is: a vector added to it."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from maskfeat_jax.arrays import Array
from maskfeat_jax.models.layers import NORMAL, check_choice
from maskfeat_jax.ops.patches import Size3

POSITIONS = ("joint", "separate", "sincos")
TABLE = "pos_embed"  # name of the parameter that holds a whole table


def positions(
    param: Callable[..., Array], kind: str, grid: Size3, width: int
) -> Float[Array, "1 n {width}"]:
    """Vectors for the class token and every token of a grid.

    Args:
      param: makes a parameter of the module that asks.
      kind: "joint" learns a vector for each; "separate" learns one for the class token, each place
        of a frame and each frame, and adds the last two (MAE for video); "sincos" is a table of
        sines and cosines that is not learnt. It lies among the parameters, as in the checkpoints
        of MAE, so that fine-tuning with "joint" can go on from it.
      grid: tokens along time, height and width.
      width: of the tokens.
    """
    frames, places = grid[0], grid[1] * grid[2]
    if kind != "separate":
        init = NORMAL if kind == "joint" else lambda key, shape: sincos_table(grid, width)
        table = param(TABLE, init, (1, 1 + frames * places, width))
        return table if kind == "joint" else lax.stop_gradient(table)
    of_class = param("pos_embed_class", NORMAL, (1, 1, width))
    of_place = param("pos_embed_spatial", NORMAL, (1, places, width))
    of_frame = param("pos_embed_temporal", NORMAL, (1, frames, width))
    of_token = of_frame[:, :, None] + of_place[:, None]
    return jnp.concatenate([of_class, of_token.reshape(1, -1, width)], 1)


def fixed_positions(kind: str) -> tuple[str, ...]:
    """Names of the parameters of `positions` that are not learnt."""
    return (f"{TABLE}$",) if kind == "sincos" else ()


def check_positions(kind: str, width: int) -> None:
    """Raises ValueError for a kind that does not exist or does not suit the width."""
    check_choice("positions", kind, POSITIONS)
    if kind == "sincos" and width % 16:
        raise ValueError(f"width {width} is not a multiple of 16, as positions='sincos' need")


def sincos_table(grid: Size3, width: int) -> Float[Array, "1 n {width}"]:
    """Sines and cosines of the place of each token; zeros for the class token.

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
    table = np.concatenate([np.zeros((1, width)), table])[None]
    return jnp.asarray(table, jnp.result_type(float))


def _sincos(place: np.ndarray, channels: int) -> np.ndarray:
    """Sines, then cosines, of the place at frequencies from 1 down to 1/10000."""
    frequency = np.exp(-math.log(10000) * np.arange(channels // 2) / max(channels // 2, 1))
    angle = place[:, None] * frequency
    return np.concatenate([np.sin(angle), np.cos(angle)], 1)
