"""Small models with random parameters, and what each layout can hold of them."""

from __future__ import annotations

import functools

import jax
import numpy as np

from maskfeat_jax.augment import Normalise
from maskfeat_jax.convert import Pretrained
from maskfeat_jax.convert.importing import computed, shapes_of
from maskfeat_jax.models import create_model
from maskfeat_jax.models.layers import unstack_blocks

IMAGE, CLIP = (1, 48, 48), (4, 32, 32)
VIT = {"encoder": "vit_b16", "width": 32, "depth": 2, "heads": 2}
VIDEO = {**VIT, "tubelet": (2, 16, 16)}
SEPARATE = {**VIDEO, "positions": "separate"}
SINUSOID = {**VIDEO, "positions": "sinusoid", "class_token": False}
MVIT = {"encoder": "mvit_v2_s", "width": 8, "depth": 4, "stages": (1, 3)}
DECODER = {"dim": 96, "visible": 2, "width": 64, "depth": 2}

AUTOENCODER = {**DECODER, "heads": 16}
OF_IMAGES = {**AUTOENCODER, "positions": "sincos"}
OF_VIDEOS = {**AUTOENCODER, "positions": "separate", "class_token": "own"}
OF_TUBES = {**DECODER, "heads": 1, "positions": "sinusoid", "class_token": "none"}
MVIT_VIDEO = {**MVIT, "tubelet": (2, 16, 16)}
FIVE, LARGE = {"num_classes": 5}, (4, 64, 64)
FIVE_CLASS = {**FIVE, "pool": "class"}

# name: head, its fields, the encoder's fields, the clip
MODELS = {
    "maskfeat": ("maskfeat", {"dim": 108}, VIT, IMAGE),
    "maskfeat_mvit": ("maskfeat", {"dim": 54}, {**MVIT, "tubelet": (2, 8, 8)}, LARGE),
    "mae": ("mae", AUTOENCODER, VIT, IMAGE),
    "mae_sincos": ("mae", OF_IMAGES, {**VIT, "positions": "sincos"}, IMAGE),
    "mae_st": ("mae", OF_VIDEOS, SEPARATE, CLIP),
    "mae_pyslowfast": ("mae", {**DECODER, "heads": 1}, SEPARATE, CLIP),
    "videomae": ("mae", OF_TUBES, SINUSOID, CLIP),
    "mean": ("classifier", FIVE, VIT, IMAGE),
    "class": ("classifier", FIVE_CLASS, VIT, IMAGE),
    "mean_video": ("classifier", FIVE, SEPARATE, CLIP),
    "mean_sinusoid": ("classifier", FIVE, SINUSOID, CLIP),
    "mean_mvit": ("classifier", FIVE, MVIT_VIDEO, LARGE),
    "class_mvit": ("classifier", FIVE_CLASS, {**MVIT_VIDEO, "widen_in": "attention"}, LARGE),
    "boxes": ("boxes", FIVE, SEPARATE, CLIP),
    "boxes_mvit": ("boxes", FIVE, MVIT_VIDEO, LARGE),
    "linear_probe": ("linear_probe", FIVE, VIT, IMAGE),
    "features": ("features", {}, VIT, IMAGE),
}
# Layouts that hold all of a model, and those that hold its encoder alone.
WHOLE = {
    "maskfeat": {"pyslowfast", "mmpretrain"},
    "maskfeat_mvit": {"pyslowfast"},
    "mae": {"mae", "mmpretrain", "hf"},
    "mae_sincos": {"mae", "mmpretrain", "hf"},
    "mae_st": {"mae_st"},
    "mae_pyslowfast": {"pyslowfast"},
    "videomae": {"hf", "videomae"},
    "mean": {"timm", "mae", "mae_st", "pyslowfast", "mmpretrain", "hf"},
    "class": {"timm", "mae", "pyslowfast", "mmpretrain", "hf"},
    "mean_video": {"mae_st", "pyslowfast"},
    "mean_sinusoid": {"hf", "videomae"},
    "mean_mvit": {"pyslowfast", "torchvision"},
    "class_mvit": {"pyslowfast", "torchvision"},
    "boxes": {"pyslowfast"},
    "boxes_mvit": {"pyslowfast"},
    "linear_probe": {"mae", "mmpretrain"},
    "features": {"timm", "mae", "mae_st", "mmpretrain", "hf"},
}
ENCODER = {
    "maskfeat": {"timm", "mae", "mae_st", "hf"},
    "mae": {"timm", "mae_st"},
    "mae_sincos": {"timm", "mae_st"},
    "mae_pyslowfast": {"mae_st"},
}


@functools.cache
def _made(name: str):
    head, head_fields, fields, clip = MODELS[name]
    model = create_model(head, head=head_fields, scan=False, **fields)  # as PyTorch files are
    return model, clip, shapes_of(model, clip)


def small(name: str, *, without_key_bias: bool = False) -> Pretrained:
    """A model of `MODELS` with random parameters."""
    model, clip, shapes = _made(name)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), shapes)
    for part, tree in params.items():
        width = {"encoder": model.encoder.width, "decoder": DECODER["width"]}.get(part)
        if without_key_bias and width:
            for block in tree["blocks"].values():
                block["attn"]["qkv"]["bias"][width : 2 * width] = 0
        module = model.encoder if part == "encoder" else model
        if width and getattr(module, "positions", "") in ("sinusoid", "sincos"):
            tree["pos_embed"] = computed(model, clip, part).copy()
    if name == "videomae":
        params["decoder"]["embed"]["bias"][:] = 0
    return Pretrained(model, params, clip, Normalise(), {}, "made")


def leaves(tree) -> dict[str, np.ndarray]:
    """Leaves by name."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(key.key for key in path): leaf for path, leaf in flat}


def assert_same(found, expected) -> None:
    """Bit-equal trees of parameters, blocks stacked or not."""
    found, expected = leaves(unstack_blocks(found)), leaves(unstack_blocks(expected))
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_array_equal(found[name], leaf, err_msg=name, strict=True)
