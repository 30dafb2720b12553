"""Everything that does not fit is in one report."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from maskfeat_jax import convert
from maskfeat_jax.convert import ConvertError, files
from tests.convert.models import assert_same, small

KNOWN = {"heads": 2}


def state_of(name="mean", layout="timm"):
    return convert.export(small(name), layout).state


def load(tmp_path, state, layout=None, **arguments):
    path = tmp_path / "model.safetensors"
    files.write(path, state, None)
    return convert.load_torch(path, layout, **{**KNOWN, **arguments})


def test_everything_wrong_is_in_one_report(tmp_path):
    state = state_of()
    state["blocks.0.ls1.gamma"] = np.ones(32, np.float32)
    del state["blocks.1.norm2.weight"]
    state["blocks.0.mlp.fc2.weight"] = state["blocks.0.mlp.fc2.weight"].T
    state["head.bias"] = state["head.bias"][:-1]
    state["cls_token"][0, 0, 3] = np.nan
    state["fc_norm.bias"] = state["fc_norm.bias"].astype(np.int32)
    with pytest.raises(ConvertError) as caught:
        load(tmp_path, state)
    text = str(caught.value)
    assert "layout timm, head classifier: 31 tensors used" in text
    assert "1 missing: blocks.1.norm2.weight" in text
    assert "1 unexpected: blocks.0.ls1.gamma" in text
    assert "4 wrong: " in text
    assert "blocks.0.mlp.fc2.weight (128, 32) (transposed), expected (32, 128)" in text
    assert "head.bias (4,), expected (5,)" in text
    assert "cls_token holds 1 numbers that are not finite" in text
    assert "fc_norm.bias holds I32, expected floats" in text


@pytest.mark.parametrize("layout", ["timm", "hf", "mmpretrain", "pyslowfast"])
@pytest.mark.parametrize("seed", range(3))
def test_no_tensor_is_missed(layout, seed, tmp_path):
    """Whichever tensor goes, the file does not load."""
    state = state_of("class", layout)
    gone = sorted(state)[np.random.default_rng(seed).integers(len(state))]
    del state[gone]
    with pytest.raises(ConvertError, match=r"missing|none of the layouts") as caught:
        load(tmp_path, state, layout, pool="class")
    assert gone in str(caught.value)


def test_unexpected_tensors_can_be_left_out_and_stay_in_the_report(tmp_path):
    """Numbers of blocks from a stranger cost nothing."""
    name = "blocks.999999999.norm1.weight"
    state = state_of() | {name: np.ones(32, np.float32)}
    with pytest.raises(ConvertError, match=f"1 unexpected: {name}"):
        load(tmp_path, state)
    read = load(tmp_path, state, allow_unexpected=True)
    assert read.report.unexpected == (name,)
    assert_same(read.params, small("mean").params)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_training_are_removed_and_reported(prefix, tmp_path):
    state = {prefix + name: tensor for name, tensor in state_of().items()}
    read = load(tmp_path, state)
    assert read.report.found[0] == f"prefix {prefix!r} of all names"
    assert_same(read.params, small("mean").params)


def test_names_of_newer_transformers_are_read(tmp_path):
    new = {
        "encoder.layer.": "layers.",
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
        "decoder.decoder_layers.": "decoder.decoder_encoder.layer.",
    }
    for name in ("class", "mae"):
        state = {}
        for key, tensor in state_of(name, "hf").items():
            for old, text in new.items():
                key = key.replace(old, text)
            state[key] = tensor
        assert any("q_proj" in key for key in state)
        read = load(tmp_path, state, "hf", decoder_heads=16)
        assert_same(read.params, small(name).params)


def test_an_encoder_is_no_autoencoder(tmp_path):
    """The published weights of MAE have no decoder: that is reported, and nothing is filled in."""
    state = state_of("mae", "mae")
    assert load(tmp_path, state, "mae").report.head == "mae"
    del state["mask_token"]
    with pytest.raises(ConvertError, match="1 missing: mask_token"):
        load(tmp_path, state, "mae")
    encoder = {name: tensor for name, tensor in state.items() if "decoder" not in name}
    assert load(tmp_path, encoder, "mae").report.head == "features"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": 5}, "not a whole number of 5 heads"),
        ({"heads": None}, r"--heads"),
        ({"clip": (1, 10**6, 10**6)}, "tokens"),
    ],
)
def test_what_the_file_does_not_tell_must_be_given(changes, words, tmp_path):
    with pytest.raises(ConvertError, match=words):
        load(tmp_path, state_of(), **changes)


def test_oblong_positions_need_a_clip_size(tmp_path):
    state = convert.export(convert.resized(small("mean"), (1, 32, 48)), "timm").state
    with pytest.raises(ConvertError, match=r"6 positions per frame are not a square.*--clip"):
        load(tmp_path, state)
    assert load(tmp_path, state, clip=(1, 32, 48)).clip == (1, 32, 48)


def test_names_of_layouts_and_arguments_are_checked(tmp_path):
    with pytest.raises(ConvertError, match="did you mean 'timm'"):
        load(tmp_path, state_of(), "tim")
    with pytest.raises(TypeError, match="did you mean 'heads'"):
        load(tmp_path, state_of(), hads=3)
    with pytest.raises(ConvertError, match=r"none of the layouts timm, .* names like fc\.weight"):
        load(tmp_path, {"fc.weight": np.ones((3, 3), np.float32)})


@pytest.mark.parametrize("layout", ["timm", "hf"])
def test_settings_are_read_from_documents_next_to_the_file(layout, tmp_path):
    trained = small("class")
    convert.write(trained, tmp_path, layout)
    (tmp_path / "maskfeat_jax.json").unlink()
    read = convert.load_torch(tmp_path)
    assert (read.model, read.normalise) == (trained.model, trained.normalise)
    if layout == "hf":
        config = tmp_path / "config.json"
        config.write_text(config.read_text().replace("1e-06", "1e-12"))
        assert convert.load_torch(tmp_path).model.encoder.epsilon == 1e-12


def test_assumptions_are_reported(tmp_path):
    read = load(tmp_path, state_of("mean", "pyslowfast"), "pyslowfast")
    colours = "normalise=(mean 0.485 0.456 0.406, std 0.229 0.224 0.225)"
    assert read.report.assumed == (
        "clip=(1, 48, 48)",
        colours,
        "head=classifier",
        "pool=mean",
        "fixed_sincos=False",
    )
    assert f"not in the file, assumed: clip=(1, 48, 48), {colours}, head" in str(read.report)
    convert.write(small("class"), tmp_path / "out", "timm")
    assert convert.load_torch(tmp_path / "out").report.assumed == ()


def test_given_hints_override_stored_settings(tmp_path):
    convert.write(small("features"), tmp_path / "out", "timm")
    plain, given = (convert.load_torch(tmp_path / "out", pool=pool) for pool in (None, "mean"))
    assert (plain.model.pool, given.model.pool) == ("class", "mean")
    assert given.model.encoder == plain.model.encoder  # the rest is still believed


@pytest.mark.parametrize("name", ["mean", "mean_video", "mean_mvit", "mae", "mean_sinusoid"])
def test_models_are_resized_when_asked(name):
    trained = small(name)
    frames, height, width = trained.clip
    larger = (frames * 2 if frames > 1 else 1, height + 32, width)
    read = convert.resized(trained, larger)
    assert read.clip == larger
    expected = convert.importing.shapes_of(read.model, larger)
    shapes = jax.tree.map(lambda leaf: leaf.shape, read.params)
    assert shapes == jax.tree.map(lambda leaf: leaf.shape, expected)
    before, after = trained.params["encoder"], read.params["encoder"]
    kernels = (tree["patch_embed"]["kernel"] for tree in (after, before))
    np.testing.assert_array_equal(*kernels)
    if name == "mean":  # the row of the class token is not in the grid
        old, new = before["pos_embed"], after["pos_embed"]
        np.testing.assert_array_equal(new[:, 0], old[:, 0])
        assert new.shape == (1, 1 + 5 * 3, 32)
