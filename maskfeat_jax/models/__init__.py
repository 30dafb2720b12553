"""Tables of encoders and models.

A variant is an encoder with its sizes; a model is an encoder with a head.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn

from maskfeat_jax.models.boxes import BoxClassifier
from maskfeat_jax.models.classifier import Classifier
from maskfeat_jax.models.mae import MAE
from maskfeat_jax.models.maskfeat import MaskFeat
from maskfeat_jax.models.mvit import MViT
from maskfeat_jax.models.probes import AttentiveProbe, Features, LinearProbe
from maskfeat_jax.models.vit import ViT

MODELS: dict[str, type[nn.Module]] = {
    "attentive_probe": AttentiveProbe,
    "boxes": BoxClassifier,
    "classifier": Classifier,
    "features": Features,
    "linear_probe": LinearProbe,
    "mae": MAE,
    "maskfeat": MaskFeat,
}

MVIT_S = {"width": 96, "depth": 16, "heads": 1, "stages": (1, 3, 14)}
MVIT_B = {"width": 96, "depth": 24, "heads": 1, "stages": (2, 5, 21)}
MVIT_L = {"width": 144, "depth": 48, "heads": 2, "stages": (2, 8, 44)}

VARIANTS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "vit_ti16": (ViT, {"width": 192, "depth": 12, "heads": 3}),
    "vit_s16": (ViT, {"width": 384, "depth": 12, "heads": 6}),
    "vit_b16": (ViT, {"width": 768, "depth": 12, "heads": 12}),
    "vit_l16": (ViT, {"width": 1024, "depth": 24, "heads": 16}),
    "vit_h16": (ViT, {"width": 1280, "depth": 32, "heads": 16}),
    "vit_h14": (ViT, {"width": 1280, "depth": 32, "heads": 16, "tubelet": (1, 14, 14)}),
    "mvit_v2_s": (MViT, MVIT_S),
    "mvit_v2_l": (MViT, MVIT_L),
    "mvit_v2_s_supervised": (MViT, {**MVIT_S, "widen_in": "attention"}),
    "mvit_v2_b_supervised": (MViT, {**MVIT_B, "widen_in": "attention"}),
    "mvit_v2_l_supervised": (MViT, {**MVIT_L, "widen_in": "attention"}),
}


def create_encoder(name: str, **overrides: Any) -> nn.Module:
    """The encoder of `VARIANTS[name]`.

    Args:
      name: key of `VARIANTS`.
      **overrides: fields of the encoder that differ from the variant, e.g. `drop_path=0.1` or
        `tubelet=(2, 16, 16)` for video.

    Raises:
      KeyError: no such variant.
      TypeError, ValueError: an unknown field, or an invalid value.
    """
    family, sizes = VARIANTS[name]
    return family(**{**sizes, **overrides})


def create_model(name: str, *, encoder: str, head: dict[str, Any], **overrides: Any) -> nn.Module:
    """An encoder with a head.

    Args:
      name: key of `MODELS`.
      encoder: key of `VARIANTS`.
      head: fields of the model besides its encoder: `{"dim": 108}` or `{"num_classes": 1000}`.
      **overrides: fields of the encoder.

    Raises:
      KeyError: no such model or variant.
      TypeError, ValueError: an unknown field of the encoder or the model, or an invalid value.
    """
    return MODELS[name](encoder=create_encoder(encoder, **overrides), **head)
