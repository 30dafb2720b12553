"""Reads the encoder and the decoder of a discrete variational autoencoder in DALL-E's form.

| file                                  | names, for instance                                |
|---------------------------------------|----------------------------------------------------|
| OpenAI's `encoder.pkl`, `decoder.pkl` | `blocks.group_1.block_1.res_path.conv_1.w`         |
| their state dicts (mmpretrain)        | the same                                           |
| transformers' `FlavaImageCodebook`    | `blocks.group_1.group.block_1.id_path.weight`,     |
|                                       | `...block_1.res_path.path.conv_1.weight`           |

All may have a prefix, as the codebook in a whole FLAVA. Kernels `(out, in, h, w)` become
`(h, w, in, out)`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from maskfeat_jax.checkpoints.trees import Name, named_leaves, nest
from maskfeat_jax.convert import files
from maskfeat_jax.convert.files import ConvertError, Tensor, Tensors
from maskfeat_jax.convert.importing import numbers_of
from maskfeat_jax.convert.modules import read_module
from maskfeat_jax.convert.source import few
from maskfeat_jax.files import local_path
from maskfeat_jax.models.dvae import STRIDE, DvaeDecoder, DvaeEncoder

Params = Any  # nested dict of arrays
_LAST = "blocks.output.conv.w"
# Changes of FLAVA's names to OpenAI's.
_FLAVA = {".group.": ".", ".path.": ".", ".weight": ".w", ".bias": ".b"}


def read_encoder(path: str | os.PathLike[str]) -> tuple[DvaeEncoder, Params]:
    """The encoder in a file, and its parameters in float32.

    Args:
      path: a file as in the table above: safetensors, or of `torch.save`, also a pickled module.

    Raises:
      ConvertError: the file cannot be read without running code in it, or has no such encoder.
    """
    tensors = _read(path)
    first, last = _sides(path, tensors)
    if first.shape[1:] != (3, 7, 7):
        raise ConvertError(
            f"{path} has a first convolution {first.shape}, expected (hidden, 3, 7, 7), that of an "
            "encoder"
        )
    model = DvaeEncoder(first.shape[0], _blocks(tensors), last.shape[0])
    image = jax.ShapeDtypeStruct((1, STRIDE, STRIDE, 3), np.float32)
    return model, _fill(path, tensors, model, image)


def read_decoder(path: str | os.PathLike[str]) -> tuple[DvaeDecoder, Params]:
    """The decoder in a file, see `read_encoder`."""
    tensors = _read(path)
    first, last = _sides(path, tensors)
    if last.shape[0] != 6 or first.shape[2:] != (1, 1):
        raise ConvertError(
            f"{path} has a last convolution {last.shape}, expected (6, hidden, 1, 1), that of a "
            "decoder"
        )
    initial, vocabulary = first.shape[:2]
    model = DvaeDecoder(last.shape[1], _blocks(tensors), vocabulary, initial)
    return model, _fill(path, tensors, model, jax.ShapeDtypeStruct((1, 1, 1), np.int32))


def _read(path: str | os.PathLike[str]) -> Tensors:
    """The tensors of a network in a file, by OpenAI's names."""
    path = local_path(path)
    try:
        tensors = files.read(path).tensors
    except ConvertError:
        module = read_module(path) if path.is_file() else None
        if module is None:
            raise
        tensors = module
    renamed = {_openai(name): tensor for name, tensor in tensors.items()}
    prefixes = {name.removesuffix(_LAST) for name in renamed if name.endswith(_LAST)}
    if len(prefixes) != 1:
        raise ConvertError(
            f"{path} has {len(prefixes)} tensors {_LAST} or blocks.output.conv.weight, expected "
            f"one, that of an encoder or decoder of DALL-E; its names: {few(tuple(tensors))}"
        )
    (prefix,) = prefixes
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in renamed.items()
        if name.startswith(f"{prefix}blocks.")
    }


def _openai(name: str) -> str:
    for theirs, text in _FLAVA.items():
        name = name.replace(theirs, text)
    return name


def _sides(path: Any, tensors: Tensors) -> tuple[Tensor, Tensor]:
    """Kernels of the first and the last convolution."""
    both = tuple(tensors.get(name) for name in ("blocks.input.w", _LAST))
    for name, tensor in zip(("blocks.input.w", _LAST), both, strict=True):
        if tensor is None or len(tensor.shape) != 4 or not all(tensor.shape):
            raise ConvertError(f"{path}: {name}: expected a kernel (out, in, height, width)")
    return both  # type: ignore[return-value]


def _blocks(tensors: Tensors) -> int:
    """Blocks of the first group."""
    start = "blocks.group_1.block_"
    return len({name.split(".")[2] for name in tensors if name.startswith(start)})


def _fill(path: Any, tensors: Tensors, model: nn.Module, inputs: Any) -> Params:
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs)["params"]
    params: dict[Name, np.ndarray] = {}
    missing: list[str] = []
    wrong: list[str] = []
    expected: set[str] = set()
    for name, leaf in named_leaves(shapes).items():
        theirs, shape = _their_name(name), leaf.shape
        expected.add(theirs)
        if theirs not in tensors:
            missing.append(theirs)
            continue
        shape = shape if len(shape) == 1 else (shape[3], shape[2], *shape[:2])
        for array in numbers_of(theirs, tensors[theirs], shape, wrong):
            params[name] = array if array.ndim == 1 else array.transpose(2, 3, 1, 0)
    unexpected = [name for name in tensors if name not in expected]
    kinds: Mapping[str, list[str]] = {"missing": missing, "unexpected": unexpected, "wrong": wrong}
    if found := [f"{len(those)} {kind}: {few(those)}" for kind, those in kinds.items() if those]:
        raise ConvertError(f"{path} does not fit: {'; '.join(found)}")
    return nest(params)


def _their_name(name: Name) -> str:
    *modules, leaf = name
    if modules == ["output"]:
        modules = ["output", "conv"]
    elif modules[-1].startswith("conv_"):
        modules.insert(-1, "res_path")
    return ".".join(["blocks", *modules, {"kernel": "w", "bias": "b"}[leaf]])
