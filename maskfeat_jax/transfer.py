"""Starting from the parameters of another run."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from maskfeat_jax.models.layers import stack_blocks, unstack_blocks
from maskfeat_jax.ops.relative_position import resize_table

Params = Any  # nested dict of arrays


class TransferError(ValueError):
    """Parameters do not fit the model that they are meant for."""


def transfer(fresh: Params, source: Params, *, parts: tuple[str, ...] = ("encoder",)) -> Params:
    """Replaces parts of fresh parameters by those of a checkpoint.

    Blocks are stacked or unstacked as the fresh parameters are. What the source has beyond them
    (the mask token of pre-training, say) is left out. Tables of relative positions are interpolated
    linearly where their lengths differ, as those of the last stage of an MViT that is fine-tuned
    with fewer tokens than it was pre-trained with.

    Args:
      fresh: parameters of the new model.
      source: parameters of the checkpoint.
      parts: top-level names to replace; everything below them must be in the source.

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
    wrong, taken = [], dict(loose)
    for name, value in loose.items():
        if name[0] not in parts:
            continue
        if name not in plain:
            wrong.append(f"{'/'.join(name)}: missing")
            continue
        found = plain[name]
        if name[-1].startswith("rel_pos_") and found.shape[1:] == value.shape[1:]:
            found = resize_table(found, value.shape[0])
        if found.shape != value.shape:
            wrong.append(f"{'/'.join(name)}: {found.shape}, expected {value.shape}")
        else:
            taken[name] = np.asarray(found, value.dtype)
    if wrong:
        raise TransferError(
            f"{len(wrong)} parameters do not fit the model: "
            + "; ".join(wrong[:5])
            + ("; …" if len(wrong) > 5 else "")
            + ". Is it the same encoder, size and number of classes?"
        )
    return stack_blocks(_nested(taken), fresh)


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
