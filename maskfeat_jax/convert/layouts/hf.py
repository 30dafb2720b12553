"""Hugging Face transformers: ViT, ViTMAE, BEiT (mean pooling) and VideoMAE.

Files are written with the names of version 4, which version 5 reads and writes; both are read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from maskfeat_jax.augment import Normalise
from maskfeat_jax.checkpoints.pretrained import Pretrained
from maskfeat_jax.convert.files import ConvertError
from maskfeat_jax.convert.layouts.base import HAS_CLASS, Document, Form, Layout, class_names
from maskfeat_jax.convert.layouts.mae import FIELDS
from maskfeat_jax.convert.rules import COMPUTED, Rows, Rule, below, table
from maskfeat_jax.models import MAE, Classifier

QKV = tuple(f"attention.attention.{name}" for name in ("query", "key", "value"))
BLOCK: Rows = {
    "norm1": "layernorm_before",
    "attn/qkv": Rule(QKV),
    "attn/proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp/fc1": "intermediate.dense",
    "mlp/fc2": "output.dense",
}
# Without the bias of the keys, which adds the same to all logits of a query: softmax drops it.
BEIT_BLOCK = {**BLOCK, "attn/qkv": Rule(QKV, (f"{QKV[0]}.bias", None, f"{QKV[2]}.bias"))}
VIDEO_BLOCK = {
    **BLOCK,
    "attn/qkv": Rule(QKV, ("attention.attention.q_bias", None, "attention.attention.v_bias")),
}


def encoder(prefix: str, block: Rows = BLOCK, *, positions: str | Rule | None = None) -> Rows:
    """Names of an encoder; those of positions are usually `embeddings.position_embeddings`."""
    names: Rows = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": positions or "embeddings.position_embeddings",
        "patch_embed": "embeddings.patch_embeddings.projection",
        **below("blocks/*/", "encoder.layer.*.", block),
    }
    return below("encoder/", prefix, names)


def decoder(block: Rows, names: Rows) -> Rows:
    """Names of a decoder."""
    blocks = below("blocks/*/", "decoder.decoder_layers.*.", block)
    return below("decoder/", "", {**names, **blocks})


MAE_DECODER = decoder(
    BLOCK,
    {
        "embed": "decoder.decoder_embed",
        "mask_token": "decoder.mask_token",
        "pos_embed": "decoder.decoder_pos_embed",
        "norm": "decoder.decoder_norm",
        "projection": "decoder.decoder_pred",
    },
)
VIDEO_DECODER = decoder(
    VIDEO_BLOCK,
    {
        "embed": Rule(("encoder_to_decoder",), (None,)),
        "mask_token": "mask_token",
        "pos_embed": COMPUTED,
        "norm": "decoder.norm",
        "projection": "decoder.head",
    },
)
HEAD, NORM_OF_MEAN = {"projection": "classifier"}, {"norm": "fc_norm"}
NORM, BEIT_NORM = {"norm": "vit.layernorm"}, {"norm": "beit.pooler.layernorm"}
# Defaults of transformers, for entries that a config.json leaves out.
DEFAULTS: Document = {"num_attention_heads": 12, "image_size": 224, "layer_norm_eps": 1e-12}
DEFAULTS |= {"hidden_act": "gelu"}
KINDS = ("vit", "vit_mae", "beit", "videomae")
VIDEO = {"class_token": False, "positions": "sinusoid"}
EPSILON: float = DEFAULTS["layer_norm_eps"]
LAST_OF_VIDEO = 1e-5  # whatever config.json says


def _of_images(head: str, *rows: Rows, **settings: Any) -> Form:
    settings |= {"images": True, "encoder_fields": HAS_CLASS, "epsilon": EPSILON}
    return Form(head, table(*rows), **settings)


def _of_videos(head: str, *rows: Rows, **settings: Any) -> Form:
    settings |= {"encoder_fields": VIDEO, "epsilon": EPSILON, "last_epsilon": LAST_OF_VIDEO}
    return Form(head, table(*rows), **settings)


def _forms() -> tuple[Form, ...]:
    vit, beit = encoder("vit."), encoder("beit.", BEIT_BLOCK)
    video = encoder("videomae.", VIDEO_BLOCK, positions=COMPUTED)
    beyond = ("pooler.dense.weight", "pooler.dense.bias", "embeddings.mask_token")
    return (
        _of_images("classifier", vit, HEAD, NORM, pool="class"),
        _of_images("classifier", beit, HEAD, BEIT_NORM, pool="mean", square=True),
        _of_videos("classifier", video, HEAD, NORM_OF_MEAN, pool="mean"),
        _of_images("mae", vit, MAE_DECODER, NORM, fields=FIELDS, square=True),
        _of_videos(
            "mae",
            video,
            VIDEO_DECODER,
            {"norm": "videomae.layernorm"},
            fields={"class_token": "none", "positions": "sinusoid"},
        ),
        _of_images("features", encoder(""), {"norm": "layernorm"}, ignored=beyond),
        _of_images("features", vit, NORM, ignored=tuple(f"vit.{name}" for name in beyond)),
    )


def documents(trained: Pretrained) -> dict[str, Document]:
    """The files from which transformers builds the model and its preprocessor."""
    model, encoder = trained.model, trained.model.encoder
    video = not encoder.class_token
    frames, height, width = trained.clip
    config: Document = {
        **_kind(trained),
        "hidden_size": encoder.width,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.heads,
        "intermediate_size": int(encoder.width * encoder.mlp_ratio),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "image_size": height if height == width else [height, width],
        "patch_size": encoder.tubelet[1],
        "num_channels": 3,
        "layer_norm_eps": encoder.epsilon,
        "qkv_bias": True,
    }
    if video:
        config |= {"num_frames": frames, "tubelet_size": encoder.tubelet[0]}
    if isinstance(model, MAE):
        grid = encoder.grid(trained.clip)
        config |= {
            "decoder_hidden_size": model.width,
            "decoder_num_hidden_layers": model.depth,
            "decoder_num_attention_heads": model.heads,
            "decoder_intermediate_size": int(model.width * encoder.mlp_ratio),
            "norm_pix_loss": bool(trained.recipe.get("target", {}).get("normalise", True)),
            "mask_ratio": _mask_ratio(model.visible, math.prod(grid)),
        }
    if isinstance(model, Classifier):
        names = trained.class_names or [f"LABEL_{k}" for k in range(model.num_classes)]
        config["id2label"] = {str(k): name for k, name in enumerate(names)}
        config["label2id"] = {name: k for k, name in enumerate(names)}
        config["num_labels"] = model.num_classes
    return {"config.json": config, "preprocessor_config.json": _preprocessor(trained, video)}


def _mask_ratio(visible: int, tokens: int) -> float:
    """A ratio that leaves this number of tokens, although transformers rounds down."""
    ratio = round(1 - visible / tokens, 6)
    return ratio if int(tokens * (1 - ratio)) == visible else 1 - (visible + 0.5) / tokens


def _kind(trained: Pretrained) -> Document:
    model, pretrained = trained.model, isinstance(trained.model, MAE)
    if not model.encoder.class_token:
        name = "VideoMAEForPreTraining" if pretrained else "VideoMAEForVideoClassification"
        kind = {"model_type": "videomae", "architectures": [name]}
        return {**kind, "use_mean_pooling": not pretrained}
    if pretrained:
        return {"model_type": "vit_mae", "architectures": ["ViTMAEForPreTraining"]}
    if not isinstance(model, Classifier):
        return {"model_type": "vit", "architectures": ["ViTModel"]}
    if model.pool == "class":
        return {"model_type": "vit", "architectures": ["ViTForImageClassification"]}
    return {
        "model_type": "beit",
        "architectures": ["BeitForImageClassification"],
        "use_mask_token": False,
        "use_absolute_position_embeddings": True,
        "use_relative_position_bias": False,
        "use_shared_relative_position_bias": False,
        "use_mean_pooling": True,
        "layer_scale_init_value": 0.0,
        "drop_path_rate": 0.0,
    }


def _preprocessor(trained: Pretrained, video: bool) -> Document:
    size = {"height": trained.clip[1], "width": trained.clip[2]}
    document: Document = {
        "image_processor_type": "VideoMAEImageProcessor" if video else "ViTImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": min(size.values())} if video else size,
        "resample": 2 if video else 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(trained.normalise.mean),
        "image_std": list(trained.normalise.std),
    }
    if video:
        document |= {"do_center_crop": True, "crop_size": size}
    return document


def hints(wrapper: Mapping[str, Any], found: Mapping[str, Document]) -> dict[str, Any]:
    """Settings in both JSON files; ConvertError if the models here do not support them."""
    config = found.get("config.json", {})
    kind = config.get("model_type")
    if kind is None:
        config = {}
    elif kind not in KINDS:
        raise ConvertError(f"config.json: model_type {kind!r}: expected one of {', '.join(KINDS)}")
    else:
        config = {**DEFAULTS, **config}
    if config and config["hidden_act"] != "gelu":
        raise ConvertError(f"config.json: hidden_act {config['hidden_act']!r}: expected 'gelu'")
    names = {
        "num_attention_heads": "heads",
        "decoder_num_attention_heads": "decoder_heads",
        "mask_ratio": "mask_ratio",
        "layer_norm_eps": "epsilon",
    }
    known = {ours: config[theirs] for theirs, ours in names.items() if theirs in config}
    if config:
        side = config["image_size"]
        sides = side if isinstance(side, list) else [side, side]
        frames = config.get("num_frames", 16) if kind == "videomae" else 1
        known["clip"] = (frames, *sides)
        known["activation"] = config["hidden_act"]
    known |= class_names(config.get("id2label"), "config.json: id2label")
    prepared = found.get("preprocessor_config.json", {})
    factor = prepared.get("rescale_factor", 1 / 255)
    if prepared.get("do_rescale") is False or not 0.999 < factor * 255 < 1.001:
        raise ConvertError(
            "preprocessor_config.json: pixels are divided by 255 here, not rescaled by "
            f"do_rescale={prepared.get('do_rescale', True)}, rescale_factor={factor}"
        )
    colours = [prepared.get(f"image_{which}") for which in ("mean", "std")]
    if prepared.get("do_normalize") is False:
        colours = [0.0, 1.0]
    if all(colour is not None for colour in colours):
        three = (tuple(c) if isinstance(c, list) else (c, c, c) for c in colours)
        known["normalise"] = Normalise(*three)
    return known


HF = Layout(
    name="hf",
    forms=_forms(),
    file="model.safetensors",
    documents=documents,
    hints=hints,
    free=("epsilon", "activation"),
    stores_epsilon=True,
    old_names={
        # Version 5 in memory, and what its ViTMAE writes for the blocks of the decoder.
        r"\bdecoder\.decoder_encoder\.layer\.": "decoder.decoder_layers.",
        r"\blayers\.(\d+)\.": r"encoder.layer.\1.",
        r"\.attention\.q_proj\.": ".attention.attention.query.",
        r"\.attention\.k_proj\.": ".attention.attention.key.",
        r"\.attention\.v_proj\.": ".attention.attention.value.",
        r"\.attention\.o_proj\.": ".attention.output.dense.",
        r"\.mlp\.fc1\.": ".intermediate.dense.",
        r"\.mlp\.fc2\.": ".output.dense.",
    },
)
