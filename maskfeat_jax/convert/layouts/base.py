"""What a layout is: forms, each a table for one kind of model; and the files it is saved as."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from maskfeat_jax.augment import Normalise
from maskfeat_jax.checkpoints.pretrained import Pretrained
from maskfeat_jax.convert.rules import Rows, Rule, Table, below

Tensors = dict[str, Any]  # of torch, by their name in a file
Document = dict[str, Any]  # what JSON can hold
IMAGENET = Normalise()
KINETICS = Normalise((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))

# Names of the originals: of PySlowFast, MAE and timm alike.
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


HAS_CLASS = {"class_token": True}  # fields of encoders where the original always has one


@dataclasses.dataclass(frozen=True)
class Form:
    """How one kind of model is named in a layout.

    `fields` and `encoder_fields` are those of the head and the encoder that no tensor tells; a
    function computes one from the width. `extras` are tensors that are no parameters, which the
    original wants to find; what a file has in them is not read.
    """

    head: str  # key of `MODELS`
    table: Table  # our modules and parameters, and theirs
    encoder: str = "vit"  # or "mvit"
    pool: str | None = None  # what the head reads, "class" or "mean", where the form tells it
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    encoder_fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    images: bool = False  # only
    square: bool = False  # clips only
    extras: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = ()  # names of further tensors that are not read, nor written


@dataclasses.dataclass(frozen=True)
class Layout:
    """A way to name and save the weights of models.

    Attributes:
      name: key of `LAYOUTS`.
      forms: for each kind of model; where several fit, the first counts.
      file: that holds the tensors: safetensors, or what `torch.save` writes.
      wrap: what is saved around the tensors; None for nothing.
      documents: JSON files beside them, by name.
      hints: what documents and wrapper of a file tell of its model: some of `HINTS`.
      old_names: regular expressions for names of other generations, and what they became.
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
