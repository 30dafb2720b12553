"""Backbones of detectors and segmenters: ViTDet, and MAE of mmsegmentation.

ViTDet is in detectron2 and in the projects of mmdetection. Both take the tokens of an image ViT
before its norm, and resize its positions themselves.
"""

from __future__ import annotations

from maskfeat_jax.convert.layouts import mae, mmpretrain
from maskfeat_jax.convert.layouts.base import HAS_CLASS, IMAGE_STEM, IMAGE_VIT, Form, Layout
from maskfeat_jax.convert.rules import Rows, below, table

MM_VIT = below(
    "encoder/",
    "",
    {**IMAGE_STEM, **mmpretrain.PATCH, **below("blocks/*/", "layers.*.", mmpretrain.BLOCK)},
)


def _form(rows: Rows) -> Form:
    fields = {"tubelet": (1, 16, 16), **HAS_CLASS}
    return Form("features", table(rows), images=True, square=True, encoder_fields=fields)


VITDET = Layout(
    name="vitdet",
    forms=(_form(IMAGE_VIT),),
    file="backbone.pth",
    wrap=mae.wrap,
    backbone=True,
)
MMSEG = Layout(name="mmseg", forms=(_form(MM_VIT),), file="backbone.pth", backbone=True)
