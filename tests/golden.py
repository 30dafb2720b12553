"""Deterministic weights and inputs behind the golden numbers of PySlowFast."""

from __future__ import annotations

import zlib
from typing import Any

import jax
import numpy as np

from maskfeat_jax.models.layers import stack_blocks, unstack_blocks


def torch_name(path: tuple[str, ...]) -> str:
    """PySlowFast's name of a parameter of ours."""
    name = ".".join(path)
    name = name.removeprefix("encoder.").removesuffix(".kernel").removesuffix(".scale")
    if path[-1] in ("kernel", "scale"):
        name += ".weight"
    name = name.replace("patch_embed.", "patch_embed.proj.")
    return name


def fill(
    params: dict[str, Any], renames: dict[str, str], *, stacked: bool = False
) -> dict[str, Any]:
    """Every parameter set from the CRC of its PyTorch name, in its PyTorch shape."""
    params = jax.tree.map(lambda leaf: np.empty(leaf.shape, np.int8), params)

    def visit(node: Any, path: tuple[str, ...]) -> Any:
        if isinstance(node, dict):
            return {k: visit(v, (*path, k)) for k, v in node.items()}
        name = torch_name(path)
        for ours, theirs in renames.items():
            if name.startswith(ours):
                name = name.replace(ours, theirs, 1)
        shape = node.shape
        if path[-1] == "kernel":
            shape = (shape[-1], *shape[-2:-1], *shape[:-2])
        if path[0] == "encoder" and "patch_embed" in path and path[-1] == "kernel":
            shape = tuple(s for i, s in enumerate(shape) if i != 2)  # a Conv2d has no time
        random = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        if path[-1] == "scale":
            return 1 + 0.1 * random
        value = 0.05 * random
        if path[-1] == "kernel":
            if value.ndim == 4:
                return value.transpose(2, 3, 1, 0)[None]
            return value.T
        return value

    filled = visit(unstack_blocks(params), ())
    return stack_blocks(filled) if stacked else filled
