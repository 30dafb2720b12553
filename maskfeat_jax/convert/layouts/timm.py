"""timm's `VisionTransformer`, for images: a folder that timm and transformers load."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from maskfeat_jax.augment import Normalise
from maskfeat_jax.checkpoints.pretrained import Pretrained
from maskfeat_jax.convert.files import ConvertError
from maskfeat_jax.convert.layouts.base import (
    CLIP_SETTINGS,
    IMAGE_VIT,
    Document,
    Form,
    Layout,
    class_names,
)
from maskfeat_jax.convert.rules import Rows, Rule, table
from maskfeat_jax.models import Classifier, Features

HEAD = {"projection": "head"}
NORM, MEAN_NORM = {"norm": "norm"}, {"norm": "fc_norm"}
# The norm of all tokens, mostly for the class token, or of the pooled ones, mostly for the mean.
OF_TOKENS = Form(
    "classifier",
    table(IMAGE_VIT, HEAD, NORM),
    pool="class",
    other_pool=True,
    norm_of="tokens",
    images=True,
)
OF_POOLED = Form(
    "classifier", table(IMAGE_VIT, HEAD, MEAN_NORM), pool="mean", other_pool=True, images=True
)
ENCODER = Form("features", table(IMAGE_VIT, NORM), images=True)
# CLIP's image encoder; its projection to the space of texts is a classifier.
CLIP_VIT: Rows = {
    **IMAGE_VIT,
    "encoder/patch_embed": Rule(("patch_embed.proj",), (None,)),
    "encoder/norm_pre": "norm_pre",
}
OF_CLIP = Form(
    "classifier",
    table(CLIP_VIT, HEAD, NORM),
    pool="class",
    other_pool=True,
    norm_of="tokens",
    **CLIP_SETTINGS,
)
CLIP_ENCODER = Form("features", table(CLIP_VIT, NORM), **CLIP_SETTINGS)
POOLS = {"token": "class", "avg": "mean"}
# Arguments of timm that follow from the tensors, or change nothing after training.
KNOWN = {"img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "global_pool"}
KNOWN |= {"class_token", "fc_norm", "num_classes", "in_chans", "qkv_bias", "init_values"}
KNOWN |= {"no_embed_class", "reg_tokens", "pre_norm", "final_norm", "qk_norm", "weight_init"}
KNOWN |= {"drop_rate", "drop_path_rate", "proj_drop_rate", "attn_drop_rate", "pos_drop_rate"}
KNOWN |= {"patch_drop_rate", "dynamic_img_size"}
# Architectures with the usual layer norm and activation.
PLAIN = r"(vit|deit)_(tiny|small|base|large|huge)_patch\d+_\d+"
CLIP_NAME = r"vit_\w+_patch\d+_clip_\w+"
# Names of architectures by width, depth and patch.
NAMES = {
    (192, 12, 16): "vit_tiny_patch16_224",
    (384, 12, 16): "vit_small_patch16_224",
    (768, 12, 16): "vit_base_patch16_224",
    (1024, 24, 16): "vit_large_patch16_224",
    (1280, 32, 14): "vit_huge_patch14_224",
}


def documents(trained: Pretrained) -> dict[str, Document]:
    """The file from which timm and transformers build the model."""
    encoder = trained.model.encoder
    _, height, width = trained.clip
    patch, view = encoder.tubelet[1:], trained.recipe.get("eval_view", {})
    pool = next(theirs for theirs, ours in POOLS.items() if ours == trained.model.pool)
    arguments: Document = {
        "img_size": [height, width],
        "patch_size": patch[0],
        "embed_dim": encoder.width,
        "depth": encoder.depth,
        "num_heads": encoder.heads,
        "mlp_ratio": encoder.mlp_ratio,
        "global_pool": pool,
        "class_token": encoder.class_token,
    }
    if isinstance(trained.model, Features | Classifier) and pool == "avg":
        # Whether the norm is that of the mean, not of the tokens.
        arguments["fc_norm"] = getattr(trained.model, "norm_of", "tokens") == "pooled"
    labels = {"label_names": list(trained.class_names)} if trained.class_names else {}
    name = NAMES.get((encoder.width, encoder.depth, patch[0]), "vit_base_patch16_224")
    return {
        "config.json": {
            "architecture": name,
            # transformers refuses num_classes among model_args; timm expects it here.
            "num_classes": getattr(trained.model, "num_classes", 0),
            "num_features": encoder.width,
            **labels,
            "model_args": arguments,
            "pretrained_cfg": {
                "input_size": [3, height, width],
                "mean": list(trained.normalise.mean),
                "std": list(trained.normalise.std),
                "interpolation": view.get("interpolation", "bicubic"),
                "crop_pct": height / (view.get("resize") or int(height / 0.875)),
                "num_classes": getattr(trained.model, "num_classes", 0),
            },
        }
    }


def hints(wrapper: Mapping[str, Any], found: Mapping[str, Document]) -> dict[str, Any]:
    """Settings in timm's config.json; ConvertError if the models here do not support them."""
    config = found.get("config.json", {})
    arguments = config.get("model_args") or {}
    if strange := sorted(arguments.keys() - KNOWN):
        raise ConvertError(f"config.json: model_args that are not supported: {strange}")
    known: dict[str, Any] = {}
    if "num_heads" in arguments:
        known["heads"] = arguments["num_heads"]
    pool = arguments.get("global_pool") or config.get("global_pool")
    if pool:
        if pool not in POOLS:
            raise ConvertError(f"config.json: global_pool {pool!r}: expected {' or '.join(POOLS)}")
        known["pool"] = POOLS[pool]
    if isinstance(arguments.get("fc_norm"), bool):
        known["norm_of"] = "pooled" if arguments["fc_norm"] else "tokens"
    if re.fullmatch(PLAIN, str(config.get("architecture"))):
        known |= {"epsilon": 1e-6, "activation": "gelu"}
    prepared = config.get("pretrained_cfg") or {}
    if re.fullmatch(CLIP_NAME, str(config.get("architecture"))):
        known |= {"epsilon": 1e-5, "activation": _activation_of_clip(config, prepared)}
    for section in (prepared, config):
        for key in ("labels", "label_names"):
            known |= class_names(section.get(key), f"config.json: {key}")
    sides = arguments.get("img_size", prepared.get("input_size", [])[1:])
    # A square follows from the positions, which are right even if this is not.
    if isinstance(sides, list) and len(sides) == 2 and sides[0] != sides[1]:
        known["clip"] = (1, *sides)
    if "mean" in prepared and "std" in prepared:
        known["normalise"] = Normalise(tuple(prepared["mean"]), tuple(prepared["std"]))
    if "crop_pct" in prepared and "input_size" in prepared:
        known["view"] = {"resize": math.floor(prepared["input_size"][1] / prepared["crop_pct"])}
        if "interpolation" in prepared:
            known["view"]["interpolation"] = prepared["interpolation"]
    return known


def _activation_of_clip(config: Document, prepared: Document) -> str:
    """That of the training; the same weights are in timm as both architectures."""
    notes = f"{config['architecture']} {prepared.get('notes')}".lower()
    return "quick_gelu" if "quickgelu" in notes or prepared.get("tag") == "openai" else "gelu"


TIMM = Layout(
    name="timm",
    forms=(OF_POOLED, OF_TOKENS, ENCODER, OF_CLIP, CLIP_ENCODER),
    file="model.safetensors",
    documents=documents,
    hints=hints,
    free=("epsilon", "activation"),
)
