"""PySlowFast: MaskFeat of images and videos, masked autoencoders of videos, classifiers, box heads.

The published weights of mae_st also use its names, with separate queries, keys and values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np
import yaml

from maskfeat_jax.augment import Normalise
from maskfeat_jax.checkpoints.pretrained import Pretrained
from maskfeat_jax.convert.files import ConvertError
from maskfeat_jax.convert.layouts.base import (
    BLOCK,
    HAS_CLASS,
    POOLING_BLOCK,
    POSITIONS,
    SPLIT_BLOCK,
    STEM,
    Document,
    Form,
    Layout,
    Tensors,
)
from maskfeat_jax.convert.rules import Rows, below, table
from maskfeat_jax.models import MAE, BoxClassifier, Classifier, MViT
from maskfeat_jax.ops.patches import Size3

SOBEL = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]], np.float32)
SOBEL = np.broadcast_to(SOBEL, (3, 1, 3, 3))
HOG = {"hogs.0.weight_x": SOBEL, "hogs.0.weight_y": SOBEL.swapaxes(2, 3)}
MASKFEAT = {
    "encoder/mask_token": "mask_token",
    "norm": "pred_head.transforms.0.0",
    "projection": "pred_head.projections.0",
}
CLASSIFIER = {"norm": "norm", "projection": "head.projection"}
VIT = below("encoder/", "", {**STEM, **POSITIONS, **below("blocks/*/", "blocks.*.", BLOCK)})
MVIT = below("encoder/", "", {**STEM, **below("blocks/*/", "blocks.*.", POOLING_BLOCK)})
SPLIT = below("encoder/blocks/*/", "blocks.*.", SPLIT_BLOCK)
Size = tuple[int, ...]
DECODER_FIELDS = {"heads": lambda width: width // 64, "class_token": "encoder"}


def decoder(block: Rows) -> Rows:
    """Names of the decoder, whose last norm is numbered after its blocks."""
    head = below("blocks/*/", "pred_head.transforms.0.*.", block)
    names = {
        "embed": "decoder_embed",
        "mask_token": "mask_token",
        "norm": "pred_head.transforms.0.#",
        "projection": "pred_head.projections.0",
    }
    separate = {name: name.replace("pos_embed_", "dec_pos_embed_") for name in POSITIONS}
    positions = separate | {"pos_embed": "decoder_pos_embed"}
    return below("decoder/", "", {**names, **positions, **head})


def wrap(state: Tensors, trained: Pretrained) -> dict[str, Any]:
    """The dictionary that its training saves, with the settings as YAML."""
    cfg = settings(trained, separate="blocks.0.attn.q.weight" in state)
    return {"epoch": 0, "model_state": state, "cfg": yaml.safe_dump(cfg)}


def settings(trained: Pretrained, *, separate: bool = False) -> Document:
    """Settings of a model; `separate`: queries, keys and values have a linear map each."""
    model, encoder, (frames, height, width) = trained.model, trained.model.encoder, trained.clip
    mvit: Document = {
        "EMBED_DIM": encoder.width,
        "DEPTH": encoder.depth,
        "NUM_HEADS": encoder.heads,
        "MLP_RATIO": encoder.mlp_ratio,
        "USE_FIXED_SINCOS_POS": False,
        "USE_MEAN_POOLING": getattr(model, "pool", "mean") == "mean",
        "NORM": "layernorm",
        "QKV_BIAS": True,
        "SEPARATE_QKV": separate,
        "CLS_EMBED_ON": True,
        "MODE": "conv",
    }
    if isinstance(encoder, MViT):
        mvit |= _settings_of_stages(encoder, trained.clip)
    else:
        t, h, w = encoder.tubelet
        mvit["PATCH_2D"] = t == 1
        mvit["PATCH_KERNEL"] = mvit["PATCH_STRIDE"] = [h, w] if t == 1 else [t, h, w]
        mvit["PATCH_PADDING"] = [0, 0] if t == 1 else [0, 0, 0]
        mvit["SEP_POS_EMBED"] = encoder.positions == "separate"
        mvit["USE_ABS_POS"] = True
    data: Document = {"NUM_FRAMES": frames, "TRAIN_CROP_SIZE": height, "TEST_CROP_SIZE": width}
    data |= {"MEAN": list(trained.normalise.mean), "STD": list(trained.normalise.std)}
    data["INPUT_CHANNEL_NUM"] = [3]
    document: Document = {"MVIT": mvit, "DATA": data}
    if isinstance(model, Classifier | BoxClassifier):
        classes = {"NUM_CLASSES": model.num_classes, "DROPOUT_RATE": model.dropout}
        document["MODEL"] = {"ARCH": "mvit", "MODEL_NAME": "MViT", **classes}
        if isinstance(model, BoxClassifier):
            document["MODEL"] |= {"HEAD_ACT": "sigmoid", "LOSS_FUNC": "bce"}
            document["DETECTION"] = {
                "ENABLE": True,
                "ALIGNED": True,
                "SPATIAL_SCALE_FACTOR": encoder.tubelet[1],
                "ROI_XFORM_RESOLUTION": model.bins,
            }
    else:
        document["MODEL"] = {"ARCH": "maskmvit", "MODEL_NAME": "MaskMViT"}
        document["MASK"] = _settings_of_masks(model)
    return document


def _settings_of_masks(model: nn.Module) -> Document:
    """Settings of pre-training; the target follows from the number of outputs per token."""
    _, patch, _ = model.encoder.tubelet
    mask: Document = {
        "ENABLE": True,
        "PRETRAIN_DEPTH": [model.encoder.depth - 1],
        "PRED_HOG": model.dim == 27 * (patch // 8) ** 2,
        "TIME_STRIDE_LOSS": model.dim == 3 * patch**2,
        "HEAD_TYPE": "separate",
    }
    if isinstance(model, MAE):
        mask |= {
            "MAE_ON": True,
            "MAE_RND_MASK": True,
            "HEAD_TYPE": "separate_xformer",
            "DECODER_EMBED_DIM": model.width,
            "DECODER_DEPTH": model.depth,
            "DECODER_SEP_POS_EMBED": model.positions == "separate",
        }
    return mask


def _settings_of_stages(encoder: MViT, clip: Size3) -> Document:
    strides = [block["q_stride"] for block in encoder.block_fields(clip)]
    widened = [[i, 2.0] for i in encoder.stages]
    return {
        "PATCH_2D": False,
        "PATCH_KERNEL": [3, 7, 7],
        "PATCH_STRIDE": [2, 4, 4],
        "PATCH_PADDING": [1, 3, 3],
        "DIM_MUL": widened,
        "HEAD_MUL": widened,
        "POOL_KVQ_KERNEL": [3, 3, 3],
        "POOL_KV_STRIDE_ADAPTIVE": [1, encoder.kv_stride, encoder.kv_stride],
        # Blocks that are not named here would not pool queries at all.
        "POOL_Q_STRIDE": [[i, 1, stride, stride] for i, stride in enumerate(strides)],
        "USE_ABS_POS": False,
        "REL_POS_SPATIAL": True,
        "REL_POS_TEMPORAL": True,
        "DIM_MUL_IN_ATT": encoder.widen_in == "attention",
        "RESIDUAL_POOLING": True,
    }


def hints(wrapper: Mapping[str, Any], found: Mapping[str, Document]) -> dict[str, Any]:
    """Settings in the YAML; ConvertError if the models here do not support them."""
    try:
        cfg = yaml.safe_load(wrapper.get("cfg", ""))
    except yaml.YAMLError:
        return {}
    if not isinstance(cfg, dict) or not isinstance(cfg.get("MVIT"), dict):
        return {}
    mvit, data = cfg["MVIT"], cfg.get("DATA") or {}
    if mvit.get("USE_FIXED_SINCOS_POS"):
        raise ConvertError("USE_FIXED_SINCOS_POS, which adds positions twice, is not supported")
    if mvit.get("REL_POS_SPATIAL") and not mvit.get("RESIDUAL_POOLING", True):
        raise ConvertError("an MViT without RESIDUAL_POOLING is not supported")
    if data.get("REVERSE_INPUT_CHANNEL"):
        raise ConvertError("REVERSE_INPUT_CHANNEL (blue before red) is not supported")
    patches = [mvit.get(f"PATCH_{what}") for what in ("KERNEL", "STRIDE", "PADDING")]
    if None not in patches and not _known_patches(*map(tuple, patches)):
        raise ConvertError(
            "PATCH_KERNEL, PATCH_STRIDE, PATCH_PADDING: patches overlap in a way that is not "
            f"supported, {patches}"
        )
    known: dict[str, Any] = _of_boxes(cfg.get("DETECTION") or {})
    if mvit.get("RESIDUAL_POOLING"):
        known["residual_pooling"] = True
    if "USE_FIXED_SINCOS_POS" in mvit:
        known["fixed_sincos"] = False
    if strides := mvit.get("POOL_Q_STRIDE"):
        side = 4 << sum(stride[-1] > 1 for stride in strides)
        known["tubelet"] = (2, side, side)
    if "NUM_HEADS" in mvit:
        known["heads"] = mvit["NUM_HEADS"]
    if mvit.get("POOL_KV_STRIDE_ADAPTIVE"):
        known["kv_stride"] = mvit["POOL_KV_STRIDE_ADAPTIVE"][1]
    if "USE_MEAN_POOLING" in mvit:
        known["pool"] = "mean" if mvit["USE_MEAN_POOLING"] else "class"
    if "TRAIN_CROP_SIZE" in data and (mvit.get("PATCH_2D") or "NUM_FRAMES" in data):
        frames = 1 if mvit.get("PATCH_2D") else data["NUM_FRAMES"]
        known["clip"] = (frames, data["TRAIN_CROP_SIZE"], data["TRAIN_CROP_SIZE"])
    if "MEAN" in data and "STD" in data:
        known["normalise"] = Normalise(tuple(data["MEAN"]), tuple(data["STD"]))
    return known


def _of_boxes(detection: Mapping[str, Any]) -> dict[str, Any]:
    if not detection.get("ENABLE"):
        return {"head": "classifier"}
    if not detection.get("ALIGNED", True):
        raise ConvertError("DETECTION.ALIGNED=False is not supported")
    names = {"bins": "ROI_XFORM_RESOLUTION", "cell": "SPATIAL_SCALE_FACTOR"}
    known = {ours: detection[name] for ours, name in names.items() if name in detection}
    return {"head": "boxes", **known}


def _known_patches(kernel: Size, stride: Size, padding: Size) -> bool:
    overlapping = (kernel, stride, padding) == ((3, 7, 7), (2, 4, 4), (1, 3, 3))
    return overlapping or (kernel == stride and not any(padding))


def _of_vit(head: str, *rows: Rows, **settings: Any) -> Form:
    return Form(head, table(VIT, *rows), square=True, encoder_fields=HAS_CLASS, **settings)


def _of_mvit(head: str, *rows: Rows, **settings: Any) -> Form:
    return Form(head, table(MVIT, *rows), square=True, encoder="mvit", **settings)


def _forms() -> tuple[Form, ...]:
    fused, split, norm = decoder(BLOCK), decoder(SPLIT_BLOCK), {"norm": "norm"}
    return (
        _of_vit("maskfeat", MASKFEAT, extras=HOG),
        _of_mvit("maskfeat", MASKFEAT, extras=HOG),
        _of_vit("classifier", CLASSIFIER),
        _of_mvit("classifier", CLASSIFIER),
        _of_vit("classifier", SPLIT, CLASSIFIER),
        _of_vit("boxes", CLASSIFIER),
        _of_mvit("boxes", CLASSIFIER),
        _of_vit("boxes", SPLIT, CLASSIFIER),
        _of_vit("mae", fused, norm, fields=DECODER_FIELDS),
        _of_vit("mae", SPLIT, split, norm, fields=DECODER_FIELDS),
        _of_vit("mae", SPLIT, fused, norm, fields=DECODER_FIELDS),
    )


PYSLOWFAST = Layout(
    name="pyslowfast",
    forms=_forms(),
    file="checkpoint.pyth",
    wrap=wrap,
    hints=hints,
    free=("residual_pooling", "fixed_sincos"),
)
