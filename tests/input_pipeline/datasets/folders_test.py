from __future__ import annotations

import os
from pathlib import Path

import pytest

from input_pipeline import ImageFolder
from input_pipeline.datasets import VideoFolder, folders
from input_pipeline.datasets.media import MediaFolder
from input_pipeline.decode.images import open_picture
from input_pipeline.source import LeftOut
from tests.input_pipeline.samples import encode, picture
from tests.input_pipeline.video_samples import encode_video


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_class_folders_of_a_split(tree):
    source = ImageFolder("train", path=str(tree))
    assert source.class_names == ("ant", "bee", "cat")
    assert source.num_examples == 12
    assert [source.read(index).label for index in range(12)] == [0] * 4 + [1] * 4 + [2] * 4
    assert source.name_of(5) == str(tree / "train" / "bee" / "1.jpg")
    assert source.read(5).data == (tree / "train" / "bee" / "1.jpg").read_bytes()
    assert ImageFolder("val", path=str(tree)).num_examples == 6


def test_classes_and_files_are_sorted_by_name(tmp_path):
    touch(tmp_path, "b/10.jpg", "b/9.jpg", "B/x.jpg", "a/deep/er/z.JPEG", "a/a.webp", "a/b.PnG")
    source = ImageFolder(path=str(tmp_path))
    assert source.class_names == ("B", "a", "b")
    names = [os.path.relpath(source.name_of(index), tmp_path) for index in range(6)]
    assert names == ["B/x.jpg", "a/a.webp", "a/b.PnG", "a/deep/er/z.JPEG", "b/10.jpg", "b/9.jpg"]


def test_a_tree_without_splits_is_train(tree):
    source = ImageFolder("train", path=str(tree / "train"))
    assert source.class_names == ("ant", "bee", "cat")
    with pytest.raises(ValueError, match="has no folder 'val' and no other split"):
        ImageFolder("val", path=str(tree / "train"))


def test_a_bare_tree_has_no_labels(tmp_path):
    touch(tmp_path, "x.jpg", "sub/y.jpg", "sub/deeper/z.jpg")
    source = ImageFolder(path=str(tmp_path))
    assert source.class_names is None
    assert source.num_examples == 3
    assert source.read(0).label is None


def test_one_folder_alone_is_not_a_class(tmp_path):
    touch(tmp_path, "all/x.jpg")
    assert ImageFolder(path=str(tmp_path)).class_names is None
    with pytest.raises(ValueError, match=r"1 class folders \['all'\]; labels need at least two"):
        ImageFolder(path=str(tmp_path), labels="folders")


def test_labels_can_be_left_out(tree):
    source = ImageFolder("train", path=str(tree), labels="none")
    assert source.class_names is None
    assert source.num_examples == 12
    assert source.read(0).label is None


def test_skips_what_is_hidden_or_no_image(tree):
    touch(tree / "train", "ant/.hidden.jpg", "ant/._ant.jpg", "ant/notes.txt", "ant/x.xyz")
    touch(tree / "train", ".cache/x.jpg")
    os.mkfifo(tree / "train" / "ant" / "pipe.jpg")
    source = ImageFolder("train", path=str(tree))
    assert source.num_examples == 12
    assert source.left_out == {"hidden": 3, ".txt": 1, ".xyz": 1, ".jpg": 1}


def test_files_are_examples_by_their_content_whatever_their_ending(tree):
    ant = tree / "train" / "ant"
    for name, kind in (("a", "png"), ("b.dat", "bmp"), ("c.JFIF", "jpeg"), ("d.avifs", "avif")):
        (ant / name).write_bytes(encode(picture(1), kind))
    (ant / "e.raw").write_bytes(encode_video(3))
    (ant / "f.mp4").write_bytes(encode_video(3))
    (ant / "README").write_text("The free pictures of ants")
    (ant / "g.txt").write_bytes(encode(picture(1)))  # not opened: there may be one per example
    source = ImageFolder("train", path=str(tree))
    names = [os.path.basename(source.name_of(i)) for i in range(source.num_examples)]
    assert names[:8] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "a", "b.dat", "c.JFIF", "d.avifs"]
    assert [source.label_of(i) for i in range(9)] == [0] * 8 + [1]
    assert open_picture(source.read(5).data).whole().size == (81, 60)
    assert source.left_out == {".mp4": 1, ".raw": 1, "no ending": 1, ".txt": 1}
    videos = VideoFolder("train", path=str(tree), labels="none")
    assert [os.path.basename(videos.name_of(i)) for i in range(2)] == ["e.raw", "f.mp4"]
    with videos.read(0).data.open() as video:
        assert video.num_frames == 3
    expected = {".jpg": 12, "no ending": 2, ".dat": 1, ".jfif": 1, ".avifs": 1, ".txt": 1}
    assert videos.left_out == expected
    assert MediaFolder(path=str(tree / "train")).left_out == {"no ending": 1, ".txt": 1}


def test_files_with_usual_endings_are_not_opened(tree, monkeypatch):
    opened = []
    monkeypatch.setattr(folders, "read_head", lambda path: opened.append(path) or b"")
    touch(tree / "train", "ant/0.txt", "ant/0.NPY", "ant/x.TIFF", "ant/y.mp4", "ant/z")
    ImageFolder("train", path=str(tree))
    assert opened == [str(tree / "train" / "ant" / "z")]


def test_what_is_next_to_the_splits_is_counted(tree):
    """A class may be called train."""
    (tree / "bus").mkdir()
    touch(tree, "9.jpg")
    before = ImageFolder(path=str(tree / "train")).left_out
    assert ImageFolder("train", path=str(tree)).left_out == {**before, "folder bus": 1, ".jpg": 1}


def test_files_left_out_in_a_sentence(tmp_path):
    touch(tmp_path, "a.jpg", *(f"{i}.{ending}" for i in range(3) for ending in "abc"[: i + 1]))
    source = ImageFolder(path=str(tmp_path))
    assert str(source.left_out) == "6 other files left out: .a 3, .b 2, .c 1"
    touch(tmp_path, *(f"x.{ending}" for ending in "defghij"), "y.\u2028")
    assert str(ImageFolder(path=str(tmp_path)).left_out).endswith(", with other endings 3")
    with pytest.raises(ValueError, match="holds no videos; 15 other files left out: .a 3, "):
        VideoFolder(path=str(tmp_path))
    assert not str(LeftOut())
    assert str(LeftOut({".\udce9\n": 1})) == r"1 other file left out: .\udce9\n 1"


NAMES = [b"caf\xe9.jpg", b"a\nb.jpg", "u\u2028.jpg".encode(), b"'\".jpg", b" .jpg", b"\xff\xfe"]


def test_names_are_bytes(tmp_path):
    for name in NAMES:
        (tmp_path / os.fsdecode(name)).write_bytes(encode(picture(0)))
    source = ImageFolder(path=str(tmp_path))
    found = {os.path.basename(os.fsencode(source.name_of(i))) for i in range(source.num_examples)}
    assert found == set(NAMES)
    assert all(source.read(i).data == encode(picture(0)) for i in range(len(NAMES)))
    assert len(source.fingerprint) == 16


def test_a_folder_called_jpg_is_a_folder(tree):
    (tree / "train" / "ant" / "x.jpg").mkdir()
    assert ImageFolder("train", path=str(tree)).num_examples == 12
    touch(tree, "train/ant/x.jpg/inside.jpg")
    assert ImageFolder("train", path=str(tree)).num_examples == 13


def test_follows_links_but_not_round_in_circles(tree, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "x.jpg").write_bytes(encode(picture(0)))
    (tree / "train" / "dog").symlink_to(elsewhere)
    (tree / "train" / "ant" / "link.jpg").symlink_to(elsewhere / "x.jpg")
    (tree / "train" / "ant" / "up").symlink_to(tree / "train")
    (tree / "train" / "ant" / "dangling.jpg").symlink_to(elsewhere / "gone.jpg")
    source = ImageFolder("train", path=str(tree))
    assert source.class_names == ("ant", "bee", "cat", "dog")
    assert source.num_examples == 12 + 3  # the dangling link counts as missing when it is read
    assert source.read(source.num_examples - 1).data == (elsewhere / "x.jpg").read_bytes()


def test_links_in_circles_end(tmp_path):
    for name, other in (("ant", "bee"), ("bee", "ant")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.jpg").touch()
        (tmp_path / name / other).symlink_to(tmp_path / other)
        (tmp_path / name / "itself.jpg").symlink_to("itself.jpg")
        (tmp_path / name / "itself").symlink_to("itself")
    source = ImageFolder(path=str(tmp_path))
    names = [os.path.relpath(source.name_of(i), tmp_path) for i in range(source.num_examples)]
    assert names[:4] == ["ant/0.jpg", "ant/bee/0.jpg", "ant/bee/itself.jpg", "ant/itself.jpg"]
    assert names[4:] == ["bee/0.jpg", "bee/ant/0.jpg", "bee/ant/itself.jpg", "bee/itself.jpg"]
    assert source.left_out["no ending"] == 4


def test_fingerprint_is_of_the_list(tree):  # not of the folder, see contracts_test
    expected = ImageFolder("train", path=str(tree)).fingerprint
    assert ImageFolder("train", path=str(tree), labels="none").fingerprint != expected
    (tree / "train" / "ant" / "0.jpg").rename(tree / "train" / "ant" / "00.jpg")
    assert ImageFolder("train", path=str(tree)).fingerprint != expected


def test_errors_explain_what_is_wrong_with_the_folder(tree, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        ImageFolder(path=str(empty / "nowhere"))
    with pytest.raises(ValueError, match="holds no images"):
        ImageFolder(path=str(empty))
    with pytest.raises(ValueError, match="no split 'test'; it has train, val"):
        ImageFolder("test", path=str(tree))
    with pytest.raises(ValueError, match='"auto", "folders" or "none"'):
        ImageFolder("train", path=str(tree), labels="yes")
    (tree / "train" / "dog").mkdir()
    with pytest.raises(ValueError, match=r"1 class folders of .* hold no images: dog"):
        ImageFolder("train", path=str(tree))
    (tree / "train" / "stray.jpg").touch()
    with pytest.raises(ValueError, match=r"images next to class folders, such as stray\.jpg"):
        ImageFolder("train", path=str(tree), labels="folders")
