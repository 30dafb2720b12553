from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from input_pipeline.bad_inputs import BadMedia, media_boundary
from input_pipeline.datasets.folders import VideoFolder
from input_pipeline.datasets.video_lists import VideoList, read_list
from input_pipeline.decode.video import VideoFile
from tests.input_pipeline.video_samples import decode_all, encode_video, numbers_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Videos a.mp4, b c.mp4 and d,e.mkv of 5, 6 and 7 frames; nothing else."""
    (tmp_path / "sub").mkdir()
    for frames, name in ((5, "a.mp4"), (6, "sub/b c.mp4"), (7, "d,e.mkv")):
        container = "matroska" if name.endswith("mkv") else "mp4"
        (tmp_path / name).write_bytes(encode_video(frames, container=container))
    return tmp_path


def write(folder: Path, text: str | bytes, name: str = "train.csv") -> Path:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


@pytest.mark.parametrize(
    "text",
    [
        "a.mp4 0\nsub/b c.mp4 2\nd,e.mkv 1\n",
        "a.mp4,0\nsub/b c.mp4,2\nd,e.mkv,1",
        "a.mp4\t0\r\nsub/b c.mp4\t2\r\nd,e.mkv\t1\r\n",
        '\ufeffa.mp4 0\n\n# comment 5\n./sub/b c.mp4  2 \n"d,e.mkv", 1\n',
    ],
    ids=["space", "comma", "tab", "mixed"],
)
def test_lists_of_paths_and_labels(folder, text):
    write(folder, text)
    source = VideoList("train", path=str(folder))
    assert source.num_examples == 3
    assert source.class_names == ("0", "1", "2")
    assert [source.read(i).label for i in range(3)] == [0, 2, 1]
    assert source.name_of(1) == str(folder / "sub" / "b c.mp4")
    for index, frames in enumerate((5, 6, 7)):
        assert numbers_of(decode_all(source.read(index).data)) == list(range(frames))


@pytest.mark.parametrize(
    ("text", "labels"), [("a.mp4\nsub/b c.mp4\n", "auto"), ("a.mp4 3\nsub/b c.mp4 4\n", "none")]
)
def test_lists_without_labels(folder, text, labels):
    write(folder, text)
    source = VideoList("train", path=str(folder), labels=labels)
    assert source.class_names is None
    assert source.read(1).label is None
    assert source.name_of(1).endswith("b c.mp4")
    write(folder, "a.mp4 3\nsub/b c.mp4 4\n")
    assert VideoList("train", path=str(folder)).fingerprint != source.fingerprint


def test_splits_are_files_of_a_folder_or_replace_split_in_a_name(folder):
    write(folder, "a.mp4 0", "train.csv")
    write(folder, "d,e.mkv 1", "val.txt")
    write(folder, "d,e.mkv 1", "k400_val_list.txt")
    assert VideoList("val", path=str(folder)).name_of(0).endswith("d,e.mkv")
    pattern = str(folder / "k400_{split}_list.txt")
    assert VideoList("val", path=pattern).num_examples == 1
    with pytest.raises(ValueError, match="k400_train_list.txt is not a file"):
        VideoList("train", path=pattern)
    with pytest.raises(ValueError, match="holds no test.csv or test.txt"):
        VideoList("test", path=str(folder))
    # The list of the training set must not be evaluated on by mistake.
    with pytest.raises(
        ValueError, match=r'is a single list, which is the split \'train\'.*"{split}"'
    ):
        VideoList("val", path=str(folder / "train.csv"))


def test_paths_are_relative_to_a_root_or_absolute(folder, tmp_path_factory):
    lists = tmp_path_factory.mktemp("lists")
    write(lists, f"a.mp4 0\n{folder}/d,e.mkv 1\n")
    source = VideoList("train", path=str(lists), root=str(folder))
    assert source.name_of(0) == str(folder / "a.mp4")
    assert source.name_of(1) == str(folder / "d,e.mkv")
    with pytest.raises(ValueError, match=r"none of the first 1 files exists.*data\.root"):
        VideoList("train", path=str(write(lists, "b.mp4 0", "other.csv")))


def test_names_of_classes(folder):
    write(folder, "a.mp4 0\nd,e.mkv 2\n")
    names = write(folder, "running\nriding a bike\njumping\nsinging\n", "classes.txt")
    source = VideoList("train", path=str(folder), classes=str(names))
    assert source.class_names == ("running", "riding a bike", "jumping", "singing")
    assert VideoList("train", path=str(folder), classes=400).class_names[-1] == "399"
    with pytest.raises(ValueError, match="line 2: label 2; there are 2 classes, from 0"):
        VideoList("train", path=str(folder), classes=2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no entries; expected lines `path label`"),
        ("# only\n", "no entries"),
        ("a.mp4 0\n".encode("utf-16"), "UTF-16; save it as UTF-8"),
        ("path,label\na.mp4,0\nb.mp4,1\n", "line 1: expected `path label` with a whole number"),
        ("a.mp4 0\nb.mp4\nc.mp4 1\n", "line 2: expected `path label` with a whole number"),
        ("a.mp4 0\nb.mp4 1.5\nc.mp4 1\n", "line 2: expected `path label` with a whole number"),
        ("a.mp4\nb.mp4\nc.mp4 1\n", "line 3: expected a path without a label"),
        ("a.mp4 0\nb.mp4 9999999999\n", "line 2: expected `path label` with a whole number"),
        ("a.mp4 0\nb.mp4 -1\n", "line 2: label -1; expected 0 or more"),
        ("a.mp4 0\n 3\n", "line 2: expected a path before the label"),
        ("a.mp4 0\n,3\n", "line 2: expected a path before the label"),
        ("dir/a 300 0\ndir/b 250 1\n", "line 1: .*lists of frame folders"),
        ("a.mp4 0\nb\0.mp4 1\n", "line 2: NUL byte in the path"),
        ("a.mp4 0\n" + "x" * 10_000_000 + " 1\n", "line 2: a path of more than 4096 char"),
        ("a.mp4 0\nb.mp4 1\na.mp4 1\n", "line 3: a.mp4 has label 1, but 0 in line 1"),
    ],
)
def test_wrong_lines_are_named(tmp_path, text, words):
    with pytest.raises(ValueError, match=words) as caught:
        read_list(write(tmp_path, text))
    assert "train.csv" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_names_twenty_problems_at_once(tmp_path):
    good, bad = "a.mp4 1\n" * 30, "a.mp4 -1\n" * 25
    with pytest.raises(ValueError, match="has 25 invalid lines") as caught:
        read_list(write(tmp_path, good + bad))
    lines = str(caught.value).splitlines()
    assert len(lines) == 22
    assert lines[-1] == "  and 5 more"


PATHS = st.text(st.characters(blacklist_characters="\0\n\r", codec="utf-8"), min_size=1).map(
    lambda text: f"v{text}.mp4"
)


@given(
    st.lists(PATHS, min_size=1, max_size=9, unique=True),
    st.sampled_from(" ,\t"),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.booleans(),
)
def test_any_name_comes_out_as_it_went_in(tmp_path_factory, paths, separator, end, bom, labels):
    file = tmp_path_factory.getbasetemp() / "x.txt"
    rows = [f"{path}{separator}{i}" if labels else path for i, path in enumerate(paths)]
    file.write_bytes((("\ufeff" if bom else "") + end.join(rows)).encode())
    listed = read_list(file)
    assert listed.paths == paths
    assert (listed.labels is not None) == labels
    assert not labels or listed.labels.tolist() == list(range(len(paths)))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_list_or_an_error_with_words(tmp_path_factory, data):
    file = tmp_path_factory.getbasetemp() / "x.txt"
    file.write_bytes(data)
    try:
        listed = read_list(file)
    except ValueError as error:
        words = str(error)
    else:
        words = str(file)
        assert all(listed.paths)
        assert listed.labels is None or (listed.labels >= 0).all()
    assert str(file) in words


def test_bytes_that_are_no_text_name_files_too(tmp_path):
    name = os.fsdecode(b"\xff\xfea.mp4")
    (tmp_path / name).write_bytes(encode_video(2))
    (tmp_path / "train.csv").write_bytes(b"./\xff\xfea.mp4 0\n")
    assert len(decode_all(VideoList("train", path=str(tmp_path)).read(0).data)) == 2


def test_missing_videos_are_listed_and_bad_when_read(folder):
    write(folder, "a.mp4 0\ngone.mp4 1\n")
    source = VideoList("train", path=str(folder))
    assert source.num_examples == 2
    with pytest.raises(BadMedia, match="missing"), media_boundary(), source.read(1).data.open():
        pass


def test_fingerprint_depends_on_the_list_not_on_the_folder(folder, tmp_path_factory):
    write(folder, "a.mp4 0\nd,e.mkv 1\n")
    expected = VideoList("train", path=str(folder)).fingerprint
    elsewhere = tmp_path_factory.mktemp("lists")
    write(elsewhere, "# the same\na.mp4,0\nd,e.mkv,1\n")
    assert VideoList("train", path=str(elsewhere), root=str(folder)).fingerprint == expected
    for other in ("a.mp4 1\nd,e.mkv 1\n", "d,e.mkv 1\na.mp4 0\n", "a.mp4 0\n"):
        write(folder, other)
        assert VideoList("train", path=str(folder)).fingerprint != expected


def index_line(path: str, status: str = "ok", **facts) -> str:
    return json.dumps(dict(path=path, status=status, reason="", **facts)) + "\n"


def test_an_index_knows_frames_and_bad_videos(folder):
    write(folder, "a.mp4 0\nsub/b c.mp4 1\nd,e.mkv 2\n")
    index = index_line("a.mp4", num_frames=4, fps=12.5)
    index += index_line("sub/b c.mp4", "decode_error", num_frames=None, fps=None)
    write(folder, index, "index.jsonl")
    for source in (
        VideoList("train", path=str(folder)),
        VideoFolder("train", path=str(folder), index=str(folder / "index.jsonl")),
    ):
        assert source.num_examples == 3  # bad ones stay, to be counted
        names = [os.path.relpath(source.name_of(i), folder) for i in range(3)]
        assert source.read(names.index("a.mp4")).data == VideoFile(
            str(folder / "a.mp4"), num_frames=4, fps=12.5
        )
        assert source.read(names.index("d,e.mkv")).data == VideoFile(str(folder / "d,e.mkv"))
        with pytest.raises(BadMedia, match=r"decode_error.*according to the index"):
            source.read(names.index("sub/b c.mp4"))


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"status": "ok"}', "3"])
def test_a_wrong_index_is_named(folder, line):
    write(folder, index_line("a.mp4") + line + "\n", "index.jsonl")
    with pytest.raises(ValueError, match=r"index\.jsonl, line 2: expected a JSON object"):
        VideoFolder("train", path=str(folder))


def test_a_bare_folder_of_videos(folder):
    (folder / "notes.txt").touch()
    (folder / "x.gif").touch()
    os.mkfifo(folder / "pipe.mp4")
    source = VideoFolder(path=str(folder))
    names = [os.path.relpath(source.name_of(i), folder) for i in range(source.num_examples)]
    assert names == ["a.mp4", "d,e.mkv", "sub/b c.mp4"]
    assert source.class_names is None
    assert source.read(2).label is None
    with source.read(2).data.open() as video:
        assert video.num_frames == 6
    (folder / "sub" / "b c.mp4").unlink()
    (folder / "sub" / "x.gif").touch()
    with pytest.raises(ValueError, match=r"holds no videos; 1 other file left out: \.gif 1$"):
        VideoFolder(path=str(folder / "sub"))
