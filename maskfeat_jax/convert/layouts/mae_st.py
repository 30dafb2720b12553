"""facebookresearch/mae_st: masked autoencoders of videos, and classifiers fine-tuned from them."""

from __future__ import annotations

from typing import Any

from maskfeat_jax.convert.layouts.base import HAS_CLASS, POSITIONS, SPLIT_BLOCK, STEM, Form, Layout
from maskfeat_jax.convert.layouts.mae import wrap
from maskfeat_jax.convert.rules import Rows, Rule, below, table

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


def _form(head: str, *rows: Rows, **settings: Any) -> Form:
    """A form; the classifier of mae_st always drops the first token."""
    return Form(head, table(ENCODER, *rows), square=True, encoder_fields=HAS_CLASS, **settings)


MAE_ST = Layout(
    name="mae_st",
    forms=(
        _form("mae", DECODER, NORM, fields={"heads": 16, "class_token": "own"}),
        _form("classifier", NORM, {"projection": "head"}, pool="mean"),
        _form("features", NORM),
    ),
    file="checkpoint.pth",
    wrap=wrap,
    free=("epsilon",),
)
