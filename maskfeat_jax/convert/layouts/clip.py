"""The image encoder of CLIP in Hugging Face transformers; files are only read.

With the projection to the space of texts, it is a classifier whose logits are its outputs, as in
timm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maskfeat_jax.augment import Normalise
from maskfeat_jax.convert.files import ConvertError
from maskfeat_jax.convert.layouts.base import CLIP_SETTINGS, Document, Form, Layout
from maskfeat_jax.convert.rules import Rows, Rule, below, table

QKV = tuple(f"self_attn.{name}_proj" for name in "qkv")
BLOCK: Rows = {
    "norm1": "layer_norm1",
    "attn/qkv": Rule(QKV),
    "attn/proj": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "mlp/fc1": "mlp.fc1",
    "mlp/fc2": "mlp.fc2",
}
ENCODER: Rows = {
    "encoder/cls_token": Rule(("embeddings.class_embedding",), flat=True),
    "encoder/pos_embed": Rule(("embeddings.position_embedding.weight",), flat=True),
    "encoder/patch_embed": Rule(("embeddings.patch_embedding",), (None,)),
    "encoder/norm_pre": "pre_layrnorm",
    **below("encoder/blocks/*/", "encoder.layers.*.", BLOCK),
    "norm": "post_layernorm",
}
PROJECTION: Rows = {"projection": Rule(("visual_projection",), (None,))}
POSITION_IDS = r"(vision_model\.)?embeddings\.position_ids"
TEXT = (r"text_model\..*", r"text_projection\..*", "logit_scale", POSITION_IDS)
# Defaults of transformers, for entries that a config.json leaves out.
DEFAULTS: Document = {"num_attention_heads": 12, "image_size": 224, "layer_norm_eps": 1e-5}
DEFAULTS |= {"hidden_act": "quick_gelu"}
KINDS = ("clip", "clip_vision_model")


def hints(wrapper: Mapping[str, Any], found: Mapping[str, Document]) -> dict[str, Any]:
    """Settings in both JSON files; ConvertError if the models here do not support them."""
    known: dict[str, Any] = {}
    config = found.get("config.json", {})
    if kind := config.get("model_type"):
        if kind not in KINDS:
            raise ConvertError(f"config.json: model_type {kind!r}: expected {' or '.join(KINDS)}")
        config = {**DEFAULTS, **config.get("vision_config", config)}
        side = config["image_size"]
        known = {
            "heads": config["num_attention_heads"],
            "clip": (1, side, side),
            "epsilon": config["layer_norm_eps"],
            "activation": config["hidden_act"],
        }
    prepared = found.get("preprocessor_config.json", {})
    mean, std = (prepared.get(f"image_{which}") for which in ("mean", "std"))
    if mean and std:
        known["normalise"] = Normalise(tuple(mean), tuple(std))
    return known


CLIP = Layout(
    name="clip",
    forms=(
        Form("features", table(ENCODER), pool="class", ignored=(POSITION_IDS,), **CLIP_SETTINGS),
        Form(
            "classifier",
            table(below("", "vision_model.", ENCODER), PROJECTION),
            pool="class",
            ignored=TEXT,
            **CLIP_SETTINGS,
        ),
    ),
    file="model.safetensors",
    hints=hints,
    free=("epsilon", "activation"),
    stores_epsilon=True,
)
