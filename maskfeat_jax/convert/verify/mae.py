"""facebookresearch/mae: needs its checkout on PYTHONPATH, and any timm."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import ModuleType

import numpy as np

from maskfeat_jax.checkpoints.pretrained import Pretrained
from maskfeat_jax.convert.files import ConvertError, require_torch
from maskfeat_jax.convert.verify import base
from maskfeat_jax.convert.verify.base import Case, Module, Original, Tensor
from maskfeat_jax.models import MAE as MaskedAutoencoder
from maskfeat_jax.models import Features, LinearProbe

HINT = "put a checkout of github.com/facebookresearch/mae on PYTHONPATH, and pip install timm"


def build(trained: Pretrained, names: frozenset[str]) -> Module:
    """From `models_mae`, or `models_vit`, changed for a linear probe as in main_linprobe.py."""
    model, encoder = trained.model, trained.model.encoder
    sizes = base.sizes(trained)
    if isinstance(model, MaskedAutoencoder):
        module = base.imported("models_mae", HINT)
        if not hasattr(module, "get_2d_sincos_pos_embed"):
            raise ConvertError(f"{module.__file__} is not that of images; {HINT}")
        with _old_packages(module):
            return module.MaskedAutoencoderViT(**base.sizes_of_decoder(trained), **sizes)
    vit = base.imported("models_vit", HINT).VisionTransformer(
        global_pool=getattr(model, "pool", "class") == "mean" and not isinstance(model, Features),
        num_classes=getattr(model, "num_classes", 0),
        qkv_bias=True,
        **sizes,
    )
    if isinstance(model, LinearProbe):
        nn = require_torch("to run an original").nn
        norm = nn.BatchNorm1d(encoder.width, affine=False, eps=1e-6)
        vit.head = nn.Sequential(norm, vit.head)
    return vit


def run(model: Module, case: Case) -> Tensor:
    """Predictions, logits, or tokens after the norm."""
    images = case.torch_clips()
    if isinstance(case.trained.model, MaskedAutoencoder):
        case.draw_same_noise()
        _, predicted, _ = model(images, base.mask_ratio(case.trained))
        return predicted[case.torch_mask()]
    tokens = base.outputs_of(model.blocks[-1])
    # What its forward pass was with the timm that it was written for.
    logits = model.head(model.forward_features(images))
    return model.norm(tokens[0]) if isinstance(case.trained.model, Features) else logits


@contextlib.contextmanager
def _old_packages(module: ModuleType) -> Iterator[None]:
    """Restores what timm has dropped since 0.3.2, and NumPy since 1.24, while a model is made."""
    namespace, had_float = vars(module), "float" in vars(np)
    block = namespace["Block"]
    namespace["Block"] = base.without_argument(block, "qk_scale")
    if not had_float:
        vars(np)["float"] = float
    try:
        yield
    finally:
        namespace["Block"] = block
        if not had_float:
            del vars(np)["float"]


MAE = Original("facebookresearch/mae", build, base.read_strictly(build, "model"), run)
