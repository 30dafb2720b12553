"""facebookresearch/mae: masked autoencoders of images, and classifiers fine-tuned from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from maskfeat_jax.checkpoints.pretrained import Pretrained
from maskfeat_jax.convert.layouts import timm
from maskfeat_jax.convert.layouts.base import BLOCK, HAS_CLASS, IMAGE_VIT, Form, Layout, Tensors
from maskfeat_jax.convert.rules import Rows, below, table

DECODER = below(
    "decoder/",
    "",
    {
        "embed": "decoder_embed",
        "mask_token": "mask_token",
        "pos_embed": "decoder_pos_embed",
        "norm": "decoder_norm",
        "projection": "decoder_pred",
        **below("blocks/*/", "decoder_blocks.*.", BLOCK),
    },
)
FIELDS = {"heads": 16, "class_token": "encoder"}
PROBE = {"norm": "norm", "projection": "head.1"}
STATISTICS = {"batch_norm/mean": "head.0.running_mean", "batch_norm/var": "head.0.running_var"}
COUNT = {"head.0.num_batches_tracked": np.array(0)}


def wrap(state: Tensors, trained: Pretrained) -> dict[str, Any]:
    """The dictionary that its training saves and its fine-tuning reads."""
    return {"model": state}


def _form(head: str, *rows: Rows, **settings: Any) -> Form:
    settings |= {"images": True, "square": True, "encoder_fields": HAS_CLASS}
    return Form(head, table(IMAGE_VIT, *rows), **settings)


MAE = Layout(
    name="mae",
    forms=(
        _form("mae", DECODER, timm.NORM, fields=FIELDS),
        _form("classifier", timm.HEAD, timm.MEAN_NORM, pool="mean"),
        _form("classifier", timm.HEAD, timm.NORM, pool="class"),
        _form("linear_probe", PROBE, STATISTICS, pool="class", extras=COUNT),
        _form("features", timm.NORM),
    ),
    file="checkpoint.pth",
    wrap=wrap,
    free=("epsilon",),
)
