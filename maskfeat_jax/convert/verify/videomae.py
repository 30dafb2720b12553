"""MCG-NJU/VideoMAE: needs its checkout on PYTHONPATH, and any timm."""

from __future__ import annotations

from typing import Any

from maskfeat_jax.checkpoints.pretrained import Pretrained
from maskfeat_jax.convert.verify import base
from maskfeat_jax.convert.verify.base import Case, Module, Original, Tensor
from maskfeat_jax.models import MAE

HINT = "put a checkout of github.com/MCG-NJU/VideoMAE on PYTHONPATH, and pip install timm"


def build(trained: Pretrained, names: frozenset[str]) -> Module:
    """From `modeling_pretrain`, which takes 16 frames, or `modeling_finetune`."""
    model, encoder = trained.model, trained.model.encoder
    frames, *sides = trained.clip
    sizes = {"embed_dim": encoder.width, "depth": encoder.depth, "num_heads": encoder.heads}
    fields: dict[str, Any] = {
        "img_size": tuple(sides),
        "patch_size": encoder.tubelet[1],
        "tubelet_size": encoder.tubelet[0],
        "mlp_ratio": encoder.mlp_ratio,
        "qkv_bias": True,
        "norm_layer": base.norm_layer(encoder.epsilon),
    }
    if isinstance(model, MAE):
        return base.imported("modeling_pretrain", HINT).PretrainVisionTransformer(
            decoder_num_classes=model.dim,
            **{f"encoder_{name}": size for name, size in sizes.items()},
            **base.sizes_of_decoder(trained),
            **fields,
        )
    return base.imported("modeling_finetune", HINT).VisionTransformer(
        num_classes=model.num_classes, all_frames=frames, **sizes, **fields
    )


def run(model: Module, case: Case) -> Tensor:
    """Predictions or logits."""
    clips = case.torch_clips()
    if isinstance(case.trained.model, MAE):
        return model(clips, case.torch_mask()).flatten(0, 1)
    return model(clips)


VIDEOMAE = Original("MCG-NJU/VideoMAE", build, base.read_strictly(build, "model", "module"), run)
