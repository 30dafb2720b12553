"""PySlowFast's names and layouts of our parameters, and the weights behind its golden numbers."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from maskfeat_jax.models.layers import stack_blocks, unstack_blocks

PRETRAINING = {"norm.": "pred_head.transforms.0.0.", "projection.": "pred_head.projections.0."}
CLASSIFIER = {"projection.": "head.projection."}

Params = dict[str, Any]


def torch_name(path: tuple[str, ...], renames: Mapping[str, str]) -> str:
    """PySlowFast's name of a parameter of ours; `renames` of the parts of the head."""
    name = ".".join(path)
    name = name.removeprefix("encoder.").removesuffix(".kernel").removesuffix(".scale")
    if path[-1] in ("kernel", "scale"):
        name += ".weight"
    name = name.replace("patch_embed.", "patch_embed.proj.")
    for ours, theirs in renames.items():
        if name.startswith(ours):
            name = name.replace(ours, theirs, 1)
    return name


def fill(params: Params, renames: Mapping[str, str] = MappingProxyType({})) -> Params:
    """Every parameter set from the CRC of its PyTorch name, in its PyTorch shape."""

    def value_of(name: str, shape: tuple[int, ...], scale: bool) -> np.ndarray:
        random = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        return 1 + 0.1 * random if scale else 0.05 * random

    return _build(params, renames, value_of)


def from_torch(
    params: Params, renames: Mapping[str, str], arrays: Mapping[str, np.ndarray]
) -> Params:
    """PyTorch's parameters, or anything of their names and shapes, as a tree like `params`."""

    def value_of(name: str, shape: tuple[int, ...], scale: bool) -> np.ndarray:
        assert arrays[name].shape == shape, name
        return arrays[name]

    return _build(params, renames, value_of)


def _build(
    params: Params,
    renames: Mapping[str, str],
    value_of: Callable[[str, tuple[int, ...], bool], np.ndarray],
) -> Params:
    params = jax.tree.map(lambda leaf: np.empty(leaf.shape, np.int8), params)

    def visit(node: Any, path: tuple[str, ...]) -> Any:
        if isinstance(node, dict):
            return {k: visit(v, (*path, k)) for k, v in node.items()}
        name, shape = torch_name(path, renames), node.shape
        if path[-1] != "kernel":
            return value_of(name, shape, path[-1] == "scale")
        shape = (shape[-1], *shape[-2:-1], *shape[:-2])
        if len(shape) == 2:
            return value_of(name, shape, False).T
        if shape[2] > 1:
            return value_of(name, shape, False).transpose(2, 3, 4, 1, 0)
        shape = (*shape[:2], *shape[3:])  # a Conv2d has no time
        return value_of(name, shape, False).transpose(2, 3, 1, 0)[None]

    return stack_blocks(visit(unstack_blocks(params), ()), params)
