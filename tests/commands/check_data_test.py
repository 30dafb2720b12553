from __future__ import annotations

import json
import os
import threading

import numpy as np
import pytest
from PIL import Image

from input_pipeline import Ava, BadInputs, EvalView, ImageFolder, Loader, TrainView
from input_pipeline.bad_inputs import Problem
from maskfeat_jax.commands.check_data import check_data
from tests.input_pipeline.ava_samples import write_ava

VIEWS = {"data": TrainView(size=16, repeats=2), "eval_data": EvalView(size=16, crops=3)}


def folder(path, bad: int, count: int = 30):
    """Images of three classes, of which some are web pages or empty."""
    draws = np.random.default_rng(0)
    for index in range(count):
        file = path / "abc"[index % 3] / f"{index:03}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        if index < bad:
            file.write_bytes(b"<html>" * (index % 2))
        else:
            Image.fromarray(draws.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(file)
    return str(path)


def loader(path, section="data", max_fraction=0.2):
    view = VIEWS[section]
    bad_inputs = BadInputs(max_fraction=max_fraction)
    rows = 2 * view.clips_per_read
    return Loader(ImageFolder(path=path), view, batch_size=rows, workers=3, bad_inputs=bad_inputs)


def test_all_usable(tmp_path):
    path = folder(tmp_path / "images", 0)
    reported: list[str] = []
    data = {section: loader(path, section) for section in VIEWS}
    assert check_data(data, on_bad="fail", report=reported.append) == 0
    text = "\n".join(reported)
    for words in (
        "data: 30 examples, 60 clips",
        "eval_data: 30 examples, 90 clips",
        "30 usable",
        "3 classes of 10 to 10 usable examples, median 10",
    ):
        assert words in text


@pytest.mark.parametrize(("bad", "code"), [(6, 0), (7, 65), (30, 65)])
def test_more_unusable_files_than_allowed_are_an_error_as_in_a_run(bad, code, tmp_path):
    data = {"data": loader(folder(tmp_path / "images", bad))}
    reported: list[str] = []
    list_path = tmp_path / "list.jsonl"
    assert check_data(data, on_bad="fail", list_path=list_path, report=reported.append) == code
    text = "\n".join(reported)
    assert f"{30 - bad} usable" in text
    assert f"{(bad + 1) // 2} empty, such as" in text
    assert "not_media" in text
    lines = [json.loads(line) for line in list_path.read_text().splitlines()]
    assert len(lines) == bad
    first = {"index": 0, "class": "empty", "reason": "0 bytes", "bytes": 0, "section": "data"}
    assert lines[0] == {"file": str(tmp_path / "images/a/000.jpg"), **first}
    assert ("more than bad_inputs.max_fraction=0.2" in text) == (bad == 7)
    assert ("no example is usable" in text) == (bad == 30)


@pytest.mark.parametrize(("on_bad", "code"), [("fail", 65), ("skip", 0)])
def test_one_bad_file_in_evaluation(on_bad, code, tmp_path):
    data = {"eval_data": loader(folder(tmp_path / "images", 1), "eval_data")}
    reported: list[str] = []
    assert check_data(data, on_bad=on_bad, report=reported.append) == code
    assert ('on_bad_in_evaluation="skip"' in "\n".join(reported)) == (code == 65)
    assert "classes of 9 to 10 usable examples" in "\n".join(reported)


def test_a_class_without_usable_examples_is_named(tmp_path):
    path = folder(tmp_path / "images", 0)
    for file in (tmp_path / "images" / "b").iterdir():
        file.write_bytes(b"")
    reported: list[str] = []
    assert check_data({"data": loader(path)}, on_bad="fail", report=reported.append) == 65
    assert (
        "3 classes of 0 to 10 usable examples, median 10; 1 without any, such as b" in reported[-2]
    )


def test_boxes_count_by_their_classes(tmp_path):
    view = EvalView(size=16, sampling="centred")
    source = Ava("train", path=str(write_ava(tmp_path)))
    reported: list[str] = []
    check_data({"data": Loader(source, view, batch_size=1)}, on_bad="fail", report=reported.append)
    text = "\n".join(reported)
    assert "80 classes of 0 to 2 usable examples, median 0; 76 without any, such as act 3" in text


def test_other_files_are_counted_and_any_name_is_printed(tmp_path, capsys):
    path = folder(tmp_path / "images", 0)
    (tmp_path / "images" / "a" / "x.heic").write_bytes(b"")
    (tmp_path / "images" / "a" / os.fsdecode(b"\xe9\n.jpg")).write_bytes(b"")
    (tmp_path / "images" / "b").rename(tmp_path / "images" / os.fsdecode(b"caf\xe9"))
    for file in (tmp_path / "images" / os.fsdecode(b"caf\xe9")).iterdir():
        file.write_bytes(b"")
    assert check_data({"data": loader(path)}, on_bad="fail") == 65
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "  1 other file left out: .heic 1"
    assert any(line.startswith(f"    {path}/a/\\udce9\\n.jpg (0 bytes)") for line in lines)
    assert lines[-2].endswith(r"1 without any, such as caf\udce9")


def test_a_stale_index_stops_evaluation_only(tmp_path, monkeypatch):
    reported: list[str] = []
    stale = Problem("stale", "5 bytes, but had 4 when it was indexed", None)
    for section, code in (("data", 0), ("eval_data", 65)):
        data = loader(folder(tmp_path / section, 0), section, max_fraction=0.0)
        load = data.load
        monkeypatch.setattr(data, "load", lambda *at, load=load: load(*at)._replace(problem=stale))
        assert check_data({section: data}, on_bad="fail", report=reported.append) == code
    assert reported[1].startswith("  30 usable")
    assert reported[2] == "  30 stale, such as"


def test_an_error_that_is_not_of_the_data_is_raised(tmp_path, monkeypatch):
    data = loader(folder(tmp_path / "images", 0))

    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(data, "load", broken)
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        check_data({"data": data}, on_bad="fail", report=lambda _: None)
    assert threading.active_count() == before
