"""Layouts: tables of names for each kind of model, and the files they are saved as."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from maskfeat_jax.augment import Normalise
from maskfeat_jax.checkpoints.pretrained import Pretrained
from maskfeat_jax.convert.files import ConvertError
from maskfeat_jax.convert.rules import Rows, Rule, Table, below
from maskfeat_jax.ops.patches import Size3

Tensors = dict[str, Any]  # of torch, by their name in a file
Document = dict[str, Any]  # JSON-serialisable
IMAGENET = Normalise()
KINETICS = Normalise((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
CLIP = Normalise((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))

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


# A ViT of CLIP, whose patch embedding has no bias.
CLIP_FIELDS = {"class_token": True, "norm_first": True}
CLIP_SETTINGS: dict[str, Any] = {
    "images": True,
    "epsilon": 1e-5,
    "activation": "quick_gelu",
    "normalise": CLIP,
    "encoder_fields": CLIP_FIELDS,
    "read_only": True,
}
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
    pool: str | None = None  # its usual pooling, "class" or "mean"; None if it has both
    other_pool: bool = False  # whether files of the original with this pooling may need the other
    norm_of: str = "pooled"  # what its norm is applied to if it takes the mean
    epsilon: float = 1e-6  # of the layer norms, if the file does not contain it
    last_epsilon: float | None = None  # of the last one, if the original fixes another
    activation: str = "gelu"  # of the MLPs, if the file does not contain it
    normalise: Normalise | None = None  # of the pixels, likewise; None for that of the data set
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    encoder_fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    images: bool = False  # for images only
    square: bool = False  # for square clips only
    clip: Size3 | None = None  # of files without positions; None if it must be given
    extras: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = ()  # patterns for other tensors that are neither read nor written
    read_only: bool = False  # no files are written

    def ignores(self, name: str) -> bool:
        """Whether the name is one of `ignored`."""
        return any(re.fullmatch(pattern, name) for pattern in self.ignored)


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
      free: settings, of `HINTS`, that the code of the original leaves to its user.
      stores_epsilon: whether the JSON files contain the epsilon of the layer norms.
      backbone: whether files hold the encoder of any model, without its norm; they are not read.
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
    free: tuple[str, ...] = ()
    stores_epsilon: bool = False
    backbone: bool = False


def class_names(names: Any, where: str) -> dict[str, Any]:
    """The setting `class_names`; none for placeholders (`LABEL_0`).

    Args:
      names: a list, or a mapping from class numbers, also as text; None for none.
      where: the file and key, for messages.

    Raises:
      ConvertError: it is something else, or a number is missing.
    """
    if isinstance(names, Mapping):
        numbers = {int(key): name for key, name in names.items() if str(key).isdecimal()}
        if sorted(numbers) != list(range(len(names))):
            raise ConvertError(f"{where}: expected a name for each class number from 0")
        names = [numbers[number] for number in range(len(names))]
    if names is None or names in ([], ()):
        return {}
    if not isinstance(names, list | tuple) or {type(name) for name in names} - {str, int}:
        raise ConvertError(f"{where}: expected names of classes, as a list or by class number")
    names = tuple(map(str, names))
    unknown = all(re.fullmatch(r"LABEL_\d+", name) for name in names)
    return {} if unknown else {"class_names": names}
