"""Names of classes are written and read where a layout has them; malformed ones are refused."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest

from maskfeat_jax import convert
from maskfeat_jax.convert import ConvertError
from maskfeat_jax.convert.hints import stored
from maskfeat_jax.convert.layouts import LAYOUTS
from tests.convert.models import small

NAMES = ("ant", "b, c", "caf\u00e9 \U0001f41d", os.fsdecode(b"caf\xe9"), "line\u2028break")


def written(folder, layout, name="class", names=NAMES):
    """A folder of another program: without the description of this package."""
    trained = small(name, without_key_bias=layout == "hf")
    convert.write(dataclasses.replace(trained, class_names=names), folder, layout)
    (folder / "maskfeat_jax.json").unlink()
    return folder


def rewritten(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


@pytest.mark.parametrize("layout", ["timm", "hf"])
@pytest.mark.parametrize("name", ["class", "mean"])
def test_names_go_there_and_back(name, layout, tmp_path):
    folder = written(tmp_path / "out", layout, name)
    assert convert.load_torch(folder).class_names == NAMES
    text = (folder / "config.json").read_bytes()
    assert b"\\udce9" in text  # ASCII, whatever the names are
    document = json.loads(text)
    if layout == "hf":
        assert document["id2label"]["1"] == "b, c"
        assert document["label2id"]["b, c"] == 1
        assert document["num_labels"] == 5
    else:
        assert document["label_names"][1] == "b, c"
        assert document["num_classes"] == 5


def test_names_go_into_the_file_of_mmpretrain():
    """As its versions 1 and 0 read them."""
    layout = LAYOUTS["mmpretrain"]
    trained = dataclasses.replace(small("class"), class_names=NAMES)
    saved = layout.wrap({}, trained)
    assert saved["meta"]["dataset_meta"]["classes"] == list(NAMES)
    assert saved["meta"]["CLASSES"] == list(NAMES)
    assert layout.hints(saved, {}) == {"class_names": NAMES}
    for meta in ({"CLASSES": NAMES}, {"dataset_meta": {"CLASSES": NAMES}}):
        assert layout.hints({"meta": meta}, {}) == {"class_names": NAMES}
    assert layout.wrap({}, small("class"))["meta"] == {}


@pytest.mark.parametrize("meta", [3, {"CLASSES": 3}, {"CLASSES": [[1]]}, {"dataset_meta": "x"}])
def test_meta_data_that_is_none_is_refused(meta):
    with pytest.raises(ConvertError, match=r"meta: classes|cannot be read"):
        stored(lambda: LAYOUTS["mmpretrain"].hints({"meta": meta}, {}), "file")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ({"4": "e", "0": "a", "2": "c", "1": "b", "3": "d"}, tuple("abcde")),
        ({str(k): f"LABEL_{k}" for k in range(5)}, None),
        ({str(k): k + 1 for k in range(5)}, tuple("12345")),
        (list("abcde"), tuple("abcde")),
        (None, None),
        ({}, None),
    ],
)
def test_labels_are_read_in_the_order_of_their_numbers(labels, names, tmp_path):
    folder = rewritten(written(tmp_path / "out", "hf"), id2label=labels)
    assert convert.load_torch(folder).class_names == names


@pytest.mark.parametrize("labels", [dict(enumerate("abcde")), list("abcde")])
@pytest.mark.parametrize("where", ["label_names", "pretrained_cfg"])
def test_labels_of_timm_are_read(where, labels, tmp_path):
    folder = rewritten(written(tmp_path / "out", "timm", names=None))
    assert convert.load_torch(folder).class_names is None
    value = {"label_names": labels} if where == "pretrained_cfg" else labels
    assert convert.load_torch(rewritten(folder, **{where: value})).class_names == tuple("abcde")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("abcde", "id2label: expected names of classes"),
        (5, "id2label: expected names of classes"),
        ({"0": None, "1": "b", "2": "c", "3": "d", "4": "e"}, "id2label: expected names"),
        ({"0": ["a"], "1": "b", "2": "c", "3": "d", "4": "e"}, "id2label: expected names"),
        ({"a": "0", "b": "1"}, "id2label: expected a name for each class number from 0"),
        ({str(k): "x" for k in range(1, 6)}, "id2label: expected a name for each class number"),
        ({"0": "a", "00": "b"}, "id2label: expected a name for each class number"),
        ({"0": "a", "1": "b"}, "2 names of classes, but the tensors are for 5"),
    ],
)
def test_malformed_labels_are_refused(labels, words, tmp_path):
    folder = rewritten(written(tmp_path / "out", "hf"), id2label=labels)
    with pytest.raises(ConvertError, match=words):
        convert.load_torch(folder)


def test_names_can_be_given(tmp_path):
    folder = written(tmp_path / "out", "timm", names=None)
    assert convert.load_torch(folder, class_names=NAMES).class_names == NAMES
    with pytest.raises(ConvertError, match="2 names of classes, but the tensors are for 5"):
        convert.load_torch(folder, class_names=("a", "b"))
    with pytest.raises(ConvertError, match="invalid class_names"):
        convert.load_torch(folder, class_names="abcde")


def test_an_encoder_has_no_names(tmp_path):
    folder = written(tmp_path / "out", "hf", "features")
    assert convert.load_torch(rewritten(folder, id2label={"0": "a", "1": "b"})).class_names is None


@pytest.mark.parametrize(
    ("layout", "name", "text", "words"),
    [
        ("hf", "config.json", "{", r"config\.json is not valid .*correct it, or move it away"),
        ("hf", "config.json", "[1]", "not an object"),
        ("hf", "config.json", "\xff", r"config\.json is not valid"),
        ("hf", "preprocessor_config.json", '{"rescale_factor": 1}', "pixels are divided by 255"),
        ("hf", "preprocessor_config.json", '{"do_rescale": false}', "pixels are divided by 255"),
        ("hf", "preprocessor_config.json", '{"rescale_factor": "x"}', "cannot be read"),
        ("timm", "config.json", '{"model_args": "x"}', "cannot be read"),
        ("timm", "config.json", '{"label_names": "x"}', "label_names: expected names"),
        ("timm", "config.json", '{"pretrained_cfg": [1]}', "cannot be read"),
    ],
)
def test_malformed_documents_are_refused(layout, name, text, words, tmp_path):
    folder = written(tmp_path / "out", layout)
    (folder / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(ConvertError, match=words):
        convert.load_torch(folder, heads=2)


def test_pixels_that_are_not_normalised(tmp_path):
    folder = written(tmp_path / "out", "hf")
    (folder / "preprocessor_config.json").write_text('{"do_normalize": false, "image_mean": 0.5}')
    normalise = convert.load_torch(folder).normalise
    assert (normalise.mean, normalise.std) == ((0.0,) * 3, (1.0,) * 3)
