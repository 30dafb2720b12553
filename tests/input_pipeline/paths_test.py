from __future__ import annotations

from pathlib import Path

import pytest

from input_pipeline import DATASETS
from input_pipeline.datasets.media import media_source
from input_pipeline.paths import NotLocal, local_path
from input_pipeline.prepare.__main__ import main as prepare_main

URLS = ("gs://bucket/run", "s3://bucket", "file:///data", "hdfs://host:9000/a", Path("gs://b/run"))


@pytest.mark.parametrize("url", URLS)
def test_a_url_is_no_path(url):
    with pytest.raises(NotLocal, match=r"^\w+:/.* is a URL; expected a path of the file system"):
        local_path(url)


def test_paths_are_kept_and_the_home_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    for text in ("runs/a", "/data/a b", "x.csv", "runs/gs://b", "a:b", "12:30/a", "~no one/x", ""):
        assert local_path(text) == Path(text)
    assert local_path("~/runs") == local_path(Path("~/runs")) == Path("/home/me/runs")


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("image_folder", {"path": "gs://b/a"}),
        ("video_folder", {"path": "gs://b/a"}),
        ("video_folder", {"path": "{tmp}", "index": "gs://b/index.jsonl"}),
        ("video_list", {"path": "gs://b/{{split}}.csv"}),
        ("video_list", {"path": "{tmp}/train.csv", "root": "gs://b/a"}),
        ("video_list", {"path": "{tmp}/train.csv", "classes": "gs://b/classes.txt"}),
        ("video_records", {"path": "gs://b/a"}),
        ("ssv2", {"path": "gs://b/a"}),
        ("ava", {"path": "gs://b/a"}),
        ("ava", {"path": "{tmp}", "classes": "gs://b/a"}),
        ("moving_shapes", {"path": "gs://b/a"}),
    ],
)
def test_datasets_refuse_urls_and_make_no_folder_of_them(name, section, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.csv").write_text("0.mp4 0\n")
    (tmp_path / "0.mp4").write_bytes(b"")
    there = sorted(tmp_path.iterdir())
    with pytest.raises(NotLocal, match="gs://b/.* is a URL"):
        DATASETS[name](**{key: text.format(tmp=tmp_path) for key, text in section.items()})
    assert sorted(tmp_path.iterdir()) == there


def test_commands_refuse_urls(tmp_path, capsys):
    for words in (["s3://b/videos", str(tmp_path)], [str(tmp_path), "s3://b/out"]):
        with pytest.raises(SystemExit) as ended:
            prepare_main(words)
        assert ended.value.code == 2
        assert "s3://b/" in capsys.readouterr().err
    with pytest.raises(NotLocal, match="s3://b"):
        media_source("s3://b/a.jpg")
