"""Files of MCG-NJU/VideoMAE, which hold no positions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from maskfeat_jax import convert
from maskfeat_jax.convert import files
from maskfeat_jax.convert.importing import shapes_of
from maskfeat_jax.convert.layouts.videomae import decoder_heads
from maskfeat_jax.models.positions import sinusoid_table
from tests.convert.models import small


def written(name, folder):
    state = convert.export(small(name, without_key_bias=True), "videomae").state
    files.write(folder / "model.safetensors", state, None)
    return folder


def test_names_are_those_of_the_original():
    """Of the first and last tensors; queries and values have a bias, keys none."""
    pretrained = convert.export(small("videomae", without_key_bias=True), "videomae").state
    assert {"mask_token", "encoder_to_decoder.weight", "encoder.norm.bias"} <= pretrained.keys()
    assert {"decoder.head.weight", "decoder.blocks.1.attn.q_bias"} <= pretrained.keys()
    classifier = convert.export(small("mean_sinusoid", without_key_bias=True), "videomae").state
    of_block = {n for n in classifier if n.startswith("blocks.0.attn.")}
    names = {"qkv.weight", "q_bias", "v_bias", "proj.weight", "proj.bias"}
    assert of_block == {f"blocks.0.attn.{name}" for name in names}
    assert {"fc_norm.weight", "head.bias", "patch_embed.proj.weight"} <= classifier.keys()
    assert not [name for name in [*pretrained, *classifier] if "pos_embed" in name]


def test_clips_are_those_of_the_published_files(tmp_path):
    read = convert.load_torch(written("mean_sinusoid", tmp_path), heads=2)
    assert read.report.layout == "videomae"
    assert read.clip == (16, 224, 224)
    assert read.normalise.mean == (0.485, 0.456, 0.406)
    assert "clip=(16, 224, 224)" in read.report.assumed
    table = sinusoid_table((8, 14, 14), 32, 0)
    np.testing.assert_allclose(read.params["encoder"]["pos_embed"], table, atol=1e-6)


def test_heads_of_the_decoders():
    assert [decoder_heads(width) for width in (192, 384, 512, 640)] == [3, 6, 8, 8]


def test_biases_of_the_keys_are_left_out_and_said_so():
    exported = convert.export(small("mean_sinusoid"), "videomae")
    assert exported.left_out == (
        "the biases of the keys are left out: outputs do not depend on them",
    )


def test_a_bias_that_the_original_lacks_is_refused():
    trained = small("videomae", without_key_bias=True)
    trained.params["decoder"]["embed"]["bias"] += 1
    with pytest.raises(convert.ConvertError, match="decoder/embed/bias is not zero"):
        convert.to_torch(trained.params, "videomae")


def test_fixed_positions_must_be_those_of_the_clip():
    trained = small("mean_sinusoid", without_key_bias=True)
    shapes = shapes_of(trained.model, (8, 32, 32))
    longer = np.zeros(shapes["encoder"]["pos_embed"].shape, np.float32)
    params = {**trained.params, "encoder": {**trained.params["encoder"], "pos_embed": longer}}
    with pytest.raises(convert.ConvertError, match="is not the table that the original computes"):
        convert.export(dataclasses.replace(trained, params=params, clip=(8, 32, 32)), "videomae")
