from __future__ import annotations

import json

import numpy as np
import pytest

from input_pipeline.bad_inputs import (
    CLASSES,
    BadInputs,
    BadMedia,
    Problem,
    TooManyBadInputs,
    media_boundary,
)

PROBLEM = Problem("decode_error", "OSError: image file is truncated", 123)


def feed(bad_inputs: BadInputs, is_bad) -> None:
    for index, bad in enumerate(is_bad):
        bad_inputs.record(f"f{index}", index, PROBLEM if bad else None)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError(2, "No such file"), "missing"),
        (PermissionError(13, "Permission denied"), "unreadable"),
        (IsADirectoryError(21, "Is a directory"), "unreadable"),
        (OSError("image file is truncated"), "decode_error"),
        (IndexError("bytes\nout of range"), "decode_error"),
        (MemoryError(), "decode_error"),
        (BadMedia("too_large", "huge"), "too_large"),
    ],
)
def test_every_error_gets_a_class_and_one_line(error, kind):
    with pytest.raises(BadMedia) as caught, media_boundary():
        raise error
    assert caught.value.kind == kind
    assert kind in CLASSES
    assert "\n" not in caught.value.reason


def test_lists_each_file_once_and_counts_each_time(tmp_path):
    path = tmp_path / "bad_inputs.jsonl"
    bad_inputs = BadInputs().list_in(path)
    for _ in range(3):
        bad_inputs.record("a/x.jpg", 4, PROBLEM)
        bad_inputs.record("a/y.jpg", 5, None)
        bad_inputs.record("a/\u00fc \n.jpg", 6, Problem("missing", "gone", None))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [list(line) for line in lines] == [["file", "index", "class", "reason", "bytes"]] * 2
    assert [list(line.values()) for line in lines] == [
        ["a/x.jpg", 4, "decode_error", "OSError: image file is truncated", 123],
        ["a/\u00fc \n.jpg", 6, "missing", "gone", None],
    ]
    assert (bad_inputs.skipped, bad_inputs.files) == (6, 2)


def test_a_list_that_cannot_be_written_does_not_stop_the_run(tmp_path):
    bad_inputs = BadInputs(max_fraction=1).list_in(str(tmp_path / "gone" / "list.jsonl"))
    with pytest.warns(RuntimeWarning, match=r"cannot write .*list\.jsonl"):
        bad_inputs.record("a.jpg", 0, Problem("missing", "", None))
    assert (bad_inputs.skipped, bad_inputs.files) == (1, 1)


def test_continues_a_list_even_after_half_a_line(tmp_path):
    path = tmp_path / "bad_inputs.jsonl"
    BadInputs().list_in(path).note("a", 0, PROBLEM)
    with path.open("a") as file:
        file.write('{"file": "b", "ind')
    again = BadInputs().list_in(path)
    for name in ("a", "b", "c"):
        again.note(name, 0, PROBLEM)
    assert again.files == 3
    names = [json.loads(line)["file"] for line in path.read_text().splitlines()]
    assert names == ["a", "b", "c"]


@pytest.mark.parametrize(("share", "stops"), [(0.001, False), (0.009, False), (0.03, True)])
def test_limit_is_on_the_share(share, stops):
    is_bad = np.random.default_rng(0).random(30_000) < share
    bad_inputs = BadInputs(max_fraction=0.01)
    if stops:
        with pytest.raises(TooManyBadInputs, match=r"more than the allowed fraction of 0\.01"):
            feed(bad_inputs, is_bad)
    else:
        feed(bad_inputs, is_bad)
        assert bad_inputs.skipped == is_bad.sum()


def test_half_of_the_files_bad_stops_early_and_names_them():
    bad_inputs = BadInputs(min_seen=100)
    with pytest.raises(TooManyBadInputs) as caught:
        feed(bad_inputs, [index % 2 == 0 for index in range(1000)])
    assert bad_inputs.skipped == 51
    message = str(caught.value)
    assert "51 of the last 101 clips" in message
    for name in ("f0 (decode_error", "f2 (", "f4 (", "51 files so far", "no list is kept"):
        assert name in message
    assert "f6" not in message


def test_names_are_printable_in_messages():
    with pytest.raises(TooManyBadInputs, match=r"First files: a\\nb\\udce9\.jpg \(decode_error"):
        BadInputs(max_consecutive=1).record("a\nb\udce9.jpg", 0, PROBLEM)


def test_a_dead_mount_stops_after_a_few():
    bad_inputs = BadInputs(max_consecutive=64)
    with pytest.raises(TooManyBadInputs, match="64 clips in a row"):
        feed(bad_inputs, [False] * 500 + [True] * 500)
    assert bad_inputs.skipped == 64


def test_old_clips_leave_the_window():
    is_bad = ([True] * 5 + [False] * 995) * 20  # 0.5 % in any 1000
    bad_inputs = BadInputs(max_fraction=0.003, window=1000, min_seen=1000)
    feed(bad_inputs, is_bad)  # 5 is within 3 + 3 * sqrt(3)
    with pytest.raises(TooManyBadInputs, match="of the last 1000 clips"):
        feed(bad_inputs, [True, False] * 10)


def test_no_bad_input_at_all_may_be_asked_for():
    with pytest.raises(TooManyBadInputs):
        BadInputs(max_fraction=0).record("x", 0, PROBLEM)


@pytest.mark.parametrize(
    "setting", [{"max_fraction": 1.5}, {"max_fraction": -0.1}, {"max_consecutive": 0}]
)
def test_refuses_limits_out_of_range(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        BadInputs(**setting)
