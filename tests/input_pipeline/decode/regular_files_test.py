from __future__ import annotations

import os
import socket

import pytest

from input_pipeline import EvalView, ImageFolder, Loader
from input_pipeline.bad_inputs import BadMedia
from input_pipeline.datasets.media import OneFile, open_media
from input_pipeline.decode.regular_files import read_regular
from tests.input_pipeline.samples import encode, picture


@pytest.fixture
def images(tmp_path):
    """One image among links to what never ends or never begins."""
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "0.jpg").write_bytes(encode(picture(0)))
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as ear:
        ear.bind(str(tmp_path / "socket"))
    targets = (tmp_path / "pipe", "/dev/zero", "/dev/full", tmp_path / "socket", tmp_path / "gone")
    for number, target in enumerate(targets, 1):
        (folder / f"{number}.jpg").symlink_to(target)
    return folder


def test_links_to_pipes_and_devices_are_bad_inputs(images):
    loader = Loader(ImageFolder(path=str(images)), EvalView(size=16), batch_size=1)
    kinds = [loader.load(0, index).problem for index in range(loader.source.num_examples)]
    assert [problem and problem.kind for problem in kinds] == [
        None,
        "not_media",
        "not_media",
        "not_media",
        "unreadable",
        "missing",
    ]


def test_for_features_too(images):
    assert open_media(str(images / "0.jpg")) == (images / "0.jpg").read_bytes()
    with pytest.raises(BadMedia, match="not a regular file"):
        open_media(str(images / "1.jpg"))
    with pytest.raises(ValueError, match="no such file"):
        OneFile(images / "1.jpg")


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(bytes(10))
    assert read_regular(str(path), 10) == bytes(10)
    with pytest.raises(BadMedia, match="too_large: 10 bytes, the limit is 9"):
        read_regular(str(path), 9)
    os.truncate(path, 1 << 40)
    with pytest.raises(BadMedia, match="too_large"):
        read_regular(str(path))
