"""Initialises a model from the parameters of another one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from maskfeat_jax.models.layers import stack_blocks, unstack_blocks
from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.ops.relative_position import resize_table
from maskfeat_jax.ops.resize_positions import resize_positions

Params = Any  # nested dict of arrays
Flat = dict[tuple[str, ...], Any]  # arrays by path

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

    With `grids`, an encoder of videos becomes one of images and back, in which patch and grid have
    one frame. Kernels are summed over time, or divided by the new number of frames and repeated.
    Positions become those of a frame: separate ones of time are left out, joint ones are those of
    the first frame. Back, they are the same for all frames. So a video of equal frames has the
    patch embeddings and positions of the image, except where an MViT pads in time.

    Args:
      fresh: parameters of the new model, or their shapes.
      source: parameters of the checkpoint.
      parts: top-level keys to replace; all parameters below them must be in the source.
      grids: tokens of the source and of the new model along time, height and width; None: absolute
        positions must have the same shape.

    Raises:
      TransferError: parameters are missing in the source or have another shape, all listed; or the
        model has no such top-level key.

    Source: `inflate` of facebookresearch/mae_st (util/misc.py), `inflate_weight` and
    `CHECKPOINT_IN_INIT` of PySlowFast (slowfast/utils/checkpoint.py; the latter does not divide);
    arXiv:2205.09113, from videos to images and back.
    """
    for part in parts:
        if part not in fresh:
            raise TransferError(
                f"model.init_parts names {part!r}; the model has {', '.join(sorted(fresh))}"
            )
    available = _flat(unstack_blocks(source))
    needed = _flat(jax.eval_shape(unstack_blocks, {part: fresh[part] for part in parts}))
    if grids and _of_images(available, grids[0]) != _of_images(needed, grids[1]):
        available = _with_frames_of(needed, available, *grids)
        grids = (grids[1][0], *grids[0][1:]), grids[1]
    wrong, needs_resize, merged = [], False, {}
    for name, value in needed.items():
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
            needs_resize |= grids is None and (
                name[-1] in POSITIONS or _sums_to(found.shape, value.shape)
            )
        else:
            merged[name] = np.asarray(found, value.dtype)
    if wrong:
        raise TransferError(
            f"model.init_from: {len(wrong)} parameters do not fit the model: "
            + "; ".join(wrong[:5])
            + ("; …" if len(wrong) > 5 else "")
            + ". Is it the same encoder, size and number of classes?"
            + (" Set model.init_resize=True to adapt them to this clip size." * needs_resize)
        )
    return {**fresh, **stack_blocks(_nested(merged), {part: fresh[part] for part in parts})}


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


def _of_images(params: Flat, grid: Size3) -> bool:
    kernel = params.get(("encoder", "patch_embed", "kernel"))
    return kernel is not None and (kernel.shape[0], grid[0]) == (1, 1)


def _sums_to(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether these are shapes of kernels of which one has no extent in time."""
    return len(shape) == 5 and shape[1:] == other[1:] and 1 in (shape[0], other[0])


def _with_frames_of(needed: Flat, source: Flat, before: Size3, after: Size3) -> Flat:
    """The source with the frames of `needed`: kernels, and positions of the encoder."""
    changed = dict(source)
    for name in needed.keys() & source.keys():
        kernel, frames = source[name], needed[name].shape[0]
        if kernel.shape != needed[name].shape and _sums_to(kernel.shape, needed[name].shape):
            summed = np.sum(kernel, 0, keepdims=True)
            changed[name] = np.repeat(summed / frames, frames, 0)
    names = ("pos_embed", "pos_embed_class", "pos_embed_spatial")
    positions = {n: np.asarray(source["encoder", n]) for n in names if ("encoder", n) in source}
    for table, rows in _positions_with_frames(positions, needed, before, after).items():
        changed["encoder", table] = rows
    return changed


def _positions_with_frames(
    source: Mapping[str, np.ndarray], needed: Flat, before: Size3, after: Size3
) -> dict[str, np.ndarray]:
    """Positions of a frame, the same for each frame, with the names that are needed."""
    if not source:
        return {}
    if "pos_embed" in source:
        joint, per_frame = source["pos_embed"], before[1] * before[2]
        first = joint.shape[1] - before[0] * per_frame
        of_class, spatial = joint[:, :first], joint[:, first : first + per_frame]
    else:
        spatial = source["pos_embed_spatial"]
        of_class = source.get("pos_embed_class", spatial[:, :0])
    if ("encoder", "pos_embed") in needed:
        return {"pos_embed": np.concatenate([of_class, np.tile(spatial, (1, after[0], 1))], 1)}
    temporal = np.zeros((1, after[0], spatial.shape[2]), spatial.dtype)
    rows = {"pos_embed_spatial": spatial, "pos_embed_temporal": temporal}
    return rows | ({"pos_embed_class": of_class} if of_class.shape[1] else {})


def _flat(tree: Params) -> Flat:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {tuple(key.key for key in path): leaf for path, leaf in leaves}


def _nested(flat: Flat) -> Params:
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        node = tree
        for key in name[:-1]:
            node = node.setdefault(key, {})
        node[name[-1]] = leaf
    return tree
