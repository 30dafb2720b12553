"""facebookresearch/mae: masked autoencoders of images, and what is fine-tuned from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from maskfeat_jax.convert.layouts import timm
from maskfeat_jax.convert.layouts.base import BLOCK, IMAGE_VIT, Form, Layout, State
from maskfeat_jax.convert.rules import below, table
from maskfeat_jax.convert.trained import Trained

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


def wrap(state: State, trained: Trained) -> dict[str, Any]:
    """As its training saves them and its fine-tuning reads them."""
    return {"model": state}


MAE = Layout(
    name="mae",
    forms=(
        Form("mae", table(IMAGE_VIT, DECODER, timm.NORM), fields=FIELDS, images=True),
        timm.MEAN,
        timm.CLASS_TOKEN,
        Form(
            "linear_probe",
            table(IMAGE_VIT, PROBE, STATISTICS),
            pool="class",
            images=True,
            extras={"head.0.num_batches_tracked": np.array(0)},
        ),
        timm.ENCODER,
    ),
    file="checkpoint.pth",
    wrap=wrap,
)
