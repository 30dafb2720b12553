"""Models to convert, originals with random weights, and their files as the originals save them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import yaml

from maskfeat_jax import convert
from maskfeat_jax.augment import Normalise
from maskfeat_jax.convert.importing import computed, shapes_of
from maskfeat_jax.convert.layouts.timm import documents
from maskfeat_jax.models import create_model
from maskfeat_jax.models.positions import FIXED

VIT = {"encoder": "vit_b16", "width": 64, "depth": 2, "heads": 2}
VIDEO = {**VIT, "tubelet": (2, 16, 16)}
SEPARATE = {**VIDEO, "positions": "separate"}
SINUSOID = {**VIDEO, "positions": "sinusoid", "class_token": False}
MVIT = {"encoder": "mvit_v2_s", "width": 8, "depth": 5, "heads": 1, "stages": (1, 2, 3)}
SUPERVISED = {**MVIT, "widen_in": "attention"}
PRETRAINED = {**MVIT, "tubelet": (2, 16, 16)}
OF_IMAGES = {"dim": 768, "visible": 4, "width": 64, "depth": 2, "heads": 16}
OF_VIDEOS = {"dim": 768, "visible": 3, "width": 128, "depth": 2}
SMALL, CLIP, MVIT_CLIP = (1, 64, 64), (16, 32, 32), (4, 64, 64)
REAL, REAL_CLIP = (1, 224, 224), (16, 224, 224)


class Model(NamedTuple):
    """A model and where it goes.

    Attributes:
      model: ours.
      clip: it is for.
      whole: layouts that hold all of it.
      encoder: layouts that hold its encoder alone.
      real: whether it is of real size.
    """

    model: nn.Module
    clip: tuple[int, int, int]
    whole: str
    encoder: str = ""
    real: bool = False


def _made(name: str, head: dict[str, Any], encoder: dict[str, Any], *where: Any) -> Model:
    return Model(create_model(name, head=head, **encoder), *where)


CLASSES = {"num_classes": 7}
CLASS_TOKEN = {**CLASSES, "pool": "class"}
HOG = {"dim": 108}
MAE_ST = {**OF_VIDEOS, "heads": 16, "class_token": "own"}

MODELS = {
    "MaskFeat, ViT": _made(
        "maskfeat", HOG, VIT, SMALL, "pyslowfast mmpretrain", "timm mae mae_st hf"
    ),
    "MaskFeat, MViT": _made("maskfeat", HOG, PRETRAINED, MVIT_CLIP, "pyslowfast mmpretrain"),
    "MAE of images": _made(
        "mae", {**OF_IMAGES, "positions": "sincos"}, {**VIT, "positions": "sincos"}, SMALL,
        "mae mmpretrain hf", "timm mae_st",
    ),
    "MAE of PySlowFast": _made(
        "mae", {**OF_VIDEOS, "heads": 2}, SEPARATE, CLIP, "pyslowfast", "mae_st"
    ),
    "MAE of PySlowFast, separate positions": _made(
        "mae", {**OF_VIDEOS, "heads": 2, "positions": "separate"}, SEPARATE, CLIP,
        "pyslowfast", "mae_st",
    ),
    "MAE of mae_st": _made("mae", {**MAE_ST, "positions": "separate"}, SEPARATE, CLIP, "mae_st"),
    "MAE of mae_st, joint positions": _made("mae", MAE_ST, VIDEO, CLIP, "mae_st"),
    "VideoMAE": _made(
        "mae",
        {**OF_VIDEOS, "dim": 1536, "heads": 2, "positions": "sinusoid", "class_token": "none"},
        SINUSOID, CLIP, "hf videomae",
    ),
    "images, mean": _made(
        "classifier", CLASSES, VIT, SMALL, "timm mae mae_st pyslowfast mmpretrain hf"
    ),
    "images, class token": _made(
        "classifier", CLASS_TOKEN, VIT, SMALL, "timm mae pyslowfast mmpretrain hf"
    ),
    "images, mean, no class token": _made(
        "classifier", CLASSES, {**VIT, "class_token": False}, SMALL, "timm mmpretrain"
    ),
    "MaskFeat, ViT, no class token": _made(
        "maskfeat", HOG, {**VIT, "class_token": False}, SMALL, "", "timm mmpretrain"
    ),
    "images, linear probe": _made("linear_probe", CLASSES, VIT, SMALL, "mae mmpretrain"),
    "videos, mean": _made("classifier", CLASSES, SEPARATE, CLIP, "mae_st pyslowfast"),
    "videos, VideoMAE": _made("classifier", CLASSES, SINUSOID, CLIP, "hf videomae"),
    "MViT of MaskFeat, mean": _made(
        "classifier", CLASSES, MVIT, MVIT_CLIP, "pyslowfast torchvision"
    ),
    "MViT of MaskFeat, class token": _made(
        "classifier", CLASS_TOKEN, MVIT, MVIT_CLIP, "pyslowfast mmpretrain torchvision"
    ),
    "MViT, supervised": _made(
        "classifier", CLASS_TOKEN, SUPERVISED, MVIT_CLIP, "pyslowfast mmpretrain torchvision"
    ),
    "boxes, ViT": _made("boxes", CLASSES, SEPARATE, (4, 64, 64), "pyslowfast"),
    "boxes, MViT": _made("boxes", {**CLASSES, "bins": 3}, MVIT, (4, 128, 128), "pyslowfast"),
    "MaskFeat, ViT-B/16": _made(
        "maskfeat", HOG, {"encoder": "vit_b16"}, REAL, "pyslowfast mmpretrain", "timm hf", True
    ),
    "MaskFeat, MViT-S": _made(
        "maskfeat", HOG, {"encoder": "mvit_v2_s", "tubelet": (2, 16, 16)}, REAL_CLIP,
        "pyslowfast", "", True,
    ),
    "MViT-S of MaskFeat, mean": _made(
        "classifier", {"num_classes": 400}, {"encoder": "mvit_v2_s"}, REAL_CLIP,
        "pyslowfast torchvision", "", True,
    ),
}  # fmt: skip


def with_random_numbers(made: Model) -> convert.Pretrained:
    """Ours with parameters away from zeros and ones; what an original computes is as computed."""
    model, clip, rng = made.model, made.clip, np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        name = path[-1].key
        numbers = 0.05 * rng.standard_normal(leaf.shape, np.float32)
        return np.abs(numbers) + 0.5 if name == "var" else numbers + (name == "scale")

    params = jax.tree_util.tree_map_with_path(draw, shapes_of(model, clip))
    for part, kind in (("encoder", model.encoder), ("decoder", model)):
        if getattr(kind, "positions", "") in FIXED and part in params:
            params[part]["pos_embed"] = computed(model, clip, part)
    if getattr(model, "class_token", "") == "none":
        params["decoder"]["embed"]["bias"][:] = 0  # VideoMAE has none
    return convert.Pretrained(model, params, clip, Normalise(), {}, "random numbers")


def randomise(model: Any) -> None:
    """Moves all numbers of an original that are learnt, or measured, away from zeros and ones."""
    import torch

    torch.manual_seed(1)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand(tensor.shape))
            elif isinstance(tensor, torch.nn.Parameter) or name.endswith("running_mean"):
                tensor.copy_(0.05 * torch.randn(tensor.shape) + (tensor.detach() == 1).all())


def save_as_original(layout: str, model: Any, folder: Path, trained: convert.Pretrained) -> Path:
    """A file of an original as its own training, or its own function, saves it."""
    import torch

    folder.mkdir(parents=True)
    if layout == "hf":
        model.save_pretrained(folder)
        return folder
    if layout == "timm":
        from timm.models import save_for_hf

        arguments = documents(trained)["config.json"]["model_args"]
        save_for_hf(model, str(folder), model_args=arguments, safe_serialization=True)
        return folder
    state = model.state_dict()
    wrapped = {
        "mae": {"model": state, "epoch": 3, "args": argparse.Namespace(lr=1e-3), "scaler": {}},
        "mae_st": {"model": state, "epoch": 3, "args": argparse.Namespace(lr=1e-3)},
        "videomae": {"module": state} if "head.weight" in state else {"model": state, "epoch": 3},
        "pyslowfast": {"epoch": 3, "model_state": state, "optimizer_state": {}},
        "mmpretrain": {"meta": {"epoch": 3, "cfg": "", "seed": 0}, "state_dict": state},
        "torchvision": state,
    }[layout]
    if layout == "pyslowfast":
        plain = json.loads(json.dumps(model.cfg, default=str))
        wrapped["cfg"] = yaml.safe_dump(plain)
    path = folder / "checkpoint.pth"
    torch.save(wrapped, path)
    return path
