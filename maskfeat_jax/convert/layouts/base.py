"""Layouts: tables of names for each kind of model, and the files they are saved as."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from maskfeat_jax.augment import Normalise
from maskfeat_jax.checkpoints.pretrained import Pretrained
from maskfeat_jax.convert.rules import Rows, Rule, Table, below

Tensors = dict[str, Any]  # of torch, by their name in a file
Document = dict[str, Any]  # JSON-serialisable
IMAGENET = Normalise()
KINETICS = Normalise((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))

# Names that PySlowFast, MAE and timm share.
BLOCK: Rows = {
    "norm1": "norm1",
    "attn/qkv": "attn.qkv",
    "attn/proj": "attn.proj",
    "norm2": "norm2",
    "mlp/fc1": "mlp.fc1",
    "mlp/fc2": "mlp.fc2",
}
SPLIT_BLOCK: Rows = {**BLOCK, "attn/qkv": Rule(("attn.q", "attn.k", "attn.v"))}
POOLING_BLOCK: Rows = {
    **BLOCK,
    **{f"attn/pool_{x}": f"attn.pool_{x}" for x in "qkv"},
    **{f"attn/norm_{x}": f"attn.norm_{x}" for x in "qkv"},
    **{f"attn/rel_pos_{x}": f"attn.rel_pos_{x}" for x in "thw"},
    "proj": "proj",
}
POSITIONS: Rows = {
    name: name
    for name in ("pos_embed", "pos_embed_class", "pos_embed_spatial", "pos_embed_temporal")
}
STEM: Rows = {"cls_token": "cls_token", "patch_embed": "patch_embed.proj"}
IMAGE_STEM: Rows = {**STEM, "pos_embed": "pos_embed"}
IMAGE_VIT = below("encoder/", "", {**IMAGE_STEM, **below("blocks/*/", "blocks.*.", BLOCK)})


HAS_CLASS = {"class_token": True}  # fields of encoders if the original always has one


@dataclasses.dataclass(frozen=True)
class Form:
    """The names of one kind of model in a layout.

    `fields` and `encoder_fields` are those of the head and the encoder that cannot be inferred from
    tensors; a function computes one from the width. `extras` are tensors that are no parameters but
    that the original expects; they are written and not read.
    """

    head: str  # key of `MODELS`
    table: Table  # our modules and parameters, and theirs
    encoder: str = "vit"  # or "mvit"
    pool: str | None = None  # pooling, "class" or "mean", if the form has only one
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    encoder_fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    images: bool = False  # for images only
    square: bool = False  # for square clips only
    extras: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = ()  # names of other tensors that are neither read nor written


@dataclasses.dataclass(frozen=True)
class Layout:
    """A way to name and save the weights of models.

    Attributes:
      name: key of `LAYOUTS`.
      forms: for each kind of model; if several fit, the first is used.
      file: name of the file of tensors: safetensors, or written by `torch.save`.
      wrap: returns the dictionary to save around the tensors; None for the bare tensors.
      documents: JSON files to save next to them, by name.
      hints: settings of the model in the wrapper and JSON files: some of `HINTS`.
      old_names: regular expressions for names of other versions, and their replacements.
    """

    name: str
    forms: tuple[Form, ...]
    file: str
    wrap: Callable[[Tensors, Pretrained], dict[str, Any]] | None = None
    documents: Callable[[Pretrained], dict[str, Document]] = lambda trained: {}
    hints: Callable[[Mapping[str, Any], Mapping[str, Document]], dict[str, Any]] = (
        lambda wrapper, documents: {}
    )
    old_names: Mapping[str, str] = dataclasses.field(default_factory=dict)
