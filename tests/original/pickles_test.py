"""Files of `torch.save`: nothing in them runs, what is around the tensors is told."""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import io
import json
import os
import resource
import sys
import types
import zipfile

import numpy as np
import pytest

from bench.faults.files import fuzz, pickles
from maskfeat_jax import convert
from maskfeat_jax.convert import ConvertError
from tests.convert.models import assert_same, small
from tests.faults.files_test import outcomes_of

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.original("torch")
KNOWN = {"heads": 2}


def tensors(name="mean", layout="timm"):
    state = convert.export(small(name), layout).state
    return {key: torch.from_numpy(np.array(value)) for key, value in state.items()}


@pytest.mark.parametrize("wrapping", pickles.WITH_TORCH)
def test_code_does_not_run(wrapping):
    jobs = [job for job in fuzz.jobs("pickles", 0) if job.file.startswith(f"{wrapping}, ")]
    assert outcomes_of(jobs[::3]) == {"clean stop": len(jobs[::3])}


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (pickles.Call(os.system, "true"), "posix.system"),
        (pickles.Call(getattr, str, "x"), "getattr"),
    ],
)
def test_what_a_pickle_asks_for_is_named(call, name, tmp_path):
    torch.save({"model": tensors(), "args": call}, tmp_path / "x.pth")
    with pytest.raises(ConvertError, match=r"x\.pth") as caught:
        convert.load_torch(tmp_path / "x.pth", **KNOWN)
    assert name in str(caught.value)
    assert "Nothing in it was run" in str(caught.value)


def rewritten(path, change, compression=zipfile.ZIP_STORED):
    """An archive with one member changed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    path.write_bytes(buffer.getvalue())


def test_bombs_do_not_go_off(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"model": {"cls_token": torch.zeros(1000)}}, path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rewritten(
        path,
        lambda name, data: bytes(300_000_000) if "/data/0" in name else data,
        zipfile.ZIP_DEFLATED,
    )
    assert path.stat().st_size < 1_000_000
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConvertError, match="compressed data"):
        convert.load_torch(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - max(before, after) < 50_000


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(10_000_000_000),
        torch.zeros(1).as_strided((100_000, 100_000), (0, 0)),
        torch.zeros(3, device="meta"),
        torch.eye(3).to_sparse(),
        torch.quantize_per_tensor(torch.zeros(3), 1.0, 0, torch.qint8),
    ],
    ids=["expanded", "strided", "meta", "sparse", "quantised"],
)
def test_tensors_that_are_not_what_they_seem_are_refused(tensor, tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"model": {**tensors(), "cls_token": tensor}}, path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConvertError, match=r"x\.pth"):
        convert.load_torch(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_many_views_of_few_numbers_are_refused(tmp_path):
    path, numbers = tmp_path / "x.pth", torch.zeros(1000, 1000)
    torch.save({"model": {f"blocks.{i}.norm1.weight": numbers for i in range(100)}}, path)
    with pytest.raises(ConvertError, match="its tensors overlap"):
        convert.load_torch(path)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_a_cut_file_is_told(kept, tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"model": tensors()}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ConvertError, match=r"x\.pth"):
        convert.load_torch(path)


def test_damaged_archives_are_refused_or_read_right(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"model": tensors()}, path)
    content = path.read_bytes()
    draws = np.random.default_rng(0)
    for count in [1, 2, 20] * 30:
        damaged = bytearray(content)
        for place in draws.integers(0, len(content), count):
            damaged[place] = draws.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(ConvertError):  # nothing else is raised
            read = convert.load_torch(path, **KNOWN)
            assert_same(read.params, small("mean").params)


def test_a_training_file_is_read_and_what_is_around_is_told(tmp_path):
    """As mae writes it: arguments in a namespace, the optimiser's state, the epoch."""
    path = tmp_path / "checkpoint-99.pth"
    state = {f"module.{name}": tensor for name, tensor in tensors("mae", "mae").items()}
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-3}]}
    torch.save(
        {
            "model": state,
            "optimizer": optimizer,
            "epoch": 99,
            "scaler": {},
            "args": argparse.Namespace(lr=1.0, model="mae_vit_base_patch16"),
        },
        path,
    )
    read = convert.load_torch(path, **KNOWN)
    assert_same(read.params, small("mae").params)
    assert read.report.layout == "mae"
    told = "\n".join(read.report.found)
    for words in ("under 'model'", "optimiser", "epoch 99", "prefix 'module.'"):
        assert words in told


def test_the_average_is_taken_unless_it_is_not_wanted(tmp_path):
    """As timm writes it."""
    path = tmp_path / "model_best.pth.tar"
    average = {name: tensor * 2 for name, tensor in tensors().items()}
    torch.save({"arch": "vit", "state_dict": tensors(), "state_dict_ema": average}, path)
    bias = small("mean").params["encoder"]["patch_embed"]["bias"]
    for ema, wanted in ((True, 2 * bias), (False, bias)):
        read = convert.load_torch(path, ema=ema, **KNOWN)
        np.testing.assert_array_equal(read.params["encoder"]["patch_embed"]["bias"], wanted)
        other = "'state_dict'" if ema else "'state_dict_ema'"
        assert f"not read: {other}" in read.report.found


class HistoryBuffer:
    """As that of mmengine: its training files hold objects of the program."""


def test_logs_of_openmmlab_are_refused_with_a_way_out(tmp_path, monkeypatch):
    path, name = tmp_path / "epoch_300.pth", "mmengine.logging.history_buffer"
    module = types.ModuleType(name)
    module.HistoryBuffer = HistoryBuffer
    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = name, "HistoryBuffer"
    with monkeypatch.context() as patched:
        for package in ("mmengine", "mmengine.logging", name):
            patched.setitem(sys.modules, package, module)
        torch.save({"state_dict": tensors("mean", "mmpretrain"), "hub": HistoryBuffer()}, path)
    with pytest.raises(ConvertError, match=r"mmengine\.logging.*save .*'state_dict'"):
        convert.load_torch(path)


@pytest.mark.parametrize(
    ("key", "name"),
    [("model_state_dict", "mean"), ("net", "class"), ("teacher", "features")],
)
def test_dictionaries_of_other_names_are_prefixes(key, name, tmp_path):
    state = torch.optim.Adam([torch.nn.Parameter(torch.zeros(3))]).state_dict()
    saved = {key: tensors(name, "timm"), "optim": state, "epoch": 3}
    torch.save(saved, tmp_path / "x.pth")
    read = convert.load_torch(tmp_path / "x.pth", **KNOWN)
    assert read.report.prefix == f"{key}."
    assert_same(read.params, small(name).params)


def test_of_a_student_and_a_teacher_one_must_be_named(tmp_path):
    saved = {"student": tensors("mean", "timm"), "teacher": tensors("class", "timm"), "epoch": 3}
    torch.save(saved, tmp_path / "x.pth")
    with pytest.raises(ConvertError, match=r"'student\.' .*'teacher\.' .*--prefix"):
        convert.load_torch(tmp_path / "x.pth", **KNOWN)
    read = convert.load_torch(tmp_path / "x.pth", prefix="teacher", **KNOWN)
    assert_same(read.params, small("class").params)
    torch.save({"model": saved["student"], "teacher": saved["teacher"]}, tmp_path / "x.pth")
    read = convert.load_torch(tmp_path / "x.pth", **KNOWN)
    assert "not read: 'teacher'" in read.report.found
    assert_same(read.params, small("mean").params)


def test_shards_of_torch_save(tmp_path):
    state = tensors("class", "timm")
    listed = {}
    for i in range(2):
        shard = f"pytorch_model-{i + 1:05d}-of-00002.bin"
        part = {name: state[name] for name in sorted(state)[i::2]}
        torch.save(part, tmp_path / shard)
        listed |= dict.fromkeys(part, shard)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": listed}))
    assert_same(convert.load_torch(tmp_path, **KNOWN).params, small("class").params)


def test_names_of_classes_in_the_file_of_mmpretrain(tmp_path):
    names = ("ant", "b", "c", os.fsdecode(b"caf\xe9"), "e")
    trained = dataclasses.replace(small("class"), class_names=names)
    convert.write(trained, tmp_path / "out", "mmpretrain")
    (tmp_path / "out" / "maskfeat_jax.json").unlink()
    assert convert.load_torch(tmp_path / "out", heads=2).class_names == names


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        ([1, 2], "holds a list"),
        ({}, "has no tensors; its keys are none"),
        ({"model": {}}, "has no tensors; its keys are 'model'"),
        ({"epoch": 3, "loss": 0.1}, "its keys are 'epoch', 'loss'"),
        ({"model": {"net": {"cls_token": torch.zeros(1, 1, 3)}}}, r"names like net\.cls_token"),
    ],
)
def test_files_without_tensors_say_what_they_have(saved, words, tmp_path):
    torch.save(saved, tmp_path / "x.pth")
    with pytest.raises(ConvertError, match=words):
        convert.load_torch(tmp_path / "x.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted_and_told(dtype, tmp_path):
    halves = {name: tensor.to(dtype) for name, tensor in tensors().items()}
    torch.save(collections.OrderedDict(halves), tmp_path / "x.pth")
    read = convert.load_torch(tmp_path / "x.pth", **KNOWN)
    assert f"converted to float32: {str(dtype).removeprefix('torch.')}" in read.report.found
    bias = halves["fc_norm.bias"].float().numpy()
    np.testing.assert_array_equal(read.params["norm"]["bias"], bias)


def test_parameters_that_require_gradients_and_transposed_views_are_read(tmp_path):
    state = tensors()
    state["head.weight"] = torch.nn.Parameter(state["head.weight"])
    state["blocks.0.mlp.fc1.weight"] = state["blocks.0.mlp.fc1.weight"].T.contiguous().T
    torch.save(state, tmp_path / "x.pth")
    assert_same(convert.load_torch(tmp_path / "x.pth", **KNOWN).params, small("mean").params)


def test_old_versions_of_torch_are_refused(tmp_path, monkeypatch):
    """Before 2.6, weights_only ran code (CVE-2025-32434); before 2.10 (CVE-2026-24747)."""
    torch.save(tensors(), tmp_path / "x.pth")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(ConvertError, match=r"torch 2\.5\.1\+cpu is not safe"):
        convert.load_torch(tmp_path / "x.pth")
