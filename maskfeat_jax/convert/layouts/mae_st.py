"""facebookresearch/mae_st: masked autoencoders of videos, and what is fine-tuned from them."""

from __future__ import annotations

from maskfeat_jax.convert.layouts.base import HAS_CLASS, POSITIONS, SPLIT_BLOCK, STEM, Form, Layout
from maskfeat_jax.convert.layouts.mae import wrap
from maskfeat_jax.convert.rules import Rule, below, table

ENCODER = below(
    "encoder/",
    "",
    {
        **STEM,
        **POSITIONS,
        "patch_embed": Rule(("patch_embed.proj",), volume=True),
        **below("blocks/*/", "blocks.*.", SPLIT_BLOCK),
    },
)
DECODER = below(
    "decoder/",
    "",
    {
        "embed": "decoder_embed",
        "mask_token": "mask_token",
        "cls_token": "decoder_cls_token",
        **below("", "decoder_", POSITIONS),
        "norm": "decoder_norm",
        "projection": "decoder_pred",
        **below("blocks/*/", "decoder_blocks.*.", SPLIT_BLOCK),
    },
)
NORM = {"norm": "norm"}

# Its classifier drops the first token in any case.
MAE_ST = Layout(
    name="mae_st",
    forms=(
        Form(
            "mae",
            table(ENCODER, DECODER, NORM),
            fields={"heads": 16, "class_token": "own"},
            encoder_fields=HAS_CLASS,
        ),
        Form(
            "classifier",
            table(ENCODER, NORM, {"projection": "head"}),
            pool="mean",
            encoder_fields=HAS_CLASS,
        ),
        Form("features", table(ENCODER, NORM), encoder_fields=HAS_CLASS),
    ),
    file="checkpoint.pth",
    wrap=wrap,
)
