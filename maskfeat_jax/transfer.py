"""Starting from the parameters of another run."""

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

# Tables of positions, and the part of the grid that each is of.
POSITIONS: dict[str, Callable[[Size3], Size3]] = {
    "pos_embed": lambda grid: grid,
    "pos_embed_spatial": lambda grid: (1, grid[1], grid[2]),
    "pos_embed_temporal": lambda grid: (grid[0], 1, 1),
}


class TransferError(ValueError):
    """Parameters do not fit the model that they are meant for."""


def transfer(
    fresh: Params,
    source: Params,
    *,
    parts: tuple[str, ...] = ("encoder",),
    grids: tuple[Size3, Size3] | None = None,
) -> Params:
    """Replaces parts of fresh parameters by those of a checkpoint.

    Blocks are stacked or unstacked as the fresh parameters are. What the source has beyond them
    (the mask token of pre-training, say) is left out. Tables of relative positions are interpolated
    linearly where their lengths differ, as those of the last stage of an MViT that is fine-tuned
    with fewer tokens than it was pre-trained with; those of absolute positions, where grids are
    given, see `resize_positions`.

    Args:
      fresh: parameters of the new model, or their shapes.
      source: parameters of the checkpoint.
      parts: top-level names to replace; everything below them must be in the source.
      grids: tokens of the source and of the new model along time, height and width; None: tables of
        positions must have the same shape.

    Raises:
      TransferError: a parameter is missing in the source or has another shape; names all of them.
        Or a part is not in the model.
    """
    for part in parts:
        if part not in fresh:
            raise TransferError(
                f"model.init_parts names {part!r}; the model has {', '.join(sorted(fresh))}"
            )
    plain, loose = _flat(unstack_blocks(source)), _flat(unstack_blocks(fresh))
    wrong, places, taken = [], False, dict(loose)
    for name, value in loose.items():
        if name[0] not in parts:
            continue
        if name not in plain:
            wrong.append(f"{'/'.join(name)}: missing")
            continue
        found = plain[name]
        if name[-1].startswith("rel_pos_") and found.shape[1:] == value.shape[1:]:
            found = resize_table(found, value.shape[0])
        if grids and name[-1] in POSITIONS:
            found = _resized(found, name[-1], *grids)
        if found.shape != value.shape:
            wrong.append(f"{'/'.join(name)}: {found.shape}, expected {value.shape}")
            places |= name[-1] in POSITIONS and grids is None
        else:
            taken[name] = np.asarray(found, value.dtype)
    if wrong:
        raise TransferError(
            f"{len(wrong)} parameters do not fit the model: "
            + "; ".join(wrong[:5])
            + ("; …" if len(wrong) > 5 else "")
            + ". Is it the same encoder, size and number of classes?"
            + (" Positions are interpolated with model.init_resize=True." if places else "")
        )
    return stack_blocks(_nested(taken), fresh)


def _resized(rows: np.ndarray, name: str, before: Size3, after: Size3) -> np.ndarray:
    """A table of positions for another grid; rows before those of the grid stay as they are."""
    before, after = POSITIONS[name](before), POSITIONS[name](after)
    if before == after:
        return rows
    first = rows.shape[1] - math.prod(before)
    if first < 0:
        return rows  # of another grid than was said: the shapes will tell
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
