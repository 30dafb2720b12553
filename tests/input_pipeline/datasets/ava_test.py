from __future__ import annotations

import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from input_pipeline.bad_inputs import BadMedia, media_boundary
from input_pipeline.datasets.ava import Ava
from input_pipeline.datasets.movies import Movies
from input_pipeline.loader import Loader
from input_pipeline.views.eval import EvalView
from input_pipeline.views.train import TrainView
from tests.input_pipeline.ava_samples import (
    NOT_SCORED,
    frame_list,
    label_map,
    numbers_of,
    write_ava,
    write_frames,
)
from tests.input_pipeline.video_samples import encode_video
from tests.input_pipeline.video_samples import numbers_of as numbers_of_video

TRUTH = "annotations/ava_train_v2.2.csv"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_ava(tmp_path)


def rows_of(source: Ava, key: str) -> list[tuple[tuple[float, ...], list[int]]]:
    """The boxes of a key frame, each with the ids of its actions."""
    boxes = source.boxes
    example = boxes.keys.index(key)
    rows = range(boxes.first[example], boxes.first[example + 1])
    return [(tuple(boxes.sides[i]), (np.flatnonzero(boxes.classes[i]) + 1).tolist()) for i in rows]


def test_training_has_the_boxes_of_the_truth(root):
    source = Ava("train", path=str(root))
    assert source.boxes.keys == ("a-b_c,0901", "a-b_c,0902", "v2,0904")
    assert source.boxes.first.tolist() == [0, 1, 3, 4]
    assert rows_of(source, "a-b_c,0902") == [
        ((0.1, 0.2, 0.5, 0.9), [12, 80]),
        ((0.6, 0.1, 0.9, 0.9), [1]),
    ]
    assert rows_of(source, "v2,0904") == [((0, 0, 1, 1), [2])]
    assert source.boxes.most == 2
    assert len(source.class_names) == 80
    assert source.class_names[11] == "act 12 (e.g., {x})"
    assert source.name_of(1) == f"{root}/frames/a-b_c, second 902"
    assert source.read(1).label is None


def test_further_boxes_of_training_are_merged_by_their_texts(root):
    (root / "more.csv").write_text(
        "v2,0904,0.000,0.000,1.000,1.000,80,0.9\n"
        "v2,0904,0.0,0.000,1.000,1.000,14,0.8\n"
        "v2,0904,0.1,0.1,0.2,0.2,-1,0.80\n"
        "v2,0904,0.1,0.1,0.3,0.3,5,0.79\n"
        "v2,0902,0.1,0.1,0.3,0.3,,1.0\n"
    )
    source = Ava("train", path=str(root), train_boxes=["more.csv"], threshold=0.8)
    assert rows_of(source, "v2,0904") == [
        ((0, 0, 1, 1), [2, 80]),
        ((0, 0, 1, 1), [14]),
        ((0.1, 0.1, 0.2, 0.2), []),
    ]
    assert rows_of(source, "v2,0902") == [((0.1, 0.1, 0.3, 0.3), [])]
    assert len(source.boxes.truth.keys) == 5


def test_evaluation_has_the_predicted_boxes_and_the_whole_truth(root):
    source = Ava("val", path=str(root))
    assert source.boxes.keys == ("a-b_c,0902", "v2,0904")
    assert rows_of(source, "a-b_c,0902") == [((0.11, 0.2, 0.5, 0.9), [])]
    assert Ava("val", path=str(root), threshold=0.5).boxes.most == 2
    truth = source.boxes.truth
    assert truth.keys.tolist() == ["a-b_c,0902", "a-b_c,0902", "a-b_c,0904", "v2,0903"]
    assert truth.classes.tolist() == [11, 79, 0, 2]
    assert truth.sides[2].tolist() == [0.6, 0.1, 0.9, 0.9]
    assert truth.excluded == {"a-b_c,0904"}


def test_without_predicted_boxes_those_of_the_truth_are_evaluated(root):
    source = Ava("val", path=str(root), eval_boxes=[])
    assert source.boxes.keys == ("a-b_c,0902", "a-b_c,0904", "v2,0903")


def test_some_seconds_are_evaluated_and_scored(root):
    source = Ava("val", path=str(root), every=4)
    assert source.boxes.keys == ("v2,0904",)
    assert source.boxes.truth.keys.tolist() == ["a-b_c,0904"]


def test_classes_that_are_scored_and_their_groups(root):
    truth = Ava("val", path=str(root)).boxes.truth
    assert len(truth.scored) == 60
    assert {i + 1 for i in truth.scored} | NOT_SCORED == set(range(1, 81))
    counts = {name: len(set(group) & set(truth.scored)) for name, group in truth.groups.items()}
    assert counts == {"pose": 13, "object": 32, "person": 15}
    assert truth.groups["pose"] == tuple(range(14))
    assert Ava("val", path=str(root), scored=None).boxes.truth.scored is None
    some = "annotations/ava_action_list_v2.2_for_activitynet_2019.pbtxt"
    only = Ava("val", path=str(root), classes=some)
    assert only.class_names[:3] == ("act 1 (e.g., {x})", "class 2", "act 3 (e.g., {x})")
    assert len(only.class_names) == 80
    assert only.boxes.truth.groups == {}


# Clips of `get_sequence` of PySlowFast's slowfast/datasets/utils.py.
CLIPS = [
    (902, 16, 4, 27030, list(range(28, 89, 4))),
    (902, 40, 3, 27030, list(range(0, 118, 3))),
    (902, 32, 3, 27030, list(range(12, 106, 3))),
    (902, 64, 2, 27030, [0, 0, *range(0, 123, 2)]),
    (1798, 16, 4, 27030, list(range(26908, 26969, 4))),
    (1798, 40, 3, 27030, list(range(26880, 26998, 3))),
    (1798, 40, 3, 26970, [*range(26880, 26970, 3), *[26969] * 10]),
    (902, 16, 4, 70, [*range(28, 69, 4), *[69] * 5]),
    (1000, 8, 8, 27030, list(range(2968, 3025, 8))),
]


@pytest.mark.parametrize(("second", "frames", "stride", "count", "expected"), CLIPS)
def test_clips_are_those_of_pyslowfast(tmp_path, second, frames, stride, count, expected):
    rows = f"v2,{second:04d},0.1,0.1,0.9,0.9,1,0\n"
    root = write_ava(tmp_path, **{TRUTH: rows, "train": frame_list({"v2": count})})
    write_frames(root, "v2", set(expected))
    source = Ava("train", path=str(root))
    view = EvalView(size=16, resize=16, frames=frames, stride=stride, sampling="centred")
    clip = view(source.read(0).data, np.random.default_rng(0))[0]
    assert numbers_of(clip) == expected
    assert expected[frames // 2] == min((second - 900) * 30, count - 1)


def test_batches_have_clips_and_boxes(root):
    view = TrainView(size=16, frames=1, sampling="centred", scale_jitter=(16, 16))
    batch = next(Loader(Ava("train", path=str(root)), view, batch_size=3, seed=0).train_batches())
    assert set(batch) >= {"video", "boxes", "box_classes", "box_valid", "valid"}
    assert "label" not in batch
    assert batch["valid"].all()
    order = batch["index"].tolist()
    assert numbers_of(batch["video"][:, 0]) == [[30, 60, 120][i] for i in order]
    assert batch["box_valid"].sum(1).tolist() == [[1, 2, 1][i] for i in order]


def test_fingerprint(root):
    name = Ava("train", path=str(root)).fingerprint
    assert Ava("val", path=str(root)).fingerprint != name
    moved = root.parent / "moved"
    shutil.move(root, moved)
    assert Ava("train", path=str(moved)).fingerprint == name
    text = (moved / TRUTH).read_text()
    (moved / TRUTH).write_text(text.replace(",80,", ",79,"))
    assert Ava("train", path=str(moved)).fingerprint != name
    (moved / TRUTH).write_text(text.replace("0.600", "0.6").replace("0.6", "0.61"))
    assert Ava("train", path=str(moved)).fingerprint != name


def shown(source: Ava, index: int, rate: int) -> int:
    """The number that the key frame of an example shows."""
    with source.read(index).data.open() as video:
        assert video.fps == rate
        return numbers_of_video(video.frames([video.key_frame]))[0]


def test_videos_instead_of_frames(root):
    (root / "videos").mkdir()
    (root / "videos" / "a-b_c.mp4").write_bytes(encode_video(100, rate=25))
    (root / "videos" / "v2.mkv").write_bytes(encode_video(60, rate=10, container="matroska"))
    with pytest.raises(ValueError, match=r"start is missing; set it .*: 0 for whole films, 900"):
        Ava("train", path=str(root), videos="videos")
    source = Ava("train", path=str(root), videos="videos", start=900)
    assert source.name_of(2) == str(root / "videos" / "v2.mkv") + ", second 904"
    assert [shown(source, i, rate) for i, rate in enumerate((25, 25, 10))] == [25, 50, 40]
    later = Ava("train", path=str(root), videos="videos", start=901.5)
    assert shown(later, 1, 25) == 12
    with pytest.raises(BadMedia, match=r"short: 100 frames, 25 per second, but the key frame is -"):
        shown(later, 0, 25)
    (root / "videos" / "v2.mkv").unlink()
    missing = Ava("train", path=str(root), videos="videos", start=900)
    with pytest.raises(BadMedia, match="missing"), media_boundary(), missing.read(2).data.open():
        pass


def test_frames_of_ava_with_clips_of_kinetics(root):
    rows = "o3l_wW-s,0017,0.1,0.1,0.9,0.9,79\no3l_wW-s,0025,0.1,0.1,0.9,0.9,-1\nnobody,0004\n"
    (root / "kinetics.csv").write_text(rows + "nothing,0004,,,,,\n")
    folder = root / "k700" / "waving"
    folder.mkdir(parents=True)
    for start, frames in ((12, 100), (18, 100)):
        name = f"o3l_wW-s_{start:06d}_{start + 10:06d}.mp4"
        (folder / name).write_bytes(encode_video(frames, rate=10))
    (folder / "other_000001_000011.mp4").write_bytes(b"not opened")
    source = Ava(
        "train",
        path=str(root),
        truth=[TRUTH, "kinetics.csv"],
        frame_lists=["frame_lists/{split}.csv"],
        videos="k700",
    )
    assert source.boxes.keys[2:4] == ("o3l_wW-s,0017", "o3l_wW-s,0025")
    assert source.boxes.truth.keys.tolist()[-1] == "o3l_wW-s,0017"
    assert [shown(source, i, 10) for i in (2, 3)] == [50, 70]
    with source.read(1).data.open() as video:
        assert numbers_of(video.frames([video.key_frame])) == [60]


def test_a_name_with_seconds_may_be_that_of_a_film(root):
    name = "o3l_000012_000022"
    (root / TRUTH).write_text(f"{name},0902,0.1,0.1,0.9,0.9,79\n")
    (root / "frame_lists" / "train.csv").write_text(frame_list({name: 61, "v2": 9}))
    write_frames(root, name, [60])
    with Ava("train", path=str(root)).read(0).data.open() as video:
        assert numbers_of(video.frames([video.key_frame])) == [60]


def test_seconds_and_frames_that_are_missing(root):
    (root / TRUTH).write_text("v2,0904,0,0,1,1,1,0\nv2,0905,0,0,1,1,1,0\nv2,0903,0,0,1,1,1,0\n")
    source = Ava("train", path=str(root))
    view = EvalView(size=16, frames=1, sampling="centred")
    rng = np.random.default_rng(0)
    assert numbers_of(view(source.read(1).data, rng)[0]) == [120]
    with pytest.raises(BadMedia, match="short: 130 frames, no frame 150"):
        view(source.read(2).data, rng)
    with pytest.raises(BadMedia, match=r"missing: v2/v2_000091\.jpg: FileNotFoundError"):
        view(source.read(0).data, rng)


@pytest.mark.parametrize(
    ("files", "section", "words"),
    [
        ({TRUTH: "x,0902,0,0,1,1,1,0\n"}, {}, r"v2\.2\.csv .* line 1: the video x is in none of"),
        ({"train": "v2 0 0 v2/1.jpg\n"}, {}, r"train\.csv, line 1: 'v2 0 .* expected the header"),
        ({"train": frame_list({"v2": 1}) + "v2 0\n"}, {}, "line 3: 2 columns, 'v2 0'; expected 5"),
        ({"train": frame_list({})}, {}, r"train\.csv has no frames"),
        ({"more.csv": "x,0902,0,0,1,1,1,1\n"}, {"train_boxes": ["more.csv"]}, "x is not in .*v2.2"),
        ({"ava_train_excluded_timestamps_v2.2": "x,0902\n"}, {}, "none of its videos, such as x,"),
        ({"ava_train_excluded_timestamps_v2.2": "v2\n"}, {}, "line 1: 'v2'; expected video,second"),
        ({"s": label_map([1, 81])}, {"scored": "s"}, "id 81 is beyond 80, the last of .*v2.2.pb"),
        ({TRUTH: "v2,0902\n"}, {}, r"no boxes of the split 'train' \(threshold=0.9, every=1\)"),
        ({}, {"truth": ["annotations/no.csv"]}, r"no\.csv is not a file; correct truth"),
        ({}, {"frames": "nowhere"}, "nowhere/a-b_c; set frames to the folder that the paths"),
        ({}, {"every": 0}, "every is 0 and threshold 0.9; expected 1 or more"),
        ({}, {"threshold": math.nan}, "threshold nan; expected"),
    ],
)
def test_wrong_lists_are_refused(tmp_path, files, section, words):
    root = write_ava(tmp_path, **files)
    with pytest.raises(ValueError, match=re.compile(words, re.DOTALL)):
        Ava("train", path=str(root), **section)


def test_lists_of_different_videos_are_refused(root):
    file = root / "annotations" / "ava_val_predicted_boxes.csv"
    text = file.read_text()
    file.write_text(text + "x,0902,0,0,1,1,,0.1\n")
    with pytest.raises(
        ValueError, match=r"boxes.csv has 1 .*\n  line 5: the video x is not in .*val_v"
    ):
        Ava("val", path=str(root))
    # One key frame without a predicted box may be: nobody was found.
    file.write_text("".join(line for line in text.splitlines(True) if "v2" not in line))
    assert Ava("val", path=str(root)).num_examples == 1
    file.write_text("".join(line for line in text.splitlines(True) if "a-b_c" not in line))
    with pytest.raises(ValueError, match="line 1: the video a-b_c has 2 key frames, but no box in"):
        Ava("val", path=str(root))


def test_two_files_of_a_video_are_refused(root):
    (root / "videos").mkdir()
    for name in ("v2.mp4", "v2.webm"):
        (root / "videos" / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds v2\.mp4 and v2\.webm; keep one file of each"):
        Ava("train", path=str(root), videos="videos", start=0)
    shutil.rmtree(root / "videos")
    (root / "videos").mkdir()
    with pytest.raises(ValueError, match=r"holds none of 2 videos, such as a-b_c\.mp4"):
        Ava("train", path=str(root), videos="videos", start=0)


def test_key_frames_without_boxes_are_part_of_the_truth(root):
    truth = root / "annotations" / "ava_val_v2.2.csv"
    truth.write_text(truth.read_text() + "v2,0902\nv2,905,,,,,,\n")
    assert Ava("val", path=str(root)).boxes.truth.empty == {"v2,0902", "v2,0905"}
    assert Ava("val", path=str(root), every=2).boxes.truth.empty == {"v2,0902"}
    truth.write_text(truth.read_text() + "v2,nine\n")
    with pytest.raises(ValueError, match=r"line \d+: 'v2,nine'; expected video,second"):
        Ava("val", path=str(root))


def test_a_list_of_the_truth_without_predicted_boxes_is_refused(root):
    """Each of its videos has one key frame, as those of Kinetics, where nobody may be found."""
    (root / "kinetics.csv").write_text("k1,0005,0,0,1,1,12\nk2,0005,0,0,1,1,12\n")
    truth = ["annotations/ava_val_v2.2.csv", "kinetics.csv"]
    with pytest.raises(ValueError, match=r"kinetics\.csv: 2 of its 2 videos have no box in .*add"):
        Ava("val", path=str(root), truth=truth)


def test_a_second_is_shown_by_a_piece_that_holds_it(tmp_path):
    videos = {"abc": 0.0, "abc_000010_000020": 10.0}
    for name in videos:
        (tmp_path / f"{name}.mp4").write_bytes(encode_video(3))
    movies = Movies(["abc"], start=0.0)
    movies.add_videos(str(tmp_path), None)
    assert [movies.piece("abc", second).start for second in (5, 15, 100)] == [0.0, 10.0, 0.0]
    with pytest.raises(ValueError, match="videos is .*/none, which is not a folder"):
        movies.add_videos(str(tmp_path / "none"), None)
