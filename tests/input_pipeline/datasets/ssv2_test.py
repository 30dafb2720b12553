from __future__ import annotations

import json
from pathlib import Path

import pytest

from input_pipeline.bad_inputs import BadMedia, media_boundary
from input_pipeline.datasets.ssv2 import Ssv2
from tests.input_pipeline.video_samples import encode_video

NAMES = [f"Moving something {i} from left to right" for i in range(173)] + ["Folding something"]
PREFIX = "something-something-v2-"


def write(root: Path, **files) -> None:
    for name, content in files.items():
        (root / f"{PREFIX}{name}.json").write_text(json.dumps(content))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Annotations as they are distributed, with videos 1 and 2; 3 is missing."""
    table = {name: str(label) for label, name in reversed(list(enumerate(NAMES)))}
    records = [
        dict(id="2", label="folding a towel", template="Folding [something]", placeholders=["x"]),
        dict(id="1", label="", template="Moving [something] 10 from left to right"),
        dict(id="3", label="", template="Moving [something] 2 from left to right"),
    ]
    write(tmp_path, labels=table, train=records, validation=records[:1], test=[dict(id="1")])
    videos = tmp_path / "20bn-something-something-v2"
    videos.mkdir()
    for name in "12":
        data = encode_video(int(name), container="webm", codec="libvpx-vp9", deadline="realtime")
        (videos / f"{name}.webm").write_bytes(data)
    return tmp_path


def test_reads_annotations_and_videos(root):
    source = Ssv2("train", path=str(root))
    assert source.num_examples == 3
    assert source.class_names == tuple(NAMES)
    assert [source.read(i).label for i in range(3)] == [173, 10, 2]
    assert source.name_of(0) == str(root / "20bn-something-something-v2" / "2.webm")
    with source.read(0).data.open() as video:
        assert video.num_frames == 2
    with pytest.raises(BadMedia, match="missing"), media_boundary(), source.read(2).data.open():
        pass
    assert source.flippable is False


def test_splits(root):
    assert Ssv2("val", path=str(root)).num_examples == 1
    assert Ssv2("validation", path=str(root)).fingerprint == Ssv2("val", path=str(root)).fingerprint
    test = Ssv2("test", path=str(root))
    assert test.class_names is None
    assert test.read(0).label is None
    with pytest.raises(ValueError, match="split 'dev' is not one of train, val"):
        Ssv2("dev", path=str(root))


def test_short_names_in_a_folder_and_mp4_copies(root):
    fingerprint = Ssv2("train", path=str(root)).fingerprint
    (root / "labels").mkdir()
    for file in root.glob("*.json"):
        file.rename(root / "labels" / file.name.removeprefix(PREFIX))
    copies = root / "copies"
    copies.mkdir()
    (copies / "1.mp4").write_bytes(encode_video(4))
    source = Ssv2("train", path=str(root), videos=str(copies))
    assert source.name_of(1) == str(copies / "1.mp4")
    assert source.fingerprint == fingerprint
    (root / "20bn-something-something-v2").rename(root / "videos")
    assert Ssv2("train", path=str(root)).name_of(0) == str(root / "videos" / "2.webm")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (dict(labels={"a": "0"}), "labels.json holds 1 labels; expected 174, numbered from 0"),
        (dict(labels={n: str(i + 1) for i, n in enumerate(NAMES)}), "numbered from 0 to 173"),
        (dict(labels=NAMES), "labels.json: expected a table of labels, found"),
        (dict(train={}), "train.json: expected a list of records, found '{}'"),
        (dict(train=[]), r"train.json: expected a list of records, found '\[\]'"),
        (dict(train=[dict(id=7)]), "record 1: expected an id such as '78687', found 7"),
        (dict(train=["7"]), "record 1: expected an id"),
        (dict(train=[dict(id="../../etc/passwd")]), "record 1: expected an id"),
        (
            dict(train=[dict(id="1", template="Folding [something]")] * 2),
            "record 2: duplicate id 1",
        ),
        (
            dict(train=[dict(id="1", template="Folding things")]),
            r"record 1 \(id 1\): no label for template 'Folding things'",
        ),
        (dict(train=[dict(id="1")]), "no label for template 'None'"),
    ],
)
def test_invalid_annotations_are_explained(root, files, words):
    write(root, **files)
    with pytest.raises(ValueError, match=words):
        Ssv2("train", path=str(root))


def test_missing_files_are_explained(root, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(ValueError, match="hold neither something-something-v2-train.json nor"):
        Ssv2("train", path=str(empty))
    (root / f"{PREFIX}train.json").write_text("<html>")
    with pytest.raises(ValueError, match="train.json is not JSON"):
        Ssv2("train", path=str(root))
    with pytest.raises(ValueError, match=r"holds none of the first 1 videos, such as 2\.webm"):
        Ssv2("val", path=str(root), videos=str(empty))
