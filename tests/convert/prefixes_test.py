"""Wrapped models are found by their names; of several, one must be named."""

from __future__ import annotations

import numpy as np
import pytest

from maskfeat_jax import convert
from maskfeat_jax.convert import ConvertError, files
from tests.convert.models import assert_same, small


def state_of(name="mean", layout="timm", prefix=""):
    state = convert.export(small(name), layout).state
    return {prefix + key: tensor for key, tensor in state.items()}


def load(tmp_path, state, layout=None, **arguments):
    files.write(tmp_path / "model.safetensors", state, None)
    return convert.load_torch(tmp_path, layout, heads=2, **arguments)


@pytest.mark.parametrize("prefix", ["model.", "net.model.", "backbone.", "encoder.", "a.b.c.d."])
@pytest.mark.parametrize("layout", ["timm", "hf", "mmpretrain"])
def test_any_prefix_is_found_and_reported(prefix, layout, tmp_path):
    trained = small("class", without_key_bias=layout == "hf")
    state = {prefix + key: t for key, t in convert.export(trained, layout).state.items()}
    read = load(tmp_path, state)
    assert (read.report.layout, read.report.head) == (layout, "classifier")
    assert read.report.prefix == prefix
    assert f"prefix {prefix!r} of all names" in read.report.found
    assert_same(read.params, trained.params)


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_fsdp_wrapped_module"])
def test_wrappers_of_single_blocks(wrapper, tmp_path):
    state = state_of(prefix="module.")
    state = {name.replace("blocks.1.", f"blocks.1.{wrapper}."): t for name, t in state.items()}
    assert_same(load(tmp_path, state).params, small("mean").params)


def test_names_without_the_prefix_are_listed(tmp_path):
    others = {"criterion.center": np.ones((1, 5), np.float32), "model2.x": np.ones(1, np.float32)}
    read = load(tmp_path, state_of(prefix="model.") | others)
    assert_same(read.params, small("mean").params)
    assert "prefix 'model.' of 32 of 34 names" in read.report.found
    assert read.report.ignored == tuple(others)
    assert "2 ignored: criterion.center, model2.x" in str(read.report)


def test_an_encoder_in_a_model_of_others(tmp_path):
    """Names of the whole that one layout happens to have, too, change nothing."""
    trained = small("features")
    head = {"head.fc.weight": np.ones((5, 32), np.float32), "head.fc.bias": np.ones(5, np.float32)}
    read = load(tmp_path, state_of("features", prefix="backbone.") | head)
    assert (read.report.layout, read.report.head) == ("timm", "features")
    assert set(read.report.ignored) == set(head)
    assert_same(read.params, trained.params)


def test_of_two_models_one_must_be_named(tmp_path):
    student = state_of("features", prefix="student.backbone.")
    teacher = state_of("class", prefix="teacher.backbone.")
    both = student | teacher
    words = r"'student.backbone.' \(\d+ tensors\), 'teacher.backbone.' \(\d+ tensors\).*--prefix"
    with pytest.raises(ConvertError, match=words):
        load(tmp_path, both)
    for prefix in ("teacher.backbone.", "teacher.backbone"):
        read = load(tmp_path, both, prefix=prefix)
        assert_same(read.params, small("class").params)
        assert len(read.report.ignored) == len(student)
    assert load(tmp_path, both, prefix="student.backbone").report.head == "features"
    gone = {key: t for key, t in both.items() if not key.endswith("blocks.1.norm2.bias")}
    with pytest.raises(ConvertError, match=r"1 missing: blocks\.1\.norm2\.bias"):
        load(tmp_path, gone, prefix="teacher.backbone")


def test_a_copy_beside_the_model_is_not_dropped(tmp_path):
    copy = state_of(prefix="ema.")
    with pytest.raises(ConvertError, match=f"{len(copy)} unexpected: ema"):
        load(tmp_path, state_of() | copy)
    copy["ema.head.bias"] = copy["ema.head.bias"] + 1
    read = load(tmp_path, state_of() | copy, prefix="ema")
    np.testing.assert_array_equal(read.params["projection"]["bias"], copy["ema.head.bias"])


def test_what_is_missing_below_a_prefix_is_reported(tmp_path):
    state = state_of(prefix="net.")
    del state["net.blocks.1.norm2.weight"]
    with pytest.raises(ConvertError, match=r"1 missing: blocks\.1\.norm2\.weight"):
        load(tmp_path, state)


@pytest.mark.parametrize(
    ("prefix", "words"),
    [("nothing", "no name has the prefix 'nothing.'; names: "), ("", "none of the layouts")],
)
def test_prefixes_that_fit_no_name(prefix, words, tmp_path):
    with pytest.raises(ConvertError, match=words):
        load(tmp_path, state_of(prefix="net."), prefix=prefix)


def test_many_names_from_a_stranger_are_not_all_tried(tmp_path):
    name = "patch_embed.proj.weight"
    state = {f"{i}.{name}": np.ones(1, np.float32) for i in range(50)}
    with pytest.raises(ConvertError, match="50 names end like a patch embedding: give prefix"):
        load(tmp_path, state)
