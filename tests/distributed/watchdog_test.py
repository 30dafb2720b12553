from __future__ import annotations

import faulthandler
import json
import os
import subprocess
import sys
import time

import pytest

from maskfeat_jax.distributed import watchdog
from maskfeat_jax.distributed.watchdog import Watchdog
from tests.recipes import ROOT


@pytest.fixture
def limits(monkeypatch):
    """Seconds that the watchdog has allowed, newest last; nothing is ended."""
    allowed: list[float] = []

    def later(seconds, exit, file):
        assert exit
        allowed.append(seconds)

    monkeypatch.setattr(faulthandler, "dump_traceback_later", later)
    return allowed


@pytest.fixture
def clock(monkeypatch):
    """A clock to set by hand."""
    now = [1000.0]
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: now[0])
    return now


def test_the_start_the_first_step_and_phases_have_more_time_than_steps(tmp_path, limits):
    with Watchdog(tmp_path, start_seconds=60, step_seconds=3) as dog:
        dog.beat(0)
        assert limits == [60, 60]
        dog.beat(1)
        dog.phase("saving")
        dog.beat(2)
        assert limits[2:] == [3, 60, 3]
    assert os.listdir(tmp_path) == ["heartbeat.json"]


def test_a_long_step_is_no_hang_where_all_are_long(tmp_path, limits, clock):
    with Watchdog(tmp_path, start_seconds=60, step_seconds=3) as dog:
        for step in range(4):
            dog.beat(step)
            clock[0] += 2
        dog.phase("evaluation")
        clock[0] += 500  # no step
        dog.beat(4)
    assert limits[-1] == 20  # ten times the median


def test_the_heartbeat_says_what_the_run_does(tmp_path, limits, clock):
    def heartbeat():
        return json.loads((tmp_path / "heartbeat.json").read_text())

    with Watchdog(tmp_path) as dog, Watchdog(tmp_path, process=1):
        assert heartbeat()["doing"] == "starting"
        dog.beat(7)
        before = heartbeat()
        assert before.items() >= {"doing": "training", "step": 7, "pid": os.getpid()}.items()
        clock[0] += 10
        dog.beat(8)
        assert heartbeat() == before  # not at every step
        clock[0] += 10
        dog.beat(9)
        assert heartbeat()["step"] == 9
        dog.phase("saving")
        assert heartbeat()["doing"] == "saving"


def test_a_heartbeat_that_cannot_be_written_is_no_hang(tmp_path, limits):
    (tmp_path / "heartbeat.json").mkdir()
    with Watchdog(tmp_path) as dog:
        dog.beat(0)


STUCK = """
import ctypes, pathlib, sys
from maskfeat_jax.distributed.watchdog import Watchdog
dog = Watchdog(pathlib.Path(sys.argv[1]), start_seconds=600, step_seconds=1)
dog.beat(40)
dog.beat(41)
ctypes.PyDLL(None).sleep(60)  # keeps Python's lock
"""


def test_a_hang_is_ended_and_written_down_also_in_code_that_keeps_pythons_lock(tmp_path):
    start = time.monotonic()
    command = [sys.executable, "-c", STUCK, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, timeout=50, check=False)
    assert done.returncode == 1
    assert time.monotonic() - start < 30
    stacks = (tmp_path / "stacks_0.txt").read_text()
    assert stacks.startswith("Timeout (0:00:01)!\nThread")
    assert 'File "<string>", line 7' in stacks
    assert json.loads((tmp_path / "heartbeat.json").read_text())["doing"] == "training"


def test_a_run_that_is_closed_is_not_ended(tmp_path):
    with Watchdog(tmp_path, start_seconds=0.2):
        pass
    time.sleep(0.5)  # else this very process would end
    assert os.listdir(tmp_path) == ["heartbeat.json"]
