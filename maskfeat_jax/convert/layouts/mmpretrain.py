"""OpenMMLab: mmpretrain (formerly mmselfsup), and MViT of mmaction2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from maskfeat_jax.checkpoints.pretrained import Pretrained
from maskfeat_jax.convert.layouts.base import (
    HAS_CLASS,
    IMAGE_STEM,
    POOLING_BLOCK,
    STEM,
    Document,
    Form,
    Layout,
    Tensors,
    class_names,
)
from maskfeat_jax.convert.layouts.mae import FIELDS
from maskfeat_jax.convert.layouts.pyslowfast import SOBEL
from maskfeat_jax.convert.rules import Rows, below, table

BLOCK = {
    "norm1": "ln1",
    "attn/qkv": "attn.qkv",
    "attn/proj": "attn.proj",
    "norm2": "ln2",
    "mlp/fc1": "ffn.layers.0.0",
    "mlp/fc2": "ffn.layers.1",
}
PATCH = {"patch_embed": "patch_embed.projection"}
VIT = below(
    "encoder/", "backbone.", {**IMAGE_STEM, **PATCH, **below("blocks/*/", "layers.*.", BLOCK)}
)
MVIT = below(
    "encoder/", "backbone.", {**STEM, **PATCH, **below("blocks/*/", "blocks.*.", POOLING_BLOCK)}
)
MASKFEAT = {"encoder/mask_token": "backbone.mask_token", "projection": "neck.fc"}
DECODER = below(
    "decoder/",
    "neck.",
    {
        "embed": "decoder_embed",
        "mask_token": "mask_token",
        "pos_embed": "decoder_pos_embed",
        "norm": "ln1",
        "projection": "decoder_pred",
        **below("blocks/*/", "decoder_blocks.*.", BLOCK),
    },
)
CLASS_NORM, MEAN_NORM = {"norm": "backbone.ln1"}, {"norm": "backbone.ln2"}
VIDEO_NORM = {"norm": "backbone.norm2"}
STATISTICS = {"batch_norm/mean": "neck.bn.running_mean", "batch_norm/var": "neck.bn.running_var"}


def gaussian(size: int = 16) -> np.ndarray:
    """The window of its HOG: standard deviation of half the size, sum 1."""
    offset = (np.arange(size, dtype=np.float32) - (size - 1) / 2) / (size // 2)
    line = np.exp(-0.5 * offset**2)
    window = np.outer(line, line)
    return window / window.sum()


HOG = {
    "target_generator.weight_x": SOBEL,
    "target_generator.weight_y": SOBEL.swapaxes(2, 3),
    "target_generator.gaussian_kernel": gaussian(),
}


def wrap(state: Tensors, trained: Pretrained) -> dict[str, Any]:
    """The dictionary that its training saves, with the names of classes as versions 1 and 0 do."""
    names = trained.class_names and list(trained.class_names)
    meta = {"dataset_meta": {"classes": names}, "CLASSES": names} if names else {}
    return {"meta": meta, "state_dict": state}


def hints(wrapper: Mapping[str, Any], found: Mapping[str, Document]) -> dict[str, Any]:
    """Names of classes in the meta data; ConvertError if they are none."""
    meta = wrapper.get("meta") or {}
    of_data = meta.get("dataset_meta") or {}
    names = of_data.get("classes") or of_data.get("CLASSES") or meta.get("CLASSES")
    return class_names(names, "meta: classes")


def _of_images(head: str, *rows: Rows, **settings: Any) -> Form:
    return Form(head, table(VIT, *rows), images=True, **settings)


def _of_videos(head: str, *rows: Rows, **settings: Any) -> Form:
    return Form(head, table(MVIT, *rows), encoder="mvit", **settings)


def _forms() -> tuple[Form, ...]:
    head, probe, old = ({"projection": f"head.{n}"} for n in ("fc", "layers.head", "head"))
    # Its MViT numbers the norm by how often the grid is halved: two in pre-training, then three.
    twice, thrice = {"tubelet": (2, 16, 16)}, {"tubelet": (2, 32, 32)}
    video_head = {"norm": "backbone.norm3", "projection": "cls_head.fc_cls"}
    count = {"neck.bn.num_batches_tracked": np.array(0)}
    return (
        _of_images("maskfeat", CLASS_NORM, MASKFEAT, extras=HOG, encoder_fields=HAS_CLASS),
        _of_videos("maskfeat", VIDEO_NORM, MASKFEAT, extras=HOG, encoder_fields=twice),
        _of_images("mae", CLASS_NORM, DECODER, fields=FIELDS, encoder_fields=HAS_CLASS),
        _of_images("classifier", MEAN_NORM, head, pool="mean"),
        # With a neck that takes the mean of the tokens after the norm, names are the same.
        _of_images("classifier", CLASS_NORM, head, pool="class", other_pool=True, norm_of="tokens"),
        _of_images("classifier", CLASS_NORM, probe, pool="class"),
        _of_videos("classifier", video_head, pool="class", encoder_fields=thrice),
        _of_images("linear_probe", CLASS_NORM, probe, STATISTICS, pool="class", extras=count),
        _of_images("features", CLASS_NORM),
        # Files of mmselfsup, before it became mmpretrain.
        _of_images("maskfeat", CLASS_NORM, MASKFEAT, old, extras=HOG, encoder_fields=HAS_CLASS),
        _of_images("classifier", {"norm": "backbone.fc_norm"}, old, pool="mean"),
    )


MMPRETRAIN = Layout(
    name="mmpretrain",
    forms=_forms(),
    file="checkpoint.pth",
    wrap=wrap,
    hints=hints,
    free=("epsilon", "activation", "residual_pooling"),
    old_names={r"^hog_layer\.": "target_generator."},
)
