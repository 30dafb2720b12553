"""Sharded checkpoints are read by their index, which must agree with its files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from maskfeat_jax import convert
from maskfeat_jax.convert import ConvertError, files
from tests.convert.models import assert_same, small

INDEX = "model.safetensors.index.json"


def shard(number):
    return f"model-{number:05d}-of-00003.safetensors"


@pytest.fixture
def sharded(tmp_path):
    """A folder as transformers saves large models, without the description of this package."""
    convert.write(small("class", without_key_bias=True), tmp_path / "whole", "hf")
    state = convert.export(small("class", without_key_bias=True), "hf").state
    folder, listed = tmp_path / "shards", {}
    folder.mkdir()
    for i in range(3):
        names = sorted(state)[i::3]
        files.write(folder / shard(i + 1), {name: state[name] for name in names}, None)
        listed |= dict.fromkeys(names, shard(i + 1))
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / "whole" / name).rename(folder / name)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": listed}))
    return folder


def relist(folder, change):
    """Changes the list of an index."""
    document = json.loads((folder / INDEX).read_text())
    change(document["weight_map"])
    (folder / INDEX).write_text(json.dumps(document))


@pytest.mark.parametrize("which", ["", INDEX])
def test_shards_are_read_as_one_file(which, sharded):
    read = convert.load(sharded / which)
    assert_same(read.params, small("class", without_key_bias=True).params)
    assert "3 shards" in read.report.found
    assert read.report.assumed == ()  # config.json is read as well


def test_an_index_of_another_name_is_found(sharded):
    (sharded / INDEX).rename(sharded / "weights.fp32.index.json")
    assert convert.load_torch(sharded).clip == (1, 48, 48)


def test_a_shard_alone_is_not_taken_for_the_model(sharded):
    with pytest.raises(ConvertError, match="is one shard of several; give its folder"):
        convert.load_torch(sharded / shard(2))
    (sharded / INDEX).unlink()
    with pytest.raises(ConvertError, match=r"3 shards, but not their index, \*\.index\.json"):
        convert.load_torch(sharded)


@pytest.mark.parametrize(
    "other", ["../x.safetensors", "/etc/passwd", "a/b", "a\\b", "..", "", 3, None]
)
def test_shards_are_in_the_same_folder(other, sharded):
    relist(sharded, lambda listed: listed.update({"classifier.bias": other}))
    with pytest.raises(ConvertError, match="classifier.bias' is in .*expected the name of a file"):
        convert.load_torch(sharded)


def test_a_missing_shard_is_named(sharded):
    (sharded / shard(3)).unlink()
    with pytest.raises(ConvertError, match=f"lists '{shard(3)}', which is missing; it has 13 of"):
        convert.load_torch(sharded)


def test_index_and_shards_have_the_same_tensors(sharded):
    relist(sharded, lambda listed: listed.update({"more.weight": shard(1)}))
    with pytest.raises(ConvertError, match=f"{shard(1)} lacks 'more.weight' .*against {INDEX}"):
        convert.load_torch(sharded)
    relist(sharded, lambda listed: listed.pop("more.weight"))
    tensors = files.read(sharded).tensors
    held = json.loads((sharded / INDEX).read_text())["weight_map"]
    second = {name: tensors[name].read() for name in held if held[name] == shard(2)}
    first = next(name for name in held if held[name] == shard(1))
    files.write(sharded / shard(2), second | {first: tensors[first].read()}, None)
    with pytest.raises(ConvertError, match=f"{shard(2)} also has '{first}'"):
        convert.load_torch(sharded)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not valid"),
        ("[]", "not an object"),
        ("{}", "weight_map"),
        ('{"weight_map": [1]}', "weight_map"),
        ('{"weight_map": {}}', "weight_map"),
        (f'{{"weight_map": {{"a": "{INDEX}"}}}}', "neither a safetensors file"),
    ],
)
def test_indices_that_are_none(text, words, sharded):
    (sharded / INDEX).write_text(text)
    with pytest.raises(ConvertError, match=words):
        convert.load_torch(sharded / INDEX)


@pytest.mark.parametrize("half", [np.float16])
def test_one_shard_of_one_is_a_file(half, tmp_path):
    state = {k: t.astype(half) for k, t in convert.export(small("class"), "timm").state.items()}
    files.write(tmp_path / "model-00001-of-00001.safetensors", state, None)
    assert convert.load_torch(tmp_path, heads=2).report.head == "classifier"
