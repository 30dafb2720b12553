from __future__ import annotations

from pathlib import Path

import pytest

from input_pipeline.datasets.box_lists import (
    NumberedPaths,
    read_actions,
    read_boxes,
    read_excluded,
    read_frame_list,
)
from tests.input_pipeline.ava_samples import HEADER


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "boxes.csv"


def test_rows_with_equal_sides_are_one_box(file):
    file.write_bytes(
        b"\xef\xbb\xbfv,0902,0.1,0.2,0.5,0.9,12,3\r\n"
        b"v,902,0.1,0.2,0.5,0.9,80,\r\n"
        b"v,0902,0.10,0.2,0.5,0.9,-1,-1\r\n"
        b"v,0903\r\n"
        b"w,1000,0.1,0.2,0.5,0.9,,0\r\n\r\n"
    )
    boxes = read_boxes(file, 80)
    assert boxes.boxes[0] == boxes.boxes[1] == "v,0902,0.1,0.2,0.5,0.9"  # merged by `ava`
    assert boxes.keys == ["v,0902", "v,0902", "v,0902", "w,1000"]
    assert boxes.rows.tolist() == [0, 1, 2, 3]
    assert boxes.classes.tolist() == [11, 79, -1, -1]
    assert boxes.videos == {"v": 1, "w": 5}


def test_the_score_of_a_predicted_box_is_its_eighth_column(file):
    file.write_text("v,0902,0,0,1,1,1,0.8\nv,0902,0,0,1,1,2,.79\nw,0902,0,0,1,1,3,0\n")
    boxes = read_boxes(file, 80, 0.8)
    assert boxes.classes.tolist() == [0]
    assert boxes.videos == {"v": 1, "w": 3}


def test_sides_may_be_a_little_outside(file):
    file.write_text("v,0902,-0.004,0.0,1.002,1.0,1,0\nv,0902,0.3,0.4,0.3,0.4,1,1\n")
    assert read_boxes(file, 80).sides.tolist() == [[-0.004, 0, 1.002, 1], [0.3, 0.4, 0.3, 0.4]]


@pytest.mark.parametrize(
    ("row", "threshold", "words"),
    [
        ("v,0902,0.1,0.1,1.2,0.5,1,0", None, "a box outside the frame, 'v,0902,0.1,0.1,1.2,0.5'"),
        ("v,0902,12,30,200,190,1,0", None, "a box outside the frame.* as fractions of the frame"),
        ("v,0902,nan,0.1,0.2,0.5,1,0", None, "a box outside the frame"),
        ("v,0902,0.5,0.1,0.4,0.5,1,0", None, "right side is left of its left one, or whose bottom"),
        ("v,0902,0.1,0.6,0.4,0.5,1,0", None, "bottom is above its top, 'v,0902,0.1,0.6,0.4,0.5'"),
        ("v,0902,a,0.1,0.2,0.5,1,0", None, "'v,0902,a,0.1,0.2,0.5'; expected video,second,left"),
        ("v,902.5,0,0.1,0.2,0.5,1,0", None, "'v,902.5,.*with a whole second"),
        ("v,-1,0,0.1,0.2,0.5,1,0", None, "'v,-1,0.*with a whole second"),
        (",0902,0,0.1,0.2,0.5,1,0", None, "',0902,.*expected video"),
        ("v,0902,0,0,1,1,81,0", None, "class '81'; expected a whole number from 1 to 80, the last"),
        ("v,0902,0,0,1,1,0,0", None, "class '0'; expected"),
        ("v,0902,0,0,1,1,1.5,0", None, "class '1.5'; expected"),
        ("v,0902,0,0,1,1,1", None, "7 columns, 'v,0902,0,0,1,1,1'; expected 8, as in the rows"),
        ("v,0902,0,0,1,1,1", 0.9, "7 columns, .* expected 8 columns of a predicted box, the last"),
        ("v,0902", 0.9, "2 columns, 'v,0902'; expected 8 columns"),
        ("v,0902,0,0,1,1,1,0,0", None, "9 columns, 'v,0902,0,0,1,1,1,0,0'; expected 8"),
        ("v,0902,0,0,1,1,1,0.97", None, "person '0.97'; expected a whole number; predicted boxes"),
        ("v,0902,0,0,1,1,1,17", 0.9, "score '17'; expected a number from 0 to 1; ground truth is"),
        ("v,0902,0,0,1,1,1,", 0.9, "score ''; expected a number"),
        ("v,0902,0,0,1,1,1,nan", 0.9, "score 'nan'; expected a number"),
    ],
)
def test_invalid_rows_are_refused(file, row, threshold, words):
    file.write_text(f"v,0902,0,0,1,1,1,{1 if threshold else 0}\n{row}\n")
    with pytest.raises(ValueError, match=rf"boxes.csv has 1 invalid .*\n  line 2: .*{words}"):
        read_boxes(file, 80, threshold)


def test_the_first_row_decides_about_the_columns_of_the_truth(file):
    file.write_text("v,0901\nv,0902,0,0,1,1,1\nv,0902,0,0,1,1,1,0\n")
    with pytest.raises(
        ValueError, match=r"line 3: 8 columns, .* expected 7, as in the rows before"
    ):
        read_boxes(file, 80)
    file.write_text("video_id timestamp x1\n")
    with pytest.raises(ValueError, match="line 1: 1 columns, .* expected 7 or 8: video,second"):
        read_boxes(file, 80)


def test_excluded_key_frames(file):
    file.write_text("v,0902\nv,903\n")
    assert read_excluded(file) == {"v,0902": 1, "v,0903": 2}


def test_label_maps(file):
    file.write_text(
        'label{\n  name: "bend (at the waist)"label_id: 1label_type: PERSON_MOVEMENT\n}label{'
        'name: "take id: 7 {from}" id : 3}'
    )
    actions = read_actions(file)
    assert actions.names == {1: "bend (at the waist)", 3: "take id: 7 {from}"}
    assert actions.kinds == {1: "PERSON_MOVEMENT"}
    assert actions.class_names == ("bend (at the waist)", "class 2", "take id: 7 {from}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,stand\n", "has no classes; expected blocks such as"),
        ('item { name: "a" }', "line 1: expected a name, and an id from 1 to"),
        ('item { name: "a" id: 0 }', "expected a name, and an id from 1"),
        ('\nitem { name: "" id: 1 }', "line 2: expected a name"),
        ('item { name: "a" id: 1 } item { name: "b" id: 1 }', "id 1 or name 'b' for the second"),
        ('item { name: "a" id: 1 } item { name: "a" id: 2 }', "id 2 or name 'a' for the second"),
    ],
)
def test_invalid_label_maps_are_refused(file, text, words):
    file.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_actions(file)


def test_frame_lists(file):
    lines = [f'v 0 {i} v/v_{i:06d}.jpg ""' for i in (1, 2, 3)]
    lines += [f'w 1 {i} w/img{i}.png "1,2"' for i in (9, 10)] + [
        "x 2 0 x/5/a.jpg",
        "x 2 1 x/7/b.jpg",
    ]
    lines = [line if line.count(" ") == 4 else f'{line} ""' for line in lines]
    file.write_text("\n".join([HEADER, *lines, 'v 0 4 v/v_000004.jpg ""', ""]))
    frames = read_frame_list(file)
    assert isinstance(frames["v"], NumberedPaths)
    assert list(frames["v"]) == [f"v/v_{i:06d}.jpg" for i in (1, 2, 3, 4)]
    assert (len(frames["v"]), frames["v"][3], frames["v"][-1]) == (4, *["v/v_000004.jpg"] * 2)
    with pytest.raises(IndexError):
        frames["v"][4]
    assert list(frames["w"]) == ["w/img9.png", "w/img10.png"]
    assert frames["x"] == ["x/5/a.jpg", "x/7/b.jpg"]
