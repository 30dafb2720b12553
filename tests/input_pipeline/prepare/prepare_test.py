from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline.bad_inputs import BadMedia
from input_pipeline.datasets.folders import VideoFolder
from input_pipeline.datasets.video_records import VideoRecords
from input_pipeline.decode.video import VideoFile
from input_pipeline.prepare import __main__ as prepare
from input_pipeline.prepare import labels as video_labels
from input_pipeline.prepare import scan as video_scan
from input_pipeline.prepare import worker_processes
from input_pipeline.prepare.worker_processes import Died
from input_pipeline.records import writer as record_writer
from tests.input_pipeline.samples import FakeVideo
from tests.input_pipeline.video_samples import decode_all, encode_video, numbers_of
from tests.recipes import ROOT

FRAMES = (13, 20, 26)


def run(*arguments, workers: int = 0) -> None:
    prepare.main([*map(str, arguments), f"--workers={workers}"])


def lines_of(out: Path) -> dict[str, dict]:
    lines = [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == sorted(line["path"] for line in lines)
    return {line["path"]: line for line in lines}


@pytest.fixture(scope="module")
def samples() -> list[bytes]:
    return [encode_video(frames) for frames in FRAMES]


@pytest.fixture
def videos(samples, tmp_path) -> Path:
    """train/{ant,bee} with three videos each, val/{ant,bee} with one."""
    for split, count in (("train", 3), ("val", 1)):
        for name in ("ant", "bee"):
            folder = tmp_path / "videos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{number}.mp4").write_bytes(samples[number])
    return tmp_path / "videos"


def damaged(data: bytes) -> bytes:
    """An MP4 file of which 200 bytes of the pictures are something else."""
    middle = data.index(b"mdat") + len(data) // 3
    return data[:middle] + os.urandom(200) + data[middle + 200 :]


def test_counts_are_exact_and_bad_files_are_classified(videos, samples, tmp_path, capsys):
    ant = videos / "train" / "ant"
    (ant / "cut.mp4").write_bytes(samples[1][:3000])
    (ant / "empty.webm").write_bytes(b"")
    (ant / "text.avi").write_text("hello")
    (ant / "gone.mp4").symlink_to("nowhere.mp4")
    (ant / "up").symlink_to(videos)  # a link that leads round
    (ant / "notes.txt").write_text("not a video")
    (ant / ".hidden.mp4").write_bytes(samples[0])
    (ant / "damaged.mp4").write_bytes(damaged(samples[2]))

    run(videos, tmp_path / "out")
    lines = lines_of(tmp_path / "out")
    status = {path.removeprefix("train/ant/"): line["status"] for path, line in lines.items()}
    bad = {name: kind for name, kind in status.items() if kind != "ok"}
    expected = {"empty.webm": "empty", "text.avi": "not_media", "gone.mp4": "missing"}
    assert bad == expected | {"cut.mp4": "decode_error", "damaged.mp4": "decode_error"}
    assert len(lines) == 8 + 5
    for number, frames in enumerate(FRAMES):
        line = lines[f"train/bee/{number}.mp4"]
        assert (line["num_frames"], line["fps"]) == (frames, 25)
        assert (line["height"], line["width"]) == (64, 96)
        assert line["bytes"] == len(samples[number])
        assert line["reason"] == ""
    assert all(lines[path]["reason"] for path in lines if lines[path]["status"] != "ok")
    printed = capsys.readouterr().out
    assert f"{'ok':<14}{8:>10}{2 * sum(FRAMES) + 2 * FRAMES[0]:>14}" in printed
    assert f"{'decode_error':<14}{2:>10}\n" in printed
    source = VideoFolder("train", path=str(videos), index=str(tmp_path / "out" / "index.jsonl"))
    assert source.class_names == ("ant", "bee")
    assert source.read(0).data == VideoFile(str(ant / "0.mp4"), FRAMES[0], 25.0)
    with pytest.raises(BadMedia, match="according to the index"):
        source.read(3)


def test_processes_make_the_same_list(videos, tmp_path):
    run(videos, tmp_path / "here")
    run(videos, tmp_path / "there", workers=2)
    lists = [(tmp_path / name / "index.jsonl").read_bytes() for name in ("here", "there")]
    assert lists[0] == lists[1]


def count_calls(monkeypatch, module, name: str, fail_at: int | None = None) -> list:
    """Counts the calls of a function; one of them may be interrupted."""
    original, calls = getattr(module, name), []

    def wrapper(*arguments):
        calls.append(arguments)
        if len(calls) == fail_at:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(module, name, wrapper)
    return calls


def test_files_are_read_again_only_if_they_changed(videos, samples, tmp_path, monkeypatch):
    out = tmp_path / "out"
    (videos / "train/ant/empty.mp4").write_bytes(b"")
    (videos / "train/ant/link.mp4").symlink_to("nowhere.mp4")
    run(videos, out, "--decode=none")
    calls = count_calls(monkeypatch, video_scan, "examine")
    run(videos, out, "--decode=none")
    assert [path for *_, path in calls] == ["train/ant/link.mp4"]  # may be there again by now
    calls.clear()
    (videos / "train/bee/1.mp4").write_bytes(samples[0])
    (videos / "train/bee/2.mp4").unlink()
    run(videos, out, "--decode=none")
    assert {path for *_, path in calls} == {"train/ant/link.mp4", "train/bee/1.mp4"}
    assert lines_of(out)["train/bee/1.mp4"]["num_frames"] == FRAMES[0]
    assert "train/bee/2.mp4" not in lines_of(out)
    calls.clear()
    run(videos, out)
    assert len(calls) == len(lines_of(out))  # none was decoded so far


def test_a_video_beyond_a_limit_is_read_again_with_another(tmp_path, samples):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(samples[0])
    for limit, status in (
        ("--max-pixels=6143", "too_large"),
        ("--max-frames=12", "too_large"),
        ("--max-pixels=6144", "ok"),
    ):
        run(tmp_path / "videos", tmp_path / "out", limit)
        line = lines_of(tmp_path / "out")["a.mp4"]
        assert line["status"] == status
        assert status == "ok" or limit.split("=")[0].strip("-").replace("-", "_") in line["reason"]


def test_frames_are_scaled_down_only_and_their_bytes_limit_a_chunk():
    strip = FakeVideo(1000, height=16, width=8000)
    assert list(video_scan.chunks(strip, range(1000), 32)) == [
        (range(0, 512), None),
        (range(512, 1000), None),
    ]
    wide = FakeVideo(100, height=300, width=16000)  # 256x13653
    chunks = list(video_scan.chunks(wide, range(10, 90), 256))
    assert {short_side for _, short_side in chunks} == {256}
    assert [index for chunk, _ in chunks for index in chunk] == list(range(10, 90))
    assert {len(chunk) for chunk, _ in chunks[:-1]} == {2**29 // (256 * 13653 * 3)}
    huge = FakeVideo(2, height=20000, width=20000)
    assert list(video_scan.chunks(huge, range(2), 20000)) == [(range(1), None), (range(1, 2), None)]


def test_a_scan_that_is_interrupted_goes_on(videos, tmp_path, monkeypatch):
    run(videos, tmp_path / "whole")
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        count_calls(patch, video_scan, "examine", fail_at=5)
        with pytest.raises(SystemExit, match="run the same command again"):
            run(videos, out)
    index = out / "index.jsonl"
    assert len(index.read_text().splitlines()) == 4
    with index.open("a") as file:
        file.write('{"path": "train/b')  # killed while writing
    calls = count_calls(monkeypatch, video_scan, "examine")
    run(videos, out)
    assert len(calls) == 4
    assert index.read_bytes() == (tmp_path / "whole" / "index.jsonl").read_bytes()


def test_names_may_be_any_bytes(samples, tmp_path):
    names = [b"ant", b"caf\xe9", b"two\nlines", b"a\xe2\x80\xa8b"]
    for name in names:
        folder = os.path.join(os.fsencode(tmp_path), b"videos", name)
        os.makedirs(folder)
        (Path(os.fsdecode(folder)) / os.fsdecode(b"\xff.mp4")).write_bytes(samples[0])
    out = tmp_path / os.fsdecode(b"\xfeout")
    words = [str(tmp_path / "videos"), str(out), "--records", "--workers=0"]
    for locale in ({"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONUTF8": "1"}):
        done = subprocess.run(
            [sys.executable, "-m", "input_pipeline.prepare", *words],
            cwd=ROOT,
            env={**os.environ, **locale},
            capture_output=True,
            check=True,
        )
        assert b"4 videos" in done.stdout
    source = VideoRecords("train", path=str(out))
    assert set(map(os.fsencode, source.class_names)) == set(names)
    for index in range(4):
        record = source.read(index)
        name = os.fsencode(source.name_of(index))
        assert name.endswith(b"(" + os.fsencode(source.class_names[record.label]) + b"/\xff.mp4)")
    folder = VideoFolder(path=words[0], index=str(out / "index.jsonl"))
    assert folder.class_names == source.class_names
    assert all(folder.read(index).data.num_frames == FRAMES[0] for index in range(4))


def test_a_decoder_that_crashes_costs_one_video(videos, tmp_path, monkeypatch):
    def crashing(function, jobs, workers):
        for job in jobs:
            yield job, Died(-11) if job.endswith("bee/1.mp4") else function(job)

    monkeypatch.setattr(worker_processes, "results", crashing)
    run(videos, tmp_path / "out")
    bad = [line for line in lines_of(tmp_path / "out").values() if line["status"] != "ok"]
    assert [(line["path"], line["status"]) for line in bad] == [("train/bee/1.mp4", "decode_error")]
    assert bad[0]["reason"] == "the decoder crashed (exit code -11)"


def test_records_hold_the_videos(videos, tmp_path, capsys):
    out = tmp_path / "out"
    (videos / "train" / "ant" / "empty.mp4").write_bytes(b"")
    run(videos, out, "--records", "--shards=2", "--short-side=48", "--quality=90")
    source = VideoRecords("train", path=str(out))
    assert source.num_examples == 6
    assert source.class_names == ("ant", "bee")
    names = []
    for index in range(6):
        example = source.read(index)
        name = example.data.record.name
        names.append(name)
        assert example.label == ("ant", "bee").index(Path(name).parent.name)
        with VideoFile(str(videos / name)).open() as video:
            expected = video.frames(range(video.num_frames), short_side=48)
            assert example.data.record.fps == video.fps
        found = decode_all(example.data)
        assert numbers_of(found) == list(range(len(expected)))
        error = np.mean((found.astype(float) - expected) ** 2, axis=(1, 2, 3))
        assert (10 * np.log10(255**2 / error) > 25).all()  # PSNR in dB; sharp edges in colour
    order = [f"train/{name}/{number}.mp4" for name in ("ant", "bee") for number in range(3)]
    assert names == order[0::2] + order[1::2]
    assert VideoRecords("val", path=str(out)).class_names == ("ant", "bee")

    manifest = json.loads((out / "train.manifest.json").read_text())
    assert manifest["num_examples"] == 6
    assert manifest["num_frames"] == 2 * sum(FRAMES)
    assert manifest["class_counts"] == {"0": 3, "1": 3}
    assert manifest["settings"]["quality"] == 90
    assert [video["path"] for video in manifest["skipped"]] == ["train/ant/empty.mp4"]
    assert not (out / "progress").exists()
    assert "train: 6 videos, 118 frames" in capsys.readouterr().out


def test_tensorflow_reads_the_records(videos, tmp_path):
    run(videos, tmp_path / "out", "--records", "--split=val")
    (shard,) = (tmp_path / "out").glob("val-00000-of-00001")
    payload = next(tf.data.TFRecordDataset(str(shard)).as_numpy_iterator())
    example = tf.train.SequenceExample.FromString(payload)
    frames = example.feature_lists.feature_list["image/encoded"].feature
    images = [tf.io.decode_jpeg(frame.bytes_list.value[0]).numpy() for frame in frames]
    assert numbers_of(np.stack(images)) == list(range(FRAMES[0]))
    context = example.context.feature
    assert context["clip/label/text"].bytes_list.value == [b"ant"]
    assert context["clip/end/timestamp"].int64_list.value == [FRAMES[0] * 40_000]  # microseconds
    assert context["image/width"].int64_list.value == [96]
    assert not list((tmp_path / "out").glob("train*"))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_records_that_are_interrupted_go_on(videos, tmp_path, monkeypatch):
    arguments = ("--records", "--shards=3", "--split=train")
    run(videos, tmp_path / "whole", *arguments)
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        count_calls(patch, record_writer, "_record", fail_at=4)
        with pytest.raises(SystemExit, match="run the same command again"):
            run(videos, out, *arguments)
    assert {path.name for path in out.glob("*-of-*") if path.suffix != ".index"} == {
        "train-00000-of-00003"
    }
    calls = count_calls(monkeypatch, record_writer, "_record")
    run(videos, out, *arguments)
    assert len(calls) == 4
    assert files_of(out) == files_of(tmp_path / "whole")

    calls.clear()
    run(videos, out, *arguments)
    assert not calls
    run(videos, out, *arguments, "--quality=50")
    assert len(calls) == 6  # other settings: all are written again


def test_a_video_that_fails_after_all_is_left_out(videos, samples, tmp_path):
    (videos / "train/ant/1.mp4").write_bytes(damaged(samples[2]))
    run(videos, tmp_path / "out", "--records", "--decode=none", "--split=train")
    manifest = json.loads((tmp_path / "out" / "train.manifest.json").read_text())
    assert manifest["num_examples"] == 5
    (left_out,) = manifest["skipped"]
    assert (left_out["path"], left_out["status"]) == ("train/ant/1.mp4", "decode_error")
    assert VideoRecords("train", path=str(tmp_path / "out")).num_examples == 5


def test_the_check_compares_with_the_videos(videos, samples, tmp_path):
    out = tmp_path / "out"
    run(videos, out, "--records", "--split=train")
    lines = list(lines_of(out).values())
    (split,) = video_labels.splits(videos, lines, None, "train")
    (job,) = record_writer.plan(
        videos, out, "train", split.examples, record_writer.Settings(), None
    )
    assert record_writer.check_shard(job, 6) == []
    other = encode_video(FRAMES[1], qp="45")
    (videos / "train/ant/1.mp4").write_bytes(other)
    problems = record_writer.check_shard(job, 6)
    assert len(problems) == 3
    assert problems[0].endswith("(train/ant/1.mp4): frame 0 differs from the video")
    wrong = job._replace(clips=tuple(clip._replace(label=0) for clip in job.clips))
    problems = record_writer.check_shard(wrong, 6)
    assert sum("label" in problem for problem in problems) == 3


def test_labels_from_a_list(videos, tmp_path):
    labels = tmp_path / "labels.txt"
    lines = ["# paths and labels", f"{videos}/train/bee/0.mp4 3", "", "./train/ant/1.mp4,1"]
    labels.write_text("\n".join([*lines, "x.mp4 0\n"]))
    out = tmp_path / "out"
    run(videos, out, "--records", "--list", labels, "--split=few")
    source = VideoRecords("few", path=str(out))
    assert [source.read(index).label for index in range(source.num_examples)] == [3, 1]
    assert source.class_names == ("0", "1", "2", "3")
    manifest = json.loads((out / "few.manifest.json").read_text())
    skipped = [(video["path"], video["status"]) for video in manifest["skipped"]]
    assert skipped == [("x.mp4", "missing")]
    (out / "classes.txt").write_text("ant\nbee\ncat\ndog\n")
    assert VideoRecords("few", path=str(out)).class_names == ("ant", "bee", "cat", "dog")


def test_finds_the_videos_of_a_video_folder_and_counts_the_others(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name, container in (("a.dat", "mpegts"), ("b.wmv", "asf"), ("c", "mp4")):
        codec = {"codec": "wmv2", "b": "2M", "b_frames": 0} if container == "asf" else {}
        (tmp_path / "in" / name).write_bytes(encode_video(9, container=container, **codec))
    (tmp_path / "in/x.jpg").touch()
    (tmp_path / "in" / os.fsdecode(b"y.\xe9")).touch()
    run(tmp_path / "in", tmp_path / "out")
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path}/in: 2 other files left out: .jpg 1, .\\udce9 1\n")
    lines = lines_of(tmp_path / "out")
    assert {path: line["num_frames"] for path, line in lines.items()} == dict.fromkeys(
        ("a.dat", "b.wmv", "c"), 9
    )
    source = VideoFolder(path=str(tmp_path / "in"), index=str(tmp_path / "out/index.jsonl"))
    assert [os.path.relpath(source.name_of(i), tmp_path / "in") for i in range(3)] == list(lines)
    assert source.read(0).data.num_frames == 9


def test_videos_without_class_folders_have_no_labels(videos, tmp_path):
    run(videos / "train" / "ant", tmp_path / "out", "--records")
    source = VideoRecords("train", path=str(tmp_path / "out"))
    assert source.class_names is None
    assert [source.read(index).label for index in range(3)] == [None] * 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("VIDEOS/nowhere", "OUT"), "nowhere is not a folder; give the folder of the videos"),
        (("VIDEOS", "LIST"), "labels.txt is a file; give a folder to write to"),
        (("EMPTY", "OUT"), "holds no videos, at any depth; it holds no other files either"),
        (("VIDEOS", "OUT", "--shards=2"), "--split, --shards and --beam need --records"),
        (("VIDEOS", "OUT", "--records", "--quality=101"), "'101' is not a whole number from 1 to"),
        (("VIDEOS", "OUT", "--records", "--split=test"), "no split 'test'; it has train, val"),
        (("VIDEOS", "OUT", "--records", "--list=LIST"), "labels.txt has 1 invalid lines"),
        (
            ("VIDEOS/train", "OUT", "--records", "--list=GONE"),
            r"no usable video; the first is train/ant/0.mp4 \(missing: in the list of labels but",
        ),
        (("VIDEOS", "OUT", "--records", "--beam"), "pip install apache-beam"),
        (("VIDEOS", "OTHER"), "index.jsonl was not written by input_pipeline.prepare"),
    ],
)
def test_wrong_use_is_explained(arguments, words, videos, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "index.jsonl").write_text(
        '{"path": "a.mp4", "status": "ok", "mtime_ns": 1, "decoded": true}\n'  # of an old version
    )
    (tmp_path / "labels.txt").write_text("train/ant/0.mp4 7\nwrong\nval/ant/0.mp4 2\n")
    paths = dict(
        VIDEOS=videos, LIST=tmp_path / "labels.txt", OUT=tmp_path / "out", OTHER=tmp_path / "other"
    )
    (tmp_path / "gone.txt").write_text("train/ant/0.mp4 7\n")
    paths |= {"EMPTY": tmp_path / "empty", "GONE": tmp_path / "gone.txt"}
    for name, path in paths.items():
        arguments = [argument.replace(name, str(path)) for argument in arguments]
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    assert re.search(words, " ".join(capsys.readouterr().err.split()))


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        ("format.framed", OSError(28, "No space left on device"), r": \[Errno 28\] No space left"),
        ("writer._open", OSError(5, "Input/output error"), r"ant/0\.mp4: OSError: \[Errno 5\]"),
    ],
)
def test_a_disk_error_is_not_blamed_on_the_videos(
    function, error, words, videos, tmp_path, monkeypatch
):
    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(f"input_pipeline.records.{function}", fail)
        with pytest.raises(SystemExit, match=f"stopped.*{words}.*\nrun the same"):
            run(videos, tmp_path / "out", "--records")
    assert not list((tmp_path / "out").glob("*-of-*"))
    run(videos, tmp_path / "out", "--records")
    assert VideoRecords("train", path=str(tmp_path / "out")).num_examples == 6


def test_another_number_of_files_is_refused(videos, tmp_path, capsys):
    run(videos, tmp_path / "out", "--records", "--shards=2")
    with pytest.raises(SystemExit):
        run(videos, tmp_path / "out", "--records", "--shards=3")
    assert "another conversion; this one writes 3 files" in capsys.readouterr().err


def test_worker_processes_survive_a_crash():
    jobs = ["1 + 1", "__import__('os').abort()", "2 + 2", "1 // 0"]
    results = worker_processes.results(eval, jobs, workers=1)
    assert [next(results) for _ in range(3)] == list(zip(jobs, (2, Died(-6), 4), strict=False))
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_workers_need_neither_tensorflow_nor_jax():
    code = (
        "import sys, types\n"
        "sys.modules['tensorflow'] = sys.modules['jax'] = None\n"
        "package = sys.modules['input_pipeline'] = types.ModuleType('input_pipeline')\n"
        "package.__path__ = ['input_pipeline']\n"
        "import input_pipeline.prepare\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
