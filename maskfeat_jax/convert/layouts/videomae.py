"""MCG-NJU/VideoMAE: its masked autoencoders of videos, and classifiers fine-tuned from them."""

from __future__ import annotations

from typing import Any

from maskfeat_jax.convert.layouts import hf, mae
from maskfeat_jax.convert.layouts.base import BLOCK, IMAGENET, Form, Layout
from maskfeat_jax.convert.rules import COMPUTED, Rows, Rule, below, table

# Without the bias of the keys, to which outputs do not respond.
VIDEO_BLOCK: Rows = {
    **BLOCK,
    "attn/qkv": Rule(("attn.qkv",), ("attn.q_bias", None, "attn.v_bias")),
}
BLOCKS = below("blocks/*/", "blocks.*.", VIDEO_BLOCK)
ENCODER: Rows = {
    "patch_embed": Rule(("patch_embed.proj",), volume=True),
    "pos_embed": COMPUTED,
    **BLOCKS,
}
DECODER = below(
    "decoder/",
    "",
    {
        "embed": Rule(("encoder_to_decoder",), (None,)),
        "mask_token": "mask_token",
        "pos_embed": COMPUTED,
        **below("", "decoder.", {"norm": "norm", "projection": "head", **BLOCKS}),
    },
)


def decoder_heads(width: int) -> int:
    """Heads of its four decoders, which are 192, 384, 512 and 640 wide."""
    return 8 if width == 640 else max(1, width // 64)


def _form(head: str, *rows: Rows, **settings: Any) -> Form:
    settings |= {"encoder_fields": hf.VIDEO, "normalise": IMAGENET, "clip": (16, 224, 224)}
    return Form(head, table(*rows), **settings)


AUTOENCODER = {"heads": decoder_heads, "class_token": "none", "positions": "sinusoid"}

VIDEOMAE = Layout(
    name="videomae",
    forms=(
        _form(
            "mae",
            below("encoder/", "encoder.", ENCODER),
            DECODER,
            {"norm": "encoder.norm"},
            fields=AUTOENCODER,
        ),
        _form(
            "classifier",
            below("encoder/", "", ENCODER),
            {"norm": "fc_norm", "projection": "head"},
            pool="mean",
        ),
    ),
    file="checkpoint.pth",
    wrap=mae.wrap,
)
