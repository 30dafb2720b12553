"""Published sizes are read from the shapes of their tensors, under their names."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from maskfeat_jax import convert
from maskfeat_jax.augment import Normalise
from maskfeat_jax.checkpoints.description import model_of
from maskfeat_jax.convert.files import Tensor
from maskfeat_jax.convert.importing import computed, shapes_of
from maskfeat_jax.convert.source import find_source, infer_sections
from maskfeat_jax.models import create_model

VIDEO = {"tubelet": (2, 16, 16)}
SEPARATE = {**VIDEO, "positions": "separate"}
IMAGE, CLIP = (1, 224, 224), (16, 224, 224)
MASKFEAT = {"dim": 108}
MAE = {"dim": 768, "visible": 49, "width": 512, "depth": 8, "heads": 16}
DECODER = {"dim": 768, "visible": 156, "width": 512, "depth": 4}
MAE_ST = {**DECODER, "heads": 16, "positions": "separate", "class_token": "own"}
MAE_SF = {**DECODER, "heads": 8}
K400, IN1K = {"num_classes": 400}, {"num_classes": 1000}
K400_CLASS, IN1K_CLASS = {**K400, "pool": "class"}, {**IN1K, "pool": "class"}
SINUSOID = {**VIDEO, "positions": "sinusoid", "class_token": False}
SUPERVISED = "mvit_v2_s_supervised"

# layout, head, its fields, encoder, its fields, clip: tensors of the original, their numbers.
# Counted on the originals' own models: spec of the layouts; buffers are not counted as numbers.
PUBLISHED = {
    "timm_b": ("timm", "classifier", IN1K, "vit_b16", {}, IMAGE, 152, 86_567_656),
    "mae_b": ("mae", "mae", MAE, "vit_b16", {}, IMAGE, 254, 111_907_840),
    "mm_b": ("mmpretrain", "maskfeat", MASKFEAT, "vit_b16", {}, IMAGE, 156, 85_882_476),
    "mm_mae": ("mmpretrain", "mae", MAE, "vit_b16", {}, IMAGE, 254, 111_907_840),
    "mae_st_b": ("mae_st", "mae", MAE_ST, "vit_b16", SEPARATE, CLIP, 275, 99_898_880),
    "mae_st_ft": ("mae_st", "classifier", K400, "vit_b16", SEPARATE, CLIP, 202, 86_702_224),
    "sf_b": ("pyslowfast", "maskfeat", MASKFEAT, "vit_b16", {}, IMAGE, 155, 85_882_476),
    "sf_mae": ("pyslowfast", "mae", MAE_SF, "vit_b16", SEPARATE, CLIP, 208, 100_596_736),
    "sf_ft": ("pyslowfast", "classifier", K400, "vit_b16", SEPARATE, CLIP, 154, 86_702_224),
    "mvit_s": ("pyslowfast", "maskfeat", MASKFEAT, "mvit_v2_s", VIDEO, CLIP, 400, 36_253_356),
    "mvit_s_ft": ("pyslowfast", "classifier", K400, "mvit_v2_s", {}, CLIP, 397, 36_475_120),
    "mvit_l": ("pyslowfast", "maskfeat", MASKFEAT, "mvit_v2_l", VIDEO, CLIP, 1168, 217_247_580),
    "tv_s": ("torchvision", "classifier", K400_CLASS, SUPERVISED, {}, CLIP, 397, 34_537_744),
    "hf_b": ("hf", "classifier", IN1K_CLASS, "vit_b16", {}, IMAGE, 200, None),
    "hf_mae": ("hf", "mae", MAE, "vit_b16", {}, IMAGE, 334, 111_907_840),
    "videomae_b": ("hf", "classifier", K400, "vit_b16", SINUSOID, CLIP, 186, 86_534_800),
}
CASES = [
    pytest.param(case, id=name, marks=[pytest.mark.slow] * (name == "mvit_l"))
    for name, case in PUBLISHED.items()
]


@functools.cache
def zeros(model, clip):
    """Parameters that take no memory: these models are large."""
    shapes = shapes_of(model, clip)
    return jax.tree.map(lambda leaf: np.broadcast_to(np.int8(0), leaf.shape), shapes)


@pytest.mark.parametrize("case", CASES)
def test_published_models_are_inferred_from_their_tensors(case):
    layout, head, head_fields, encoder, fields, clip, tensors, numbers = case
    model = create_model(head, encoder=encoder, head=head_fields, **fields)
    params = zeros(model, clip)
    if getattr(model.encoder, "positions", "") == "sinusoid":
        params["encoder"]["pos_embed"] = computed(model, clip, "encoder")
    trained = convert.Pretrained(model, params, clip, Normalise(), {}, "")
    exported = convert.export(trained, layout).state
    state = {name: Tensor(t.shape, "F32", t.copy) for name, t in exported.items()}
    assert len(state) == tensors
    source = find_source(state, layout)
    if numbers is not None:
        sizes = [np.prod(t.shape) for name, t in state.items() if name not in source.form.extras]
        assert sum(sizes) == numbers
    known = {"pool": getattr(model, "pool", None)}
    if layout == "hf":
        known |= {"clip": clip, "epsilon": model.encoder.epsilon}
    section, found_head, found_clip = infer_sections(source, known)
    found = model_of(section, found_head)
    if getattr(found, "last_epsilon", None) is not None:  # of VideoMAE, in the code of transformers
        found = found.clone(last_epsilon=None)
    assert found == model
    assert found_clip == clip
