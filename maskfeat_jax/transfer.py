"""Initialises a model from the parameters of another one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from maskfeat_jax.models.layers import stack_blocks, unstack_blocks
from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.ops.relative_position import resize_table
from maskfeat_jax.ops.resize_positions import resize_positions

Params = Any  # nested dict of arrays

# Positional embeddings, and the grid that each covers.
POSITIONS: dict[str, Callable[[Size3], Size3]] = {
    "pos_embed": lambda grid: grid,
    "pos_embed_spatial": lambda grid: (1, grid[1], grid[2]),
    "pos_embed_temporal": lambda grid: (grid[0], 1, 1),
}


class TransferError(ValueError):
    """Parameters do not fit the model."""


def transfer(
    fresh: Params,
    source: Params,
    *,
    parts: tuple[str, ...] = ("encoder",),
    grids: tuple[Size3, Size3] | None = None,
) -> Params:
    """Replaces subtrees of fresh parameters by those of a checkpoint.

    Blocks are stacked or unstacked as in the fresh parameters. Other parameters of the source (such
    as the mask token of pre-training) are ignored. Tables of relative positions whose length
    differs are interpolated linearly, as in the last stage of an MViT that is fine-tuned with fewer
    tokens than in pre-training; absolute positions only if `grids` are given, see
    `resize_positions`.

    Args:
      fresh: parameters of the new model, or their shapes.
      source: parameters of the checkpoint.
      parts: top-level keys to replace; all parameters below them must be in the source.
      grids: tokens of the source and of the new model along time, height and width; None: absolute
        positions must have the same shape.

    Raises:
      TransferError: parameters are missing in the source or have another shape, all listed; or the
        model has no such top-level key.
    """
    for part in parts:
        if part not in fresh:
            raise TransferError(
                f"model.init_parts names {part!r}; the model has {', '.join(sorted(fresh))}"
            )
    available, needed = _flat(unstack_blocks(source)), _flat(unstack_blocks(fresh))
    wrong, needs_resize, merged = [], False, dict(needed)
    for name, value in needed.items():
        if name[0] not in parts:
            continue
        if name not in available:
            wrong.append(f"{'/'.join(name)}: missing")
            continue
        found = available[name]
        if name[-1].startswith("rel_pos_") and found.shape[1:] == value.shape[1:]:
            found = resize_table(found, value.shape[0])
        if grids and name[-1] in POSITIONS:
            found = _resized(found, name[-1], *grids)
        if found.shape != value.shape:
            wrong.append(f"{'/'.join(name)}: {found.shape}, expected {value.shape}")
            needs_resize |= name[-1] in POSITIONS and grids is None
        else:
            merged[name] = np.asarray(found, value.dtype)
    if wrong:
        raise TransferError(
            f"model.init_from: {len(wrong)} parameters do not fit the model: "
            + "; ".join(wrong[:5])
            + ("; …" if len(wrong) > 5 else "")
            + ". Is it the same encoder, size and number of classes?"
            + (" Set model.init_resize=True to interpolate positions." if needs_resize else "")
        )
    return stack_blocks(_nested(merged), fresh)


def _resized(rows: np.ndarray, name: str, before: Size3, after: Size3) -> np.ndarray:
    """Resizes a table of positions to another grid; leading rows (class token) are unchanged."""
    before, after = POSITIONS[name](before), POSITIONS[name](after)
    if before == after:
        return rows
    first = rows.shape[1] - math.prod(before)
    if first < 0:
        return rows  # not of this grid: the comparison of shapes reports it
    grid = resize_positions(np.asarray(rows[:, first:]), before, after)
    return np.concatenate([rows[:, :first], grid], 1)


def _flat(tree: Params) -> dict[tuple[str, ...], Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {tuple(key.key for key in path): leaf for path, leaf in leaves}


def _nested(flat: dict[tuple[str, ...], Any]) -> Params:
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        node = tree
        for key in name[:-1]:
            node = node.setdefault(key, {})
        node[name[-1]] = leaf
    return tree
