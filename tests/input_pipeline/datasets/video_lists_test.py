from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from input_pipeline.bad_inputs import BadMedia, media_boundary
from input_pipeline.datasets.folders import VideoFolder
from input_pipeline.datasets.media import MediaList
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
    "text",
    [
        '"a.mp4","0"\n"sub/b c.mp4","2"\n"d,e.mkv","1"\n',
        '"a.mp4";0\n"sub/b c.mp4";2\n"d,e.mkv";1\n',
        "a.mp4 0.0\nsub/b c.mp4 2.0\nd,e.mkv 1.0\n",
        "a.mp4;0\nsub/b c.mp4;2\nd,e.mkv;1\n",
        "a.mp4|0\nsub/b c.mp4 | 2\nd,e.mkv|1\n",
        "a.mp4,0,\nsub/b c.mp4,2,\nd,e.mkv,1,\n",
        "a.mp4\xa00\nsub/b c.mp4\xa02\nd,e.mkv\xa01\xa0\n",
        "0 a.mp4\n2 sub/b c.mp4\n1 d,e.mkv\n",
        "0,a.mp4\r\n2,sub/b c.mp4\r\n1,d,e.mkv\r\n",
        "a.mp4 0\rsub/b c.mp4 2\rd,e.mkv 1\r",
        "path,label\na.mp4,0\nsub/b c.mp4,2\nd,e.mkv,1\n",
        "# made by hand\nlabel path\n0 a.mp4\n2 sub/b c.mp4\n1 d,e.mkv\n",
        ',video_path,label\n7,a.mp4,0\n8,sub/b c.mp4,2\n9,"d,e.mkv",1\n',
        "a.mp4 0\nsub/b c.mp4 2\nd,e.mkv 1\n".encode("utf-16"),
    ],
)
def test_forms_of_the_field(folder, text):
    source = VideoList("train", path=str(write(folder, text)))
    names = [os.path.relpath(source.name_of(i), folder) for i in range(source.num_examples)]
    assert names == ["a.mp4", "sub/b c.mp4", "d,e.mkv"]
    assert [source.read(i).label for i in range(3)] == [0, 2, 1]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("#20_clap.avi 0\nb.avi 1\n", ["#20_clap.avi", "b.avi"]),
        ("#20_clap.avi 0\n# gone.avi 1\n#\nb.avi 1\n", ["#20_clap.avi", "b.avi"]),
        ("# 3.avi 0\nb.avi 1\n", ["# 3.avi", "b.avi"]),  # a file, so not a comment
        ("#20_clap.avi\nb.avi\n# gone.avi\n", ["#20_clap.avi", "b.avi"]),
        ("#gone.avi 1\nb.avi 1\n", ["#gone.avi", "b.avi"]),  # counted as missing when read
        ("12 monkeys.avi\n13 apes.avi\n", ["12 monkeys.avi", "13 apes.avi"]),
        ("12 monkeys.avi 3\n13 apes.avi 0\n", ["12 monkeys.avi", "13 apes.avi"]),
        ("clip 1\nclip 2\n", ["clip 1", "clip 2"]),
        ("clip 1 0\nclip 2 4\n", ["clip 1", "clip 2"]),
        ("b.avi,\n12 monkeys.avi,\n", ["b.avi", "12 monkeys.avi"]),
        ("comma,\nb.avi\n", ["comma,", "b.avi"]),
    ],
)
def test_a_file_that_exists_settles_what_is_a_path(tmp_path, text, names):
    for name in ("#20_clap.avi", "b.avi", "# 3.avi", "12 monkeys.avi", "13 apes.avi"):
        (tmp_path / name).touch()
    for name in ("clip 1", "clip 2", "comma,"):
        (tmp_path / name).touch()
    assert read_list(write(tmp_path, text), str(tmp_path)).paths == names


@pytest.mark.parametrize("labels", ["auto", "none"])
@pytest.mark.parametrize("text", ["a.mp4 0 -1\nsub/b c.mp4 0 -1\n", "a.mp4,-1\nsub/b c.mp4,-1\n"])
def test_labels_of_minus_one_are_none(folder, text, labels):
    source = VideoList("train", path=str(write(folder, text)), labels=labels)
    assert source.class_names is None
    assert [source.name_of(i) for i in range(2)] == [f"{folder}/a.mp4", f"{folder}/sub/b c.mp4"]


@pytest.mark.parametrize(
    "text",
    [
        "a.mp4 0\nd,e.mkv -1\n",
        "a.mp4 300 7\nd,e.mkv 90 0\n",
        "a.mp4 1\nd,e.mkv 2\n",
        "a.mp4 running\nb.mp4 jumping\n",
        '"a.mp4",riding a bike\n"d,e.mkv",running\n',
        'path,label\na.mp4,riding a bike\n"d,e.mkv",running\n',
        "label,path,end\nriding a bike,a.mp4,3\n7,b.mp4,4\n",
        "path,label\na.mp4,7\nd,e.mkv,-1\n",
        "path,class,label\na.mp4,running,7\nb.mp4,jumping,8\n",
    ],
)
def test_labels_that_are_not_wanted_may_be_anything(folder, text):
    listed = read_list(write(folder, text), str(folder), labelled=False)
    assert listed.paths in (["a.mp4", "d,e.mkv"], ["a.mp4", "b.mp4"])
    assert listed.labels is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "a.mp4 running\n",
            "line 1, 'a.mp4 running', was understood as the path 'a.mp4 running' and "
            "no label; expected `path label` with a whole number",
        ),
        (
            "7,a.mp4,3\n8,b.mp4,0\n",
            "line 1, '7,a.mp4,3', was understood as the path '7,a.mp4' and the label 3; expected",
        ),
        (
            "x.mp4 3\n",
            "none of the first 1 files exists, such as .*x.mp4: line 1, 'x.mp4 3', was "
            "understood as the path 'x.mp4' and the label 3; set root",
        ),
        (
            "a.mp4 1\n3 d,e.mkv\n",
            "such as 'a.mp4 1' and .* such as '3 d,e.mkv', as the files exist",
        ),
        ("a.mp4 1\na.mp4 1\n3 d,e.mkv\n", "line 3: expected `path label` .*found '3 d,e.mkv'"),
        (
            "a.mp4 300 7\nb.mp4 90 0\n",
            "line 1: .*more numbers.*which one is the label is not known",
        ),
        ("path,label,class_id\na.mp4,ant,0\n", "names 1 columns of paths and 2 of labels"),
        ("path,split,label\na.mp4,train,0\nd,e.mkv,train,1\n", "line 3: expected the columns"),
        ("path,split,label\na.mp4,train,0\nb.mp4,val,1\n", "the splits .'train', 'val'.; write a"),
        ("path\na.mp4\nb.mp4 1\n", "line 3: expected a path without a label"),
        ("path,label\na.mp4,ant\n", "line 2: expected `path label` with a whole number"),
        ("sub 3 -1\n", "the path 'sub' and no label; .* lists of frame folders are not supported"),
        ("a.mp4 0\nb.mp4 999999999\n", "line 2: label 999999999; there are 1000000 classes"),
        ("a.mp4 0\n./a.mp4 1\n", "line 2: a.mp4 has label 1, but 0 in line 1"),
        ("a.mp4 0\nx 3 1\n", "line 2: .*more numbers: 'x 3 1'; if .*missing file.*double quotes"),
        ('a.mp4 0\n"x" 3 1\n', "line 2: .*more numbers: '\"x\" 3 1'"),
        ("a.mp4\nx 3\n", "line 2: expected a path without a label, .*missing file.*double quotes"),
        ("a.mp4 0\n#note\n", "line 2: .*a comment starts with # and a space"),
        ("a.mp4 0\rd,e.mkv 1\na.mp4 0\n", "line 1: carriage return in the line"),
        ("5 5\n", "forms `path label` .* and `label path` .*with paths in double quotes"),
    ],
)
def test_what_is_not_clear_is_an_error(folder, text, words):
    (folder / "5").touch()
    with pytest.raises(ValueError, match=words):
        VideoList("train", path=str(write(folder, text)))


def test_quotes_settle_what_is_a_path(tmp_path):
    (tmp_path / "a.mp4").touch()
    labelled = read_list(write(tmp_path, 'a.mp4 0\n"x 3" 1\n'), str(tmp_path))
    assert labelled.paths == ["a.mp4", "x 3"]
    assert labelled.labels is not None
    assert labelled.labels.tolist() == [0, 1]
    assert read_list(write(tmp_path, 'a.mp4\n"x 3"\n'), str(tmp_path)).paths == ["a.mp4", "x 3"]


def test_labels_from_one_leave_class_0_empty(folder):
    write(folder, "a.mp4 1\nsub/b c.mp4 3\nd,e.mkv 2\n")
    words = "label 0 is empty: the labels are 1 to 3, they seem to start at 1"
    with pytest.raises(ValueError, match=f"{words}; subtract 1.* set classes .*, 4"):
        VideoList("train", path=str(folder))
    with pytest.raises(ValueError, match=f"line 2: label 3; there are 3 classes, from 0 .{words}"):
        VideoList("train", path=str(folder), classes=3)
    assert len(VideoList("train", path=str(folder), classes=4).class_names) == 4
    assert MediaList(path=str(folder)).read(0).label == 1  # labels of features
    write(folder, "a.mp4 1\nsub/b c.mp4 4\nd,e.mkv 2\n")  # a part of a dataset
    assert len(VideoList("train", path=str(folder)).class_names) == 5


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("a.mp4\nsub/b c.mp4\n", "auto"),
        ("path\na.mp4\nsub/b c.mp4\n", "auto"),
        ("a.mp4 3\nsub/b c.mp4 4\n", "none"),
    ],
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
    with pytest.raises(ValueError, match=r"none of the first 1 files exists.*set root"):
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
        ("a.mp4 0\n".encode("utf-16")[:-1], "not valid UTF-16 .*; save it as UTF-8"),
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
        read_list(write(tmp_path, text), str(tmp_path))
    assert "train.csv" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_names_twenty_problems_at_once(tmp_path):
    good, bad = "a.mp4 1\n" * 30, "a.mp4 -1\n" * 25
    with pytest.raises(ValueError, match="has 25 invalid lines") as caught:
        read_list(write(tmp_path, good + bad), str(tmp_path))
    lines = str(caught.value).splitlines()
    assert len(lines) == 22
    assert lines[-1] == "  and 5 more"


PATHS = st.text(st.characters(blacklist_characters="\0\n\r", codec="utf-8"), min_size=1).map(
    lambda text: f"v{text}.mp4"
)


@example(["v//.mp4"], " ", "\n", False, True)
@given(
    st.lists(PATHS, min_size=1, max_size=9, unique_by=os.path.normpath),
    st.sampled_from(" ,\t"),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.booleans(),
)
def test_any_name_comes_out_as_it_went_in(tmp_path_factory, paths, separator, end, bom, labels):
    file = tmp_path_factory.getbasetemp() / "x.txt"
    rows = [f"{path}{separator}{i}" if labels else path for i, path in enumerate(paths)]
    file.write_bytes((("\ufeff" if bom else "") + end.join(rows)).encode())
    listed = read_list(file, str(file.parent))
    assert listed.paths == paths
    assert (listed.labels is not None) == labels
    assert not labels or listed.labels.tolist() == list(range(len(paths)))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_list_or_an_error_with_words(tmp_path_factory, data):
    file = tmp_path_factory.getbasetemp() / "x.txt"
    file.write_bytes(data)
    try:
        listed = read_list(file, str(file.parent))
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


def index_line(file: Path, status: str = "ok", **facts) -> str:
    """The entry of a file in the folder of the index, as it is now."""
    stat = file.stat()
    entry = dict(path=file.name, status=status, reason="", num_frames=None, fps=None)
    return (
        json.dumps({**entry, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, **facts}) + "\n"
    )


def test_an_index_knows_frames_and_bad_videos(folder):
    write(folder, "a.mp4 0\nsub/b c.mp4 1\nd,e.mkv 2\n")
    index = index_line(folder / "a.mp4", num_frames=4, fps=12.5)
    index += index_line(folder / "sub/b c.mp4", "decode_error", path="sub/b c.mp4")
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


def test_an_index_holds_for_absolute_paths(folder):
    write(folder, f"{folder}/a.mp4 0\nd,e.mkv 1\n")
    write(folder, index_line(folder / "a.mp4", num_frames=4, fps=12.5), "index.jsonl")
    assert VideoList("train", path=str(folder)).read(0).data.num_frames == 4


def test_an_index_of_another_folder_is_noticed(folder):
    write(folder, "a.mp4 0\nd,e.mkv 1\n")
    write(folder, index_line(folder / "a.mp4", path="x/a.mp4"), "index.jsonl")
    words = r"index\.jsonl holds none of these videos, .* relative to .*, but are such as x/a\.mp4"
    with pytest.warns(RuntimeWarning, match=words):
        VideoList("train", path=str(folder))
    with pytest.warns(RuntimeWarning, match=words):
        source = VideoFolder("train", path=str(folder))
    assert source.read(0).data == VideoFile(str(folder / "a.mp4"))


@pytest.mark.parametrize("line", ["\x80", "{", "[]", "{}", '{"status": "ok"}', "3"])
def test_a_wrong_index_is_named(folder, line):
    text = index_line(folder / "a.mp4") + line + "\n"
    write(folder, text.encode("latin-1"), "index.jsonl")
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
