"""Image datasets of TensorFlow Datasets, by name."""

from __future__ import annotations

import difflib
import os
from typing import Any

from input_pipeline.source import Example, fingerprint

_SOURCES = (
    "  python -c \"import tensorflow_datasets as tfds; tfds.builder('{dataset}', "
    "data_dir='{data_dir}', file_format='array_record').download_and_prepare()\""
)
_CONVERT = "  python -m input_pipeline.datasets.tfds_convert {version_dir} {data_dir}/{full_name}"


class Tfds:
    """A prepared dataset with one image and at most one class label in each example.

    Examples are read in random order, so the dataset must have been prepared as array_record;
    images are returned as the stored bytes. Nothing is downloaded.
    """

    def __init__(self, split: str = "train", *, dataset: str, data_dir: str | None = None):
        """Opens the dataset.

        Args:
          split: its name in TensorFlow Datasets, or a slice such as "train[:10%]".
          dataset: such as "imagenet2012" or "cifar10:3.0.2".
          data_dir: folder of the prepared dataset; None means the default of TensorFlow Datasets.

        Raises:
          ValueError: no such dataset or split, not prepared, prepared without random access, or not
            a dataset of images. The message contains the command to run.
          ImportError: tensorflow_datasets is not installed.
        """
        import tensorflow_datasets as tfds  # here, as other sources do not need it

        import input_pipeline.tf_data  # noqa: F401 (hides accelerators from TensorFlow)

        self._dataset, self._split = dataset, split
        builder = _find(tfds, dataset, data_dir)
        image, label = _features_of(tfds, dataset, builder.info.features)
        try:
            info = builder.info.splits[split]
        except (KeyError, ValueError):
            splits = ", ".join(builder.info.splits)
            raise ValueError(f"{dataset} has no split {split!r}; it has {splits}") from None
        try:
            decoders = {image: tfds.decode.SkipDecoding()}
            self._examples = builder.as_data_source(split, decoders=decoders)
        except NotImplementedError:
            raise ValueError(_not_random_access(builder, dataset)) from None
        self._image, self._label = image, label
        self.num_examples = len(self._examples)
        if label is not None and self.num_examples and self._examples[0][label] < 0:
            label = self._label = None  # -1: a split for a contest, without its labels
        names = None if label is None else builder.info.features[label].names
        self.class_names = None if names is None else tuple(names)
        identity = [builder.info.full_name, split, *map(str, info.shard_lengths), *(names or ())]
        self.fingerprint = fingerprint(text.encode() for text in identity)

    def name_of(self, index: int) -> str:
        """A name such as "cifar10/train/17": the index in the prepared files, which is stable."""
        return f"{self._dataset}/{self._split}/{index}"

    def read(self, index: int) -> Example:
        """The stored bytes of the image and its class."""
        example = self._examples[index]
        label = None if self._label is None else int(example[self._label])
        return Example(example[self._image], label)


def _find(tfds, dataset: str, data_dir: str | None) -> Any:
    try:
        builder = tfds.builder(dataset, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        near = difflib.get_close_matches(dataset, tfds.list_builders(), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"TensorFlow Datasets has no dataset {dataset!r}{hint}") from None
    if not builder.info.splits:
        root = data_dir or "~/tensorflow_datasets"
        command = _SOURCES.format(dataset=dataset, data_dir=root)
        raise ValueError(f"{dataset} is not prepared in {root}; prepare it with\n{command}")
    return builder


def _features_of(tfds, dataset: str, features) -> tuple[str, str | None]:
    """The names of the image and of the label among the features of an example."""
    images = [name for name, kind in features.items() if isinstance(kind, tfds.features.Image)]
    labels = [name for name, kind in features.items() if isinstance(kind, tfds.features.ClassLabel)]
    if len(images) != 1:
        raise ValueError(f"{dataset}: expected one image in each example, found {features}")
    if len(labels) > 1:
        if "label" not in labels:
            raise ValueError(f"{dataset} has several labels, but none named 'label': {features}")
        labels = ["label"]
    return images[0], labels[0] if labels else None


def _not_random_access(builder, dataset: str) -> str:
    version_dir = str(builder.data_dir)
    root = version_dir.removesuffix(builder.info.full_name).rstrip(os.sep)
    data_dir = f"{root}_array_record"
    sources = _SOURCES.format(dataset=dataset, data_dir=data_dir)
    convert = _CONVERT.format(
        version_dir=version_dir, data_dir=data_dir, full_name=builder.info.full_name
    )
    stored = builder.info.file_format.value
    return (
        f"{dataset} in {version_dir} is stored as {stored}, which does not support random access. "
        f"Convert it with\n{convert}\n"
        f"or prepare it again from its sources with\n{sources}\nthen use data_dir={data_dir!r}"
    )
