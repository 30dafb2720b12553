"""Attention with decomposed relative positions, as in MViTv2."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from maskfeat_jax.ops.attention import attention
from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.typing import Array

Tables = tuple[
    Float[Array, "rows_t d"],
    Float[Array, "rows_h d"],
    Float[Array, "rows_w d"],
]


def relative_attention(
    q: Float[Array, "b queries heads d"],
    k: Float[Array, "b keys heads d"],
    v: Float[Array, "b keys heads d"],
    tables: Tables,
    q_grid: Size3,
    k_grid: Size3,
    *,
    kernel: str = "auto",
) -> Float[Array, "b queries heads d"]:
    """Attention with decomposed relative positions in the logits.

    The logit of a patch query and a patch key is `q . k * d ** -0.5 + q . (T + H + W)`, where T, H
    and W are the rows of the three tables at their distance in time, height and width; the query is
    not scaled in the second term. The class token, first among queries and keys, has the first term
    only.

    This equals plain attention with longer heads, `q' = [q * d ** -0.5, q . T, q . H, q . W]` and
    `k' = [k, one-hot frame, one-hot row, one-hot column]`, so any attention kernel can compute it.

    Args:
      q: queries, class token first, then the grid with time slowest.
      k: keys, in the same order.
      v: values.
      tables: embeddings of distances in time, height, width, shared by the heads; interpolated
        linearly if the grids need another length (see `resize_table`).
      q_grid: queries along time, height, width.
      k_grid: keys along time, height, width.
      kernel: see `attention`.

    Raises:
      ValueError: the tokens are not a class token and the grid.

    Source: MViTv2 (arXiv:2112.01526) section 4.1; `cal_rel_pos_spatial` and
    `cal_rel_pos_temporal` of PySlowFast (slowfast/models/attention.py).
    """
    for name, tokens, grid in (("queries", q, q_grid), ("keys", k, k_grid)):
        if tokens.shape[1] != math.prod(grid) + 1:
            raise ValueError(
                f"{tokens.shape[1]} {name} are not a class token and a grid of {grid} tokens"
            )
    long_q, long_k = lengthen(q, k, tables, q_grid, k_grid)
    return attention(long_q, long_k, v, scale=1.0, kernel=kernel)


def lengthen(
    q: Float[Array, "b queries heads d"],
    k: Float[Array, "b keys heads d"],
    tables: Tables,
    q_grid: Size3,
    k_grid: Size3,
) -> tuple[Float[Array, "b queries heads e"], Float[Array, "b keys heads e"]]:
    """`q'` and `k'` of `relative_attention`, whose products are its logits."""
    b, _, heads, d = q.shape
    patches = q[:, 1:].reshape(b, *q_grid, heads, d)
    terms = []
    for axis, table, size, keys in zip("thw", tables, q_grid, k_grid, strict=True):
        rows = resize_table(table, 2 * max(size, keys) - 1)[distances(size, keys)].astype(q.dtype)
        terms.append(jnp.einsum(f"bthwnd,{axis}kd->bthwnk", patches, rows))
    relative = jnp.concatenate(terms, -1).reshape(b, -1, heads, sum(k_grid))
    relative = jnp.pad(relative, ((0, 0), (1, 0), (0, 0), (0, 0)))
    one_hot = jnp.asarray(one_hot_positions(k_grid), k.dtype)[None, :, None]
    one_hot = jnp.broadcast_to(one_hot, (*k.shape[:3], sum(k_grid)))
    scaled = q * jnp.asarray(d**-0.5, q.dtype)
    return jnp.concatenate([scaled, relative], -1), jnp.concatenate([k, one_hot], -1)


def resize_table(table: Float[Array, "rows d"], length: int) -> Float[Array, "{length} d"]:
    """Linear interpolation to another number of rows, half-pixel centres, no antialiasing."""
    if table.shape[0] == length:
        return table
    return jax.image.resize(table, (length, table.shape[1]), "linear", antialias=False)


@functools.cache
def distances(queries: int, keys: int) -> np.ndarray:
    """Row of the table for each query and key along one axis, shape `(queries, keys)`.

    Positions on the shorter side are scaled to the longer; fractions are truncated.
    """
    of_query, of_key = np.float32(max(keys / queries, 1)), np.float32(max(queries / keys, 1))
    i, j = np.arange(queries, dtype=np.float32)[:, None], np.arange(keys, dtype=np.float32)
    return (i * of_query - j * of_key + (keys - 1) * of_key).astype(np.int32)


@functools.cache
def one_hot_positions(grid: Size3) -> np.ndarray:
    """One-hot frame, row and column of each token, after zeros for the class token."""
    indices = np.indices(grid).reshape(3, -1)
    axes = [np.eye(size, dtype=np.float32)[at] for size, at in zip(grid, indices, strict=True)]
    return np.pad(np.concatenate(axes, 1), ((1, 0), (0, 0)))
