"""torchvision's `MViT`."""

from __future__ import annotations

from maskfeat_jax.convert.layouts.base import POOLING_BLOCK, Form, Layout
from maskfeat_jax.convert.rules import Rows, Rule, below, table

BLOCK: Rows = {
    **POOLING_BLOCK,
    "attn/proj": "attn.project.0",
    **{f"attn/pool_{x}": f"attn.pool_{x}.pool" for x in "qkv"},
    **{f"attn/norm_{x}": f"attn.pool_{x}.norm_act.0" for x in "qkv"},
    "mlp/fc1": "mlp.0",
    "mlp/fc2": "mlp.3",
    "proj": "project",
}
ENCODER = below(
    "encoder/",
    "",
    {
        "cls_token": Rule(("pos_encoding.class_token",), flat=True),
        "patch_embed": "conv_proj",
        **below("blocks/*/", "blocks.*.", BLOCK),
    },
)
HEAD = {"norm": "norm", "projection": "head.1"}


TORCHVISION = Layout(
    name="torchvision",
    forms=(Form("classifier", table(ENCODER, HEAD), encoder="mvit"),),
    file="model.pth",
    free=("epsilon", "residual_pooling"),
    hints=lambda wrapper, documents: {"pool": "class"},  # its forward pass has no other
)
