from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from maskfeat_jax.distributed.watchdog import Watchdog
from tests.recipes import ROOT


def until(seen) -> None:
    deadline = time.monotonic() + 10
    while not seen() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_run_that_goes_on_is_left_alone(tmp_path):
    reasons: list[str] = []
    with Watchdog(tmp_path, start_seconds=2, step_seconds=1, end_process=reasons.append) as dog:
        for step in range(16):
            dog.beat(step)
            time.sleep(0.1)
        dog.phase("evaluation")
        time.sleep(1.2)  # longer than a step may take
    assert reasons == []
    assert os.listdir(tmp_path) == ["heartbeat.json"]
    assert json.loads((tmp_path / "heartbeat.json").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("doing", ["starting", "training", "saving"])
def test_a_hang_is_noticed_named_and_written_down(tmp_path, doing):
    reasons: list[str] = []
    with Watchdog(tmp_path, start_seconds=0.3, step_seconds=0.3, end_process=reasons.append) as dog:
        if doing == "training":
            dog.beat(40)
            dog.beat(41)
        elif doing == "saving":
            dog.beat(41)
            dog.phase("saving")
        until(lambda: bool(reasons))
    step = 0 if doing == "starting" else 41
    assert f"{doing} at step {step} did not end within 0 s" in reasons[0]
    stacks = (tmp_path / "stacks_0.txt").read_text()
    assert doing in stacks
    assert "test_a_hang_is_noticed" in stacks


def test_a_long_step_is_no_hang_where_all_are_long(tmp_path):
    reasons: list[str] = []
    with Watchdog(tmp_path, start_seconds=5, step_seconds=0.1, end_process=reasons.append) as dog:
        for step in range(3):
            dog.beat(step)
            time.sleep(0.1)
        dog.beat(3)
        time.sleep(0.7)
    assert reasons == []


STUCK = """
import ctypes, pathlib, sys
from maskfeat_jax.distributed.watchdog import Watchdog
dog = Watchdog(pathlib.Path(sys.argv[1]), start_seconds=600, step_seconds=1)
dog.beat(0)
dog.beat(1)
ctypes.PyDLL(None).sleep(60)  # keeps Python's lock
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="timers of glibc")
def test_code_that_keeps_pythons_lock_is_ended_too(tmp_path):
    start = time.monotonic()
    command = [sys.executable, "-c", STUCK, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, timeout=50, check=False)
    assert done.returncode == 75
    assert time.monotonic() - start < 30
    assert "Thread" in pathlib.Path(tmp_path / "stacks_0.txt").read_text()
