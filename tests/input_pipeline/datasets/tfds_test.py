from __future__ import annotations

import io
import os

import numpy as np
import pytest
from PIL import Image

from input_pipeline import EvalView, Loader, Tfds
from input_pipeline.datasets.tfds_convert import convert

tfds = pytest.importorskip("tensorflow_datasets")


class TinyPictures(tfds.core.GeneratorBasedBuilder):
    """Pictures of one grey each: example i has value 10 * i and class i % 3."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # it comes without a package of its own

    def _info(self):
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["ant", "bee", "cat"]),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        hidden = self._generate_examples(2, hidden=True)
        splits = {"train": self._generate_examples(12), "test": self._generate_examples(5)}
        return {**splits, "contest": hidden}

    def _generate_examples(self, count, hidden=False):
        for index in range(count):
            pixels = np.full((20, 31, 3), 10 * index, np.uint8)
            yield index, {"image": pixels, "label": -1 if hidden else index % 3}


def prepare(folder, file_format) -> str:
    tfds.disable_progress_bar()
    TinyPictures(data_dir=str(folder), file_format=file_format).download_and_prepare()
    return str(folder)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> str:
    return prepare(tmp_path_factory.mktemp("random_access"), "array_record")


@pytest.fixture(scope="module")
def tfrecord_dir(tmp_path_factory) -> str:
    return prepare(tmp_path_factory.mktemp("sequential"), "tfrecord")


def value_of(example) -> int:
    assert isinstance(example.data, bytes)  # as stored, not decoded
    return int(np.asarray(Image.open(io.BytesIO(example.data)))[0, 0, 0])


def test_reads_in_any_order(data_dir):
    source = Tfds("train", dataset="tiny_pictures", data_dir=data_dir)
    assert source.class_names == ("ant", "bee", "cat")
    assert source.num_examples == 12
    examples = [source.read(index) for index in (7, 0, *range(12))]
    assert examples[0] == examples[2 + 7]
    values = [value_of(example) for example in examples[2:]]
    assert sorted(values) == [10 * index for index in range(12)]
    assert [example.label for example in examples[2:]] == [value // 10 % 3 for value in values]
    assert source.name_of(7) == "tiny_pictures/train/7"


def test_a_split_whose_labels_are_hidden_has_none(data_dir):
    source = Tfds("contest", dataset="tiny_pictures", data_dir=data_dir)
    assert source.class_names is None
    assert source.read(0).label is None


def test_loads_a_part_of_a_split_in_threads(data_dir):
    source = Tfds("train[2:11]", dataset="tiny_pictures", data_dir=data_dir)
    loader = Loader(source, EvalView(size=16), batch_size=4, workers=3)
    batches = list(loader.eval_batches())
    valid = np.concatenate([batch["valid"] for batch in batches])
    values = np.concatenate([batch["video"][:, 0, 0, 0, 0] for batch in batches])[valid]
    whole = Tfds("train", dataset="tiny_pictures", data_dir=data_dir)
    assert values.tolist() == [value_of(whole.read(index)) for index in range(2, 11)]


def test_command_in_the_message_gives_random_access(tfrecord_dir, tmp_path):
    with pytest.raises(ValueError, match="does not support random access") as caught:
        Tfds("train", dataset="tiny_pictures", data_dir=tfrecord_dir)
    (command,) = (line for line in str(caught.value).splitlines() if "tfds_convert" in line)
    *_, version_dir, out_dir = command.split()
    convert(version_dir, out_dir)
    new_dir = os.path.dirname(os.path.dirname(out_dir))
    assert f"use data_dir={new_dir!r}" in str(caught.value)
    source = Tfds("train", dataset="tiny_pictures", data_dir=new_dir)
    values = [value_of(source.read(index)) for index in range(source.num_examples)]
    original = tfds.builder("tiny_pictures", data_dir=tfrecord_dir).as_dataset(split="train")
    assert values == [int(example["image"][0, 0, 0]) for example in original]


def test_conversion_refuses_what_it_cannot_convert(data_dir, tfrecord_dir, tmp_path):
    with pytest.raises(ValueError, match="not a prepared dataset"):
        convert(str(tmp_path), str(tmp_path / "out"))
    with pytest.raises(ValueError, match="stored as array_record"):
        convert(f"{data_dir}/tiny_pictures/1.0.0", str(tmp_path / "out"))


def test_fingerprint_tells_splits_apart(data_dir):
    fingerprints = {
        Tfds(split, dataset="tiny_pictures", data_dir=data_dir).fingerprint
        for split in ("train", "test", "train[:5]", "train")
    }
    assert len(fingerprints) == 3


def test_errors_are_explained(data_dir, tmp_path):
    with pytest.raises(ValueError, match=r"did you mean .*tiny_pictures"):
        Tfds(dataset="tiny_picture", data_dir=data_dir)
    with pytest.raises(ValueError, match="has no split 'val'; it has"):
        Tfds("val", dataset="tiny_pictures", data_dir=data_dir)
    with pytest.raises(ValueError, match=r"not prepared in .*; prepare it with"):
        Tfds(dataset="mnist", data_dir=str(tmp_path))
