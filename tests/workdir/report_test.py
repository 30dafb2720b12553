from __future__ import annotations

import fcntl
import io
import json
import os
import pathlib
import pty
import struct
import subprocess
import sys
import termios
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskfeat_jax.workdir import report as reports
from maskfeat_jax.workdir.report import Report

ROOT = pathlib.Path(__file__).resolve().parents[2]
IMAGE = np.random.default_rng(0).integers(0, 256, (9, 14, 3)).astype(np.uint8)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make_report(directory: pathlib.Path, **changes) -> Report:
    settings = {
        "total_steps": 50_000,
        "steps_per_epoch": 600,
        "devices": 8,
        "clips_per_step": 460,
        "stream": io.StringIO(),
        "clock": Clock(),
    }
    return Report(directory, **{**settings, **changes})


def metrics_of(directory: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def tensorboard(directory: pathlib.Path) -> dict[str, list[tuple[int, Any]]]:
    """Tags, steps and values of event files, read without TensorBoard."""
    from tensorboardX.proto import event_pb2

    found: dict[str, list[tuple[int, Any]]] = {}
    for path in sorted(directory.glob("events*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            for value in event.summary.value:
                content = value.image if value.HasField("image") else value.simple_value
                found.setdefault(value.tag, []).append((event.step, content))
            data = data[16 + length :]
    return found


def test_the_line_of_the_design(tmp_path):
    """1200 steps of 460 clips in 300 s; 48,800 steps are left, 0.25 s each."""
    stream = io.StringIO()
    report = make_report(tmp_path, stream=stream)
    report.train(1200, 1200, {"loss": 0.04123, "lr": 3.1e-4, "grad_norm": 0.5}, 300, 12)
    line = (
        "step 1200/50000 (2.4 %)  loss 0.0412  lr 3.1e-4  1840 clips/s (230/device)  "
        "input wait 4 %  ETA 3 h 23 m\n"
    )
    assert stream.getvalue() == line
    assert (tmp_path / "log.txt").read_text() == line


def test_what_is_known_of_the_devices_is_in_the_line(tmp_path):
    report = make_report(tmp_path)
    usage = {"mfu": 0.4149, "device_gib": 10.0, "device_peak_gib": 12.34}
    report.train(100, 100, {"loss": 0.5}, 20, 5, usage)
    report.close()
    assert (
        "(288/device)  MFU 41 %  memory 12.3 GiB  input wait" in (tmp_path / "log.txt").read_text()
    )
    (entry,) = metrics_of(tmp_path)
    assert {name: entry[f"train/{name}"] for name in usage} == usage


def test_json_lines_and_tensorboard_hold_the_same_numbers(tmp_path):
    with make_report(tmp_path) as report:
        report.train(100, 100, {"loss": 0.5, "lr": 1e-3}, interval_s=20, input_wait_s=5)
        report.evaluation(100, {"top1": 76.5})
        report.train(200, 100, {"loss": float("nan")}, interval_s=5, input_wait_s=0)
    first, evaluation, last = metrics_of(tmp_path)
    assert (first["step"], first["epoch"], first["examples_seen"]) == (100, 100 / 600, 46_000)
    assert first["train/loss"] == 0.5
    assert first["train/lr"] == 1e-3
    assert first["train/clips_per_sec"] == pytest.approx(2300)
    assert first["train/clips_per_sec_per_device"] == pytest.approx(287.5)
    assert first["train/input_wait_frac"] == pytest.approx(0.25)
    assert evaluation["eval/top1"] == 76.5
    assert last["train/loss"] is None  # JSON has no NaN
    assert last["train/clips_per_sec"] == pytest.approx(9200)
    scalars = tensorboard(tmp_path)
    assert scalars["train/loss"][0] == (100, 0.5)
    assert scalars["eval/top1"] == [(100, 76.5)]
    assert scalars["train/input_wait_frac"][0] == (100, 0.25)
    assert [step for step, _ in scalars["examples_seen"]] == [100, 100, 200]


def test_what_is_left_is_estimated_without_the_interval_that_compiled(tmp_path):
    stream = io.StringIO()
    report = make_report(tmp_path, stream=stream, total_steps=1000)
    report.train(10, 10, {}, 1000, 0)  # compiles
    for step in (20, 30):
        report.train(step, 10, {}, 10, 5)
    last = stream.getvalue().splitlines()[-1]
    assert "460 clips/s" in last
    assert "input wait 50 %" in last
    assert "ETA 16 m 10 s" in last  # 970 steps of one second


def test_resuming_drops_what_came_after_and_torn_lines(tmp_path):
    with make_report(tmp_path) as report:
        for step in (100, 200, 300):
            report.train(step, 100, {"loss": step / 100}, 1, 0)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 40')
    with make_report(tmp_path, resume_step=200) as report:
        report.train(300, 100, {"loss": 3.5}, 1, 0)
    rows = [(row["step"], row["train/loss"]) for row in metrics_of(tmp_path)]
    assert rows == [(100, 1.0), (200, 2.0), (300, 3.5)]
    assert "resuming from step 200" in (tmp_path / "log.txt").read_text()
    make_report(tmp_path, resume_step=0)
    assert metrics_of(tmp_path) == []


@pytest.mark.parametrize(
    ("picture", "extension", "frames"),
    [(IMAGE, "png", 1), (np.stack([IMAGE, IMAGE[::-1], IMAGE // 2]), "gif", 3)],
    ids=["image", "animation"],
)
def test_pictures_go_to_files_and_tensorboard(tmp_path, picture, extension, frames):
    with make_report(tmp_path) as report:
        report.pictures(40, "wanted_hog", picture)
        with pytest.raises(ValueError, match=r"'\.\./x'"):
            report.pictures(40, "../x", picture)
    path = tmp_path / "pictures" / f"wanted_hog_40.{extension}"
    with Image.open(path) as file:
        assert getattr(file, "n_frames", 1) == frames
        assert file.size == IMAGE.shape[1::-1]
        if frames == 1:
            np.testing.assert_array_equal(np.asarray(file), IMAGE)
    ((step, stored),) = tensorboard(tmp_path)["pictures/wanted_hog"]
    assert (step, stored.height, stored.width) == (40, *IMAGE.shape[:2])
    assert stored.encoded_image_string == path.read_bytes()


def test_control_characters_are_escaped(tmp_path):
    stream = io.StringIO()
    make_report(tmp_path, stream=stream).message("a\x1b[31mred\rb\tc\x00\nnext line ü\u2028")
    assert stream.getvalue() == "a\\x1b[31mred\\rb\\tc\\x00\nnext line ü\\u2028\n"


def test_the_log_holds_names_of_any_bytes(tmp_path):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    make_report(tmp_path, stream=stream).message(os.fsdecode(b"warning: caf\xe9.jpg"))
    assert b"warning: caf\xe9.jpg\n" in (tmp_path / "log.txt").read_bytes()
    assert b"warning: caf\\udce9.jpg\n" in stream.buffer.getvalue()


def test_a_missing_tensorboard_package_costs_one_warning(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    clock, stream = Clock(), io.StringIO()
    report = make_report(tmp_path, clock=clock, stream=stream)
    for step in (1, 2):
        clock.now += 1
        report.train(step, 1, {"loss": 1.0}, 1, 0)
        report.pictures(step, "a", IMAGE)
    report.close()
    assert stream.getvalue().count("warning: TensorBoard is not written") == 1
    assert len(metrics_of(tmp_path)) == 2


def test_a_full_disk_costs_one_warning_per_kind_of_file(tmp_path):
    """Every file is limited to 600 bytes in a process of its own."""
    code = """
import pathlib, resource, signal, sys
import numpy as np
from maskfeat_jax.workdir.report import Report
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
report = Report(
    pathlib.Path(sys.argv[1]), total_steps=90, steps_per_epoch=9, devices=1, clips_per_step=4
)
resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
for step in range(1, 41):
    report.train(step, 1, {"loss": 1.0}, 1, 0)
    report.pictures(step, "noise", image)
report.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=100,
        check=True,
    )
    assert done.stderr == ""
    for what in ("metrics.jsonl", "log.txt", "TensorBoard", "pictures"):
        assert done.stdout.count(f"warning: {what} is not written") == 1
    assert done.stdout.count("step ") == 40
    assert "step 40/90" in done.stdout


TALK = """
import pathlib, sys
from maskfeat_jax.workdir.report import Report
with Report(
    pathlib.Path(sys.argv[1]), total_steps=200, steps_per_epoch=9, devices=1, clips_per_step=4
) as report:
    for step in range(1, 201):
        report.train(step, 1, {"loss": 1.0}, 1, 0)
        if step % 50 == 0:
            report.message("gr\\xf6\\xdfer \\u2192 besser")
print("somebody else prints", flush=True)
"""


def talk(directory: pathlib.Path, redirect: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" "$2" {redirect}', sys.executable, TALK, str(directory)],
        cwd=ROOT,
        capture_output=True,
        timeout=100,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("redirect", [">&-", "| head -n 1; exit ${PIPESTATUS[0]}", "> /dev/full"])
def test_a_closed_or_full_standard_output_does_not_stop_training(tmp_path, redirect):
    done = talk(tmp_path, redirect)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    assert len(metrics_of(tmp_path)) == 200


def test_a_terminal_that_knows_ascii_only_gets_ascii(tmp_path):
    done = talk(tmp_path, "", PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert done.returncode == 0, done.stderr
    assert b"gr\\xf6\\xdfer \\u2192 besser" in done.stdout


@pytest.mark.parametrize("columns", [20, 140])
def test_a_terminal_gets_a_bar_and_the_log_file_lines(tmp_path, columns):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", TALK, str(tmp_path)], cwd=ROOT, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    output = b""
    while True:
        try:
            read = os.read(ours, 4096)
        except OSError:  # Linux says so when the other side has gone
            break
        if not read:
            break
        output += read
    os.close(ours)
    assert process.wait(timeout=60) == 0
    text = output.decode()
    assert "200/200" in text
    assert "besser" in text
    assert "Traceback" not in text
    if columns == 140:
        assert "loss 1.000  " in text
        assert "clips/s" in text
        assert "input wait 0 %  ETA 0 s" in text
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert len([line for line in lines if line.startswith("step ")]) == 200


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0412345, "0.0412"),
        (0.4, "0.400"),
        (3.1e-4, "3.1e-4"),
        (-2.55e-12, "-2.5e-12"),
        (1.6e-3, "0.00160"),
        (6.90776, "6.908"),
        (76.213, "76.21"),
        (-12345.6, "-12346"),
        (2.5e7, "2.5e7"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
    ],
)
def test_number(value, text):
    assert reports.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.7, "1 m 0 s"),
        (3599, "59 m 59 s"),
        (11520, "3 h 12 m"),
        (183600, "2 d 3 h"),
    ],
)
def test_duration(seconds, text):
    assert reports.duration(seconds) == text
