"""Names and layouts of our parameters in the originals; the weights of golden numbers."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from maskfeat_jax.models.layers import stack_blocks, unstack_blocks

# How names begin that are not the same in both: ours, and theirs.
PRETRAINING = {"norm.": "pred_head.transforms.0.0.", "projection.": "pred_head.projections.0."}
CLASSIFIER = {"projection.": "head.projection."}
MAE = {  # image MAE and mae_st
    "decoder.": "decoder_",
    "decoder_mask_token": "mask_token",
    "decoder_projection.": "decoder_pred.",
}
MAE_CLASSIFIER = {"projection.": "head."}


def mae_of_pyslowfast(decoder_depth: int) -> dict[str, str]:
    """Names of PySlowFast's masked autoencoder."""
    return {
        "decoder.blocks.": "pred_head.transforms.0.",
        "decoder.norm.": f"pred_head.transforms.0.{decoder_depth}.",
        "decoder.projection.": "pred_head.projections.0.",
        "decoder.mask_token": "mask_token",
        "decoder.": "decoder_",
    }


Params = dict[str, Any]


def torch_name(path: tuple[str, ...], renames: Mapping[str, str]) -> str:
    """The original's name of a parameter; `renames` for those outside the encoder."""
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


def fill_sines(params: Params, renames: Mapping[str, str], *, split_qkv: bool = False) -> Params:
    """Sines of the index in a tensor and of the tensor's index in the original's sorted names.

    Args:
      params: shapes of ours.
      renames: as for `torch_name`.
      split_qkv: the original has three linear maps for queries, keys and values (mae_st).
    """
    shapes: dict[str, tuple[int, ...]] = {}
    scales = set()

    def note(name: str, shape: tuple[int, ...], scale: bool) -> np.ndarray:
        shapes[name] = shape
        scales.update([name] if scale else [])
        return np.empty(shape)

    _build(params, renames, note)
    for name in [name for name in shapes if split_qkv and ".qkv." in name]:
        rows, *rest = shapes.pop(name)
        shapes.update({name.replace("qkv", part): (rows // 3, *rest) for part in "qkv"})
    arrays = {}
    for k, name in enumerate(sorted(shapes)):
        wave = 0.05 * np.sin(0.37 * np.arange(np.prod(shapes[name])) + k)
        arrays[name] = wave.reshape(shapes[name]) + (name in scales)
    return from_torch(params, renames, join_qkv(arrays))


def join_qkv(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Parameters of mae_st with the maps of queries, keys and values joined to one."""
    joined = {}
    for name, array in arrays.items():
        if ".attn.q." in name:
            maps = [arrays[name.replace(".q.", f".{letter}.")] for letter in "qkv"]
            joined[name.replace(".q.", ".qkv.")] = np.concatenate(maps)
        elif ".attn.k." not in name and ".attn.v." not in name:
            joined[name] = array
    return joined


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
