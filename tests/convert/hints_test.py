"""Settings stored next to tensors are checked; invalid or contradicting ones are refused."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import pytest
import yaml

from maskfeat_jax import convert
from maskfeat_jax.convert import ConvertError, files
from maskfeat_jax.convert.files import Tensor
from maskfeat_jax.convert.hints import stored
from maskfeat_jax.convert.layouts import LAYOUTS
from maskfeat_jax.convert.source import find_source, infer_sections
from tests.convert.models import small


def hints_of(layout, documents=None, **wrapper):
    return stored(lambda: LAYOUTS[layout].hints(wrapper, documents or {}), "file")


def config(layout, **changes):
    document = LAYOUTS[layout].documents(small("class"))["config.json"]
    return {"config.json": {**document, **changes}}


def colours(mean, std):
    return {"preprocessor_config.json": {"image_mean": mean, "image_std": std}}


def cfg(**mvit):
    return {"cfg": yaml.safe_dump({"MVIT": mvit})}


def boxes(**detection):
    detection = {"ENABLE": True, **detection}
    return {"cfg": yaml.safe_dump({"MVIT": {"NUM_HEADS": 1}, "DETECTION": detection})}


@pytest.mark.parametrize(
    ("layout", "documents", "words"),
    [
        ("hf", config("hf", hidden_act="quick_gelu"), "hidden_act 'quick_gelu'"),
        ("hf", config("hf", model_type="vivit"), "model_type 'vivit'"),
        ("hf", config("hf", num_attention_heads="12"), "invalid heads '12'"),
        ("hf", config("hf", num_attention_heads=True), "invalid heads True"),
        ("hf", config("hf", image_size=None), "clip"),
        ("hf", config("hf", image_size=-3), "clip"),
        ("hf", config("hf", layer_norm_eps="abc"), "epsilon 'abc'"),
        ("hf", config("hf", id2label=3), "id2label: expected names of classes"),
        ("hf", colours("abc", [1, 1, 1]), "ormalise"),
        ("hf", colours(123, 1), "normalise"),
        ("hf", colours(0.5, 0), "normalise"),
        ("timm", config("timm", model_args={"act_layer": "quick_gelu"}), "act_layer"),
        ("timm", config("timm", model_args={"global_pool": "max"}), "global_pool 'max'"),
        ("timm", config("timm", model_args={"num_heads": 2.5}), "heads 2.5"),
        ("timm", config("timm", model_args=[3]), "cannot be read"),
        ("timm", config("timm", pretrained_cfg={"mean": 0.5, "std": 0.5}), "cannot be read"),
        ("timm", config("timm", pretrained_cfg={"mean": [1] * 4, "std": [1] * 4}), "ormalise"),
        (
            "pyslowfast",
            cfg(USE_FIXED_SINCOS_POS=True),
            "USE_FIXED_SINCOS_POS, which adds positions twice",
        ),
        ("pyslowfast", cfg(REL_POS_SPATIAL=True, RESIDUAL_POOLING=False), "RESIDUAL_POOLING"),
        ("pyslowfast", cfg(NUM_HEADS="x"), "heads 'x'"),
        ("pyslowfast", boxes(ALIGNED=False), "DETECTION.ALIGNED=False is not supported"),
        ("pyslowfast", boxes(ROI_XFORM_RESOLUTION=0), "invalid bins 0"),
        ("pyslowfast", cfg(POOL_KV_STRIDE_ADAPTIVE=3), "cannot be read"),
    ],
)
def test_invalid_documents_and_settings_are_refused(layout, documents, words):
    with pytest.raises(ConvertError, match=words):
        hints_of(layout, documents, **documents)


@pytest.mark.parametrize("nothing", [None, {}, []])
def test_empty_sections_tell_nothing(nothing):
    document = {"config.json": {"model_args": nothing, "pretrained_cfg": nothing}}
    assert hints_of("timm", document) == {}


@pytest.mark.parametrize("cfg", ["{", "[1, 2]", "a" * 99, "!!python/object/apply:os.system [ls]"])
def test_settings_that_are_none_tell_nothing(cfg):
    assert hints_of("pyslowfast", cfg=cfg) == {}


def test_settings_of_pyslowfast_tell_what_tensors_do_not():
    for name in ("mean_video", "mean_mvit", "maskfeat"):
        trained = small(name)
        found = hints_of("pyslowfast", **LAYOUTS["pyslowfast"].wrap({}, trained))
        encoder = trained.model.encoder
        assert (found["heads"], found["clip"]) == (encoder.heads, trained.clip)
        assert found["normalise"] == trained.normalise
        assert found.get("kv_stride") == getattr(encoder, "kv_stride", None)


def test_settings_of_boxes(tmp_path, monkeypatch):
    """PySlowFast's default divides sides by 16, whatever the tokens of an MViT are."""
    trained = small("boxes_mvit")
    path = tmp_path / "model.safetensors"
    files.write(path, convert.export(trained, "pyslowfast").state, None)
    bare = files.read(path)
    wrapper = LAYOUTS["pyslowfast"].wrap({}, trained)

    def read(**changes):
        cfg = yaml.safe_load(wrapper["cfg"])
        cfg["DETECTION"] |= changes
        told = dataclasses.replace(bare, wrapper={"cfg": yaml.safe_dump(cfg)})
        monkeypatch.setattr(files, "read", lambda path, ema: told)
        return convert.load_torch(path)

    assert read().model == trained.model
    assert read().report.assumed == ()
    assert read(ROI_XFORM_RESOLUTION=5).model.bins == 5
    assert read(ENABLE=False).report.head == "classifier"
    with pytest.raises(ConvertError, match=r"divided by 32 .*SCALE_FACTOR\), but a token has 16"):
        read(SPATIAL_SCALE_FACTOR=32)


def model_inferred(state, layout, **hints):
    tensors = {key: Tensor(t.shape, "F32", t.copy) for key, t in state.items()}
    return infer_sections(find_source(tensors, layout), hints)


def test_joint_positions_of_several_frames_are_not_guessed():
    state = convert.export(small("mean_video"), "mae_st").state
    for name in ("pos_embed_class", "pos_embed_spatial", "pos_embed_temporal"):
        del state[name]
    state["pos_embed"] = np.zeros((1, 1 + 8 * 196, 32), np.float32)
    assert model_inferred(state, "mae_st", heads=2)[2] == (16, 224, 224)
    state["pos_embed"] = np.zeros((1, 1 + 16 * 196, 32), np.float32)
    with pytest.raises(ConvertError, match=r"3136 positions: the length .* any of \[.*--clip"):
        model_inferred(state, "mae_st", heads=2)


def test_a_supervised_mvit_reads_its_class_token():
    for name, pool in (("class_mvit", "class"), ("mean_mvit", "mean")):
        state = convert.export(small(name), "pyslowfast").state
        assert model_inferred(state, "pyslowfast")[1]["pool"] == pool


def test_heads_of_an_mvit_are_those_of_its_tensors():
    state = convert.export(small("mean_mvit"), "pyslowfast").state
    with pytest.raises(ConvertError, match="heads=7, but the tensors have 1 heads"):
        model_inferred(state, "pyslowfast", heads=7)


def test_positions_that_are_in_no_file_need_the_clip():
    state = convert.export(small("mean_sinusoid"), "hf").state
    with pytest.raises(ConvertError, match=r"fixed positions are not stored in files.*--clip"):
        model_inferred(state, "hf", heads=2)


@pytest.mark.parametrize("shape", [(), (7,), (1, 7)])
@pytest.mark.parametrize("name", ["pos_embed", "patch_embed.proj.weight", "head.weight"])
def test_tensors_of_too_few_dimensions_are_refused(name, shape, tmp_path):
    state = convert.export(small("mean"), "timm").state
    state[name] = np.ones(shape, np.float32)
    files.write(tmp_path / "model.safetensors", state, None)
    with pytest.raises(ConvertError, match=r"model\.safetensors"):
        convert.load_torch(tmp_path, heads=2)


def test_names_from_strangers_are_escaped_and_cut(tmp_path):
    state = convert.export(small("mean"), "timm").state
    state["\x1b[31m" + "x" * 5000] = np.ones(1, np.float32)
    files.write(tmp_path / "model.safetensors", state, None)
    with pytest.raises(ConvertError, match=r"\\x1b\[31mx+$") as caught:
        convert.load_torch(tmp_path, heads=2)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("clip", "words"),
    [((0, 48, 48), "positive"), ((1, -48, 48), "positive"), ((1, 80000, 80000), "too many")],
)
def test_sizes_that_cannot_be_are_refused(clip, words):
    with pytest.raises(ConvertError, match=words):
        convert.resized(small("mean"), clip)


def test_folders_of_others_stay_as_they_are(tmp_path, monkeypatch):
    """An empty one is used, and is still there if writing fails; links are not followed."""
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "link").symlink_to(empty)
    with pytest.raises(ConvertError, match="already exists"):
        convert.write(small("mean"), tmp_path / "link", "timm")
    with monkeypatch.context() as patch:
        patch.setattr(files, "save_file", lambda *_, **__: json.loads("nothing"))
        with pytest.raises(ValueError, match="Expecting value"):
            convert.write(small("mean"), empty, "timm")
    assert sorted(os.listdir(tmp_path)) == ["empty", "link"]
    convert.write(small("mean"), empty, "timm")
    rights = {path.stat().st_mode & 0o777 for path in empty.iterdir()}
    assert len(rights) == 1
