"""Backbones for detectors and segmenters, by the names that those read."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from maskfeat_jax import convert
from maskfeat_jax.checkpoints.pretrained import write_description
from maskfeat_jax.convert import files
from tests.convert.models import small

# Of detectron2's ViT, mmdetection's projects/ViTDet and mmsegmentation's MAE.
VITDET = {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
VITDET |= {
    f"blocks.{i}.{module}.{leaf}"
    for i in range(2)
    for module in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    for leaf in ("weight", "bias")
}
MMSEG = {"cls_token", "pos_embed", "patch_embed.projection.weight", "patch_embed.projection.bias"}
MMSEG |= {
    f"layers.{i}.{module}.{leaf}"
    for i in range(2)
    for module in ("ln1", "attn.qkv", "attn.proj", "ln2", "ffn.layers.0.0", "ffn.layers.1")
    for leaf in ("weight", "bias")
}
NAMES = {"vitdet": VITDET, "mmseg": MMSEG}


@pytest.mark.parametrize("layout", NAMES)
@pytest.mark.parametrize("name", ["maskfeat", "mae_sincos", "mean", "linear_probe", "features"])
def test_only_the_encoder_is_written(name, layout):
    trained = small(name)
    exported = convert.export(trained, layout)
    assert exported.state.keys() == NAMES[layout]
    assert {tensor.dtype for tensor in exported.state.values()} == {np.dtype("float32")}
    positions = exported.state["pos_embed"]  # with the class token, on the grid of the pre-training
    np.testing.assert_array_equal(positions, trained.params["encoder"]["pos_embed"])
    assert "norm is left out: a detector has its own" in exported.left_out
    kernel = exported.state[min(n for n in NAMES[layout] if "patch_embed" in n and "weight" in n)]
    assert kernel.shape == (32, 3, 16, 16)
    assert convert.to_torch(trained.params, layout).keys() == exported.state.keys()


def test_detectron2_and_mmdetection_want_a_wrapper_and_mmsegmentation_none():
    layouts = convert.LAYOUTS
    assert layouts["vitdet"].wrap({"a": 1}, small("mean")) == {"model": {"a": 1}}
    assert layouts["mmseg"].wrap is None


@pytest.mark.parametrize("layout", NAMES)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mean_video", "becomes one of images with --resize 1 HEIGHT WIDTH"),
        ("mean_mvit", "it supports features on vit"),
        ("no class token", "class_token=True"),
        ("patch 8", r"tubelet=\(1, 16, 16\)"),
        ("oblong", "of square clips"),
    ],
)
def test_what_does_not_fit_is_refused(name, words, layout):
    if name == "oblong":
        trained = convert.resized(small("mean"), (1, 32, 64))
    elif name in ("no class token", "patch 8"):
        fields = {"class_token": False} if name == "no class token" else {"tubelet": (1, 8, 8)}
        trained = small("mean")
        model = trained.model.clone(encoder=trained.model.encoder.clone(**fields))
        trained = dataclasses.replace(trained, model=model)
    else:
        trained = small(name)
    with pytest.raises(convert.ConvertError, match=words):
        convert.export(trained, layout)


def test_a_model_of_videos_is_exported_as_one_of_images():
    image = convert.resized(small("mae_st"), (1, 48, 48))
    assert convert.export(image, "vitdet").state.keys() == VITDET


@pytest.mark.parametrize("layout", NAMES)
def test_backbones_are_not_read(layout, tmp_path):
    state = convert.export(small("mean"), layout).state
    files.write(tmp_path / "model.safetensors", state, None)
    with pytest.raises(convert.ConvertError, match="is only written: its files lack the norm"):
        convert.load_torch(tmp_path, layout)
    write_description(tmp_path, small("mean"), layout, [tmp_path / "model.safetensors"])
    with pytest.raises(
        convert.ConvertError, match="for a detector; load what it was made of: made"
    ):
        convert.load_torch(tmp_path)
