"""What is written is what is read, for every model in every layout that can hold it."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from maskfeat_jax import convert
from maskfeat_jax.checkpoints import pretrained
from maskfeat_jax.convert import ConvertError, files
from maskfeat_jax.convert.files import Tensor
from maskfeat_jax.convert.importing import about
from maskfeat_jax.convert.layouts import READ
from maskfeat_jax.convert.source import find_source
from maskfeat_jax.models import BoxClassifier
from tests.convert.models import ENCODER, MODELS, WHOLE, assert_same, small

CELLS = [(name, layout) for name in MODELS for layout in READ]


def written(exported: convert.Export, folder):
    """The tensors as safetensors, whatever the layout saves: that needs no PyTorch."""
    path = folder / "model.safetensors"
    files.write(path, exported.state, None)
    return path


def known(trained: convert.Pretrained) -> dict:
    """What no file of another program tells."""
    model = trained.model
    hints = {"heads": model.encoder.heads, "clip": trained.clip}
    hints |= {"pool": getattr(model, "pool", None), "epsilon": model.encoder.epsilon}
    if isinstance(model, BoxClassifier):
        hints["head"] = "boxes"
    if hasattr(model, "visible"):
        grid = model.encoder.grid(trained.clip)
        hints["mask_ratio"] = 1 - model.visible / np.prod(grid)
        hints["decoder_heads"] = model.heads
    return hints


@pytest.mark.parametrize(("name", "layout"), CELLS)
def test_layouts_hold_models_to_the_bit(name, layout, tmp_path):
    trained = small(name, without_key_bias=layout in ("hf", "videomae"))
    if layout not in WHOLE[name] | ENCODER.get(name, set()):
        with pytest.raises(ConvertError, match="cannot hold this model"):
            convert.export(trained, layout)
        return
    exported = convert.export(trained, layout)
    left_out = [text for text in exported.left_out if not text.startswith("epsilon")]
    assert bool(left_out) == (layout not in WHOLE[name])
    hints = known(exported.trained)
    read = convert.load_torch(written(exported, tmp_path), layout, **hints)
    assert_same(read.params, exported.trained.params)
    expected = exported.trained.model
    if name == "mae_sincos":  # the file holds but a table
        fixed = {"positions": "joint"}
        encoder = expected.encoder.clone(**fixed)
        expected = expected.clone(encoder=encoder, **(fixed if layout in WHOLE[name] else {}))
    if layout == "hf" and name in ("videomae", "mean_sinusoid"):  # fixed by its code
        expected = expected.clone(last_epsilon=1e-5)
    assert read.model == expected
    assert read.clip == trained.clip
    assert not read.report.unexpected
    assert_same(convert.export(read, layout).state, exported.state)


@pytest.mark.parametrize("name", MODELS)
def test_the_layout_is_found_out(name):
    """But that classifiers and encoders of timm are files of MAE as well."""
    for layout in WHOLE[name]:
        state = convert.export(small(name), layout).state
        tensors = {key: Tensor(t.shape, "F32", t.copy) for key, t in state.items()}
        source = find_source(tensors, None)
        assert source.layout.name in ({"timm", "mae"} if layout in ("timm", "mae") else {layout})
        head = MODELS[name][0]
        if head == "boxes":  # told by settings only
            head = "classifier"
        assert (source.form.head, source.unknown) == (head, ())


@pytest.mark.parametrize("layout", sorted(WHOLE["mean"]))
def test_to_torch_is_the_export(layout):
    trained = small("mean")
    state = convert.to_torch(trained.params, layout)
    assert_same(state, convert.export(trained, layout).state)


def test_to_torch_takes_stacked_parameters():
    trained = small("maskfeat")
    blocks = trained.params["encoder"]["blocks"]
    stacked = {"0-1": jax.tree.map(lambda *x: np.stack(x), blocks["0"], blocks["1"])}
    params = {**trained.params, "encoder": {**trained.params["encoder"], "blocks": stacked}}
    plain = convert.to_torch(trained.params, "pyslowfast")
    assert_same(convert.to_torch(params, "pyslowfast"), plain)


def test_to_torch_names_what_a_layout_has_no_place_for():
    with pytest.raises(ConvertError, match=r"'timm' does not support a vit with head 'mae'"):
        convert.to_torch(small("mae").params, "timm")


@pytest.mark.parametrize(
    ("name", "layout", "words"),
    [
        ("mae_st", "pyslowfast", "mae with heads=1"),
        ("mean_video", "timm", "of images"),
        ("class", "mae_st", "pool='mean'"),
        ("maskfeat_mvit", "mmpretrain", "tubelet"),
    ],
)
def test_what_hinders_is_named(name, layout, words):
    with pytest.raises(ConvertError, match=words):
        convert.export(small(name), layout)


def test_boxes_are_in_no_layout_of_classifiers():
    for layout, helps in (("timm", False), ("vitdet", True)):
        with pytest.raises(ConvertError, match=f"'{layout}' cannot hold .*'boxes'") as raised:
            convert.export(small("boxes"), layout)
        assert ("--resize" in str(raised.value)) == helps
    assert convert.export(convert.resized(small("boxes"), (1, 32, 32)), "vitdet").state


def test_oblong_clips_go_where_they_can(tmp_path):
    oblong = convert.resized(small("mean"), (1, 32, 64))
    for layout in ("timm", "mmpretrain"):
        path = written(convert.export(oblong, layout), tmp_path)
        read = convert.load_torch(path, layout, **known(oblong))
        assert_same(read.params, oblong.params)
    for layout in ("mae", "mae_st", "pyslowfast", "hf"):
        with pytest.raises(ConvertError, match="of square clips"):
            convert.export(oblong, layout)


def test_what_computes_hog_is_written_only_with_hog():
    for target, more in (("hog", 2), ("pixels", 0)):
        recipe = {"target": {"name": target}}
        trained = dataclasses.replace(small("maskfeat"), recipe=recipe)
        state = convert.export(trained, "pyslowfast").state
        assert sum(name.startswith("hogs.") for name in state) == more


def test_numbers_that_the_original_computes_or_lacks_are_not_lost():
    trained = small("mean_sinusoid")
    trained.params["encoder"]["pos_embed"][0, 3, 3] += 1
    with pytest.raises(ConvertError, match="encoder/pos_embed is not the table that the"):
        convert.export(trained, "hf")
    trained = small("videomae")
    trained.params["decoder"]["embed"]["bias"][1] = 1
    with pytest.raises(ConvertError, match="decoder/embed/bias is not zero"):
        convert.export(trained, "hf")


def test_biases_of_keys_are_dropped_where_they_change_nothing(tmp_path):
    trained = small("mean")
    exported = convert.export(trained, "hf")
    assert exported.left_out == (
        "the biases of the keys are left out: outputs do not depend on them",
    )
    read = convert.load_torch(written(exported, tmp_path), "hf", **known(trained))
    clips = np.random.default_rng(1).normal(size=(2, *trained.clip, 3)).astype(np.float32)
    apply = jax.jit(trained.model.apply)
    ours, theirs = (apply({"params": model.params}, clips) for model in (trained, read))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_folders_hold_what_the_model_was(tmp_path):
    trained = dataclasses.replace(small("mean"), class_names=tuple("abcde"))
    convert.write(trained, tmp_path / "out", "timm")
    read = convert.load(tmp_path / "out")
    assert (read.model, read.clip) == (trained.model, trained.clip)
    assert read.class_names == tuple("abcde")
    assert_same(read.params, trained.params)


def test_a_description_is_believed_only_of_its_own_file(tmp_path):
    convert.write(small("mean"), tmp_path / "out", "timm")
    other = convert.export(small("class"), "timm")
    files.write(tmp_path / "out" / "model.safetensors", other.state, None)
    assert about(files.read(tmp_path / "out")) is None
    with pytest.raises(ConvertError, match="norm_of='pooled' in the settings .* norm_of='tokens'"):
        convert.load(tmp_path / "out")  # that is what config.json says


def test_imported_checkpoints_are_read_like_runs(tmp_path):
    trained = small("mean_mvit")
    convert.save(trained, tmp_path / "a", "pyslowfast")
    for path in ("a", "a/checkpoints/0"):
        read = convert.load(tmp_path / path)
        assert (read.model, read.clip) == (trained.model, trained.clip)
        assert_same(read.params, trained.params)
    assert not pretrained.is_run(tmp_path / "a")
