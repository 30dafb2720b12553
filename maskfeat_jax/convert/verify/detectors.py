"""Backbones of detectron2 and mmsegmentation, with global attention at the size of the clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maskfeat_jax.checkpoints.pretrained import Pretrained
from maskfeat_jax.convert.files import ConvertError
from maskfeat_jax.convert.verify import base
from maskfeat_jax.convert.verify.base import Case, Module, Original, Tensor
from maskfeat_jax.models.layers import unstack_blocks

DETECTRON2 = "install detectron2 from github.com/facebookresearch/detectron2, and pip install timm"
MMSEG_HINT = "pip install mmengine mmcv mmsegmentation ftfy regex"


def build_vitdet(trained: Pretrained, names: frozenset[str]) -> Module:
    """Its relative positions start at zero."""
    encoder, side = trained.model.encoder, base.square(trained)
    return base.imported("detectron2.modeling.backbone.vit", DETECTRON2).ViT(
        img_size=side,
        patch_size=encoder.tubelet[1],
        embed_dim=encoder.width,
        depth=encoder.depth,
        num_heads=encoder.heads,
        mlp_ratio=encoder.mlp_ratio,
        norm_layer=base.norm_layer(encoder.epsilon),
        use_rel_pos=True,
        window_block_indexes=(),
        pretrain_img_size=side,
    )


def read_vitdet(trained: Pretrained, path: Path, names: frozenset[str]) -> Module:
    """Without the class token, and with the relative positions that it adds."""
    model = build_vitdet(trained, names)
    missing, unexpected = model.load_state_dict(base.tensors_of(path, "model", prefix=""), False)
    problems = [name for name in missing if ".attn.rel_pos_" not in name]
    problems += [name for name in unexpected if name != "cls_token"]
    if problems:
        raise ConvertError(f"{path} does not load in detectron2: {', '.join(problems)}")
    return model


def build_mmseg(trained: Pretrained, names: frozenset[str], **settings: Any) -> Module:
    """With layer scales of 1; its relative positions start at zero."""
    encoder, side = trained.model.encoder, base.square(trained)
    return base.imported("mmseg.models.backbones.mae", MMSEG_HINT).MAE(
        img_size=(side, side),
        patch_size=encoder.tubelet[1],
        embed_dims=encoder.width,
        num_layers=encoder.depth,
        num_heads=encoder.heads,
        mlp_ratio=int(encoder.mlp_ratio),
        out_indices=[encoder.depth - 1],
        norm_cfg={"type": "LN", "eps": encoder.epsilon},
        init_values=1.0,
        **settings,
    )


def read_mmseg(trained: Pretrained, path: Path, names: frozenset[str]) -> Module:
    """By its own function, which says nothing of names that it does not have."""
    source = {"type": "Pretrained", "checkpoint": str(path)}
    model = build_mmseg(trained, names, init_cfg=source)
    model.init_weights()
    state = model.state_dict()
    for name, tensor in base.tensors_of(path, prefix="").items():
        if name not in state or not np.array_equal(state[name].numpy(), tensor.numpy()):
            raise ConvertError(f"{path} does not load in mmsegmentation: {name}")
    return model


def _tokens_of(features: Tensor) -> Tensor:
    return features.flatten(2).transpose(1, 2)


def _ours(trained: Pretrained, case: Case, class_token: bool) -> np.ndarray:
    """Tokens of the grid after the last block."""
    encoder = trained.model.encoder.clone(dtype="float32", attention="xla", scan=False)
    params = dict(unstack_blocks(trained.params)["encoder"])
    if not class_token:
        encoder = encoder.clone(class_token=False)
        params = {**params, "pos_embed": params["pos_embed"][:, 1:]}
        del params["cls_token"]
    on_cpu = jax.default_device(jax.local_devices(backend="cpu")[0])
    with on_cpu, jax.default_matmul_precision("highest"):
        clips = jnp.asarray(case.clips)
        return np.asarray(encoder.apply({"params": params}, clips))[:, int(class_token) :]


VITDET = Original(
    "detectron2's ViTDet",
    build_vitdet,
    read_vitdet,
    lambda model, case: _tokens_of(model(case.torch_clips())["last_feat"]),
    ours=lambda trained, case: _ours(trained, case, class_token=False),
)
MMSEG = Original(
    "MAE of mmsegmentation",
    build_mmseg,
    read_mmseg,
    lambda model, case: _tokens_of(model(case.torch_clips())[-1]),
    ours=lambda trained, case: _ours(trained, case, class_token=True),
)
