"""OpenMMLab: mmpretrain for images, mmaction2 for MViT."""

from __future__ import annotations

from typing import Any

from maskfeat_jax.checkpoints.pretrained import Pretrained
from maskfeat_jax.convert.files import ConvertError
from maskfeat_jax.convert.verify import base
from maskfeat_jax.convert.verify.base import Case, Module, Original, Tensor, imported
from maskfeat_jax.models import MAE, Classifier, Features, LinearProbe, MaskFeat, MViT

HINT = "pip install mmpretrain mmengine mmcv"
HINT_OF_VIDEOS = "pip install mmaction2 mmengine mmcv"
LOSS = {"type": "PixelReconstructionLoss", "criterion": "L2"}


def build(trained: Pretrained, names: frozenset[str]) -> Module:
    """The model of its configuration, without preprocessing."""
    if isinstance(trained.model.encoder, MViT):
        return _of_videos(trained)
    if "neck.fc.weight" not in names and isinstance(trained.model, MaskFeat):
        raise ConvertError("this is a file of mmselfsup, which mmpretrain does not load")
    return imported("mmpretrain.models", HINT).build_classifier(_config(trained, names))


def _config(trained: Pretrained, names: frozenset[str]) -> dict[str, Any]:
    model, encoder = trained.model, trained.model.encoder
    norm = {"type": "LN", "eps": encoder.epsilon}
    backbone: dict[str, Any] = {
        "type": "VisionTransformer",
        "arch": {
            "embed_dims": encoder.width,
            "num_layers": encoder.depth,
            "num_heads": encoder.heads,
            "feedforward_channels": int(encoder.width * encoder.mlp_ratio),
        },
        "img_size": trained.clip[1:],
        "patch_size": encoder.tubelet[1],
        "norm_cfg": norm,
    }
    if isinstance(model, MaskFeat):
        return {
            "type": "MaskFeat",
            "backbone": {**backbone, "type": "MaskFeatViT"},
            "neck": {
                "type": "LinearNeck",
                "in_channels": encoder.width,
                "out_channels": model.dim,
                "norm_cfg": None,
            },
            "head": {"type": "MIMHead", "loss": LOSS},
            "target_generator": {"type": "HOGGenerator"},
        }
    if isinstance(model, MAE):
        tokens = encoder.grid(trained.clip)
        return {
            "type": "MAE",
            "backbone": {**backbone, "type": "MAEViT", "mask_ratio": base.mask_ratio(trained)},
            "neck": {
                "type": "MAEPretrainDecoder",
                "num_patches": tokens[1] * tokens[2],
                "patch_size": encoder.tubelet[1],
                "embed_dim": encoder.width,
                "decoder_embed_dim": model.width,
                "decoder_depth": model.depth,
                "decoder_num_heads": model.heads,
                "mlp_ratio": encoder.mlp_ratio,
                "norm_cfg": norm,
            },
            "head": {
                "type": "MAEPretrainHead",
                "patch_size": encoder.tubelet[1],
                "loss": LOSS,
            },
        }
    backbone["with_cls_token"] = encoder.class_token
    if isinstance(model, Features):
        return {"type": "ImageClassifier", "backbone": {**backbone, "out_type": "raw"}}
    mean = model.pool == "mean"
    if getattr(model, "norm_of", "pooled") == "tokens":
        raise ConvertError("--verify: the mean of tokens after the norm is not compared")
    kind = "VisionTransformerClsHead" if "head.layers.head.weight" in names else "LinearClsHead"
    neck = {"type": "ClsBatchNormNeck", "input_features": encoder.width}
    return {
        "type": "ImageClassifier",
        "backbone": {
            **backbone,
            "out_type": "avg_featmap" if mean else "cls_token",
            "final_norm": not mean,
        },
        "neck": neck if isinstance(model, LinearProbe) else None,
        "head": {"type": kind, "num_classes": model.num_classes, "in_channels": encoder.width},
    }


def _of_videos(trained: Pretrained) -> Module:
    model, encoder = trained.model, trained.model.encoder
    if not isinstance(model, Classifier):
        raise ConvertError(
            "mmaction2 has no MaskFeat: its pre-training was a project of mmselfsup and is in no "
            "package"
        )
    halved = [i for i, stride in enumerate(encoder.q_strides) if stride > 1]
    imported("mmaction.models", HINT_OF_VIDEOS)
    return imported("mmaction.registry", HINT_OF_VIDEOS).MODELS.build(
        {
            "type": "Recognizer3D",
            "data_preprocessor": {"type": "mmaction.ActionDataPreprocessor"},
            "backbone": {
                "type": "MViT",
                "arch": {
                    "embed_dims": encoder.width,
                    "num_layers": encoder.depth,
                    "num_heads": encoder.heads,
                    "downscale_indices": halved,
                    "dim_mul_indices": list(encoder.stages),
                },
                "spatial_size": base.square(trained),
                "temporal_size": trained.clip[0],
                "adaptive_kv_stride": [1, encoder.kv_stride, encoder.kv_stride],
                "dim_mul_in_attention": encoder.widen_in == "attention",
                "mlp_ratio": encoder.mlp_ratio,
            },
            "cls_head": {
                "type": "MViTHead",
                "num_classes": model.num_classes,
                "in_channels": encoder.block_fields(trained.clip)[-1]["width"],
            },
        }
    )


def run(model: Module, case: Case) -> Tensor:
    """Predictions, logits, or tokens after the norm."""
    clips, ours = case.torch_clips(), case.trained.model
    if isinstance(ours.encoder, MViT):
        return model.cls_head(model.backbone(clips))
    if isinstance(ours, MaskFeat):
        tokens = model.backbone(clips, case.torch_mask())
        (predicted,) = model.neck((tokens.flatten(0, 1),))
        return predicted.unflatten(0, tokens.shape[:2])[:, 1:][case.torch_mask()]
    if isinstance(ours, MAE):
        case.draw_same_noise()
        tokens, _, order = model.backbone(clips)
        return model.neck(tokens, order)[case.torch_mask()]
    if isinstance(ours, Features):
        return model.backbone(clips)[-1]
    features = model.backbone(clips)
    return model.head(model.neck(features) if model.neck is not None else features)


MMPRETRAIN = Original("OpenMMLab", build, base.read_strictly(build, "state_dict"), run)
