"""Programs of several real processes, with Gloo on CPU."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from tests.recipes import ROOT

ABORTED = -signal.SIGABRT  # JAX's own end; 134 in a shell
HOST = socket.gethostname()

COLLECTIVES = """
import json, sys, time
from maskfeat_jax.distributed.collectives import agree, gather, on_first_process
from maskfeat_jax.distributed.compare import compare, facts_of
from maskfeat_jax.distributed.start import finish, start

def attempt(action):
    try:
        return action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def fail(here):
    def action():
        if jax.process_index() == here:
            raise KeyError("clip.mp4")
        return jax.process_index()
    return action

start(**json.loads(sys.argv[1]))
import jax
number = jax.process_index()
said = {"count": jax.process_count(), "devices": jax.device_count()}
said["gather"] = gather({"number": number, "text": "é" * 100 * number})
said["empty"] = gather("")
said["agree"] = agree(lambda: number * 10)
said["one fails"] = attempt(lambda: agree(fail(1)))
said["all fail"] = attempt(lambda: agree(fail(number)))
said["first"] = on_first_process(lambda: 7 + number)
said["first fails"] = attempt(lambda: on_first_process(fail(0)))
facts = facts_of({"optim": {"lr": 0.1}}, "fingerprint")
said["same"] = attempt(lambda: compare(facts))
if number == 1:
    facts["recipe.optim.lr"] = "0.2"
said["different"] = attempt(lambda: compare(facts))
if number == 1:
    time.sleep(1.0)  # the others must wait
end = time.time()
finish()
print("SAID", json.dumps({**said, "left": time.time(), "end": end}), flush=True)
"""

IDLE = """
import json, sys, time
from maskfeat_jax.distributed.collectives import gather
from maskfeat_jax.distributed.start import start
start(**json.loads(sys.argv[1]))
gather(0)
print("ready", flush=True)
time.sleep(100)
"""


def free_port() -> int:
    with socket.create_server(("", 0)) as free:
        return free.getsockname()[1]


def program(code: str, options: dict, **env: str) -> subprocess.Popen[str]:
    """A process that gives some options to `start`."""
    return subprocess.Popen(
        [sys.executable, "-c", code, json.dumps({"timeout_seconds": 60, **options})],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **env},
    )


def programs(code: str, total: int, absent: int = -1, **options: float) -> list:
    """So many processes, but for an absent one."""
    place = {"coordinator": f"localhost:{free_port()}", "num_processes": total, **options}
    return [
        program(code, {**place, "process_id": number})
        for number in range(total)
        if number != absent
    ]


def under_slurm(code: str, total: int, devices: int) -> list:
    """So many processes that JAX joins by what Slurm says."""
    common = {
        "SLURM_JOB_ID": str(os.getpid()),  # the port is made of it
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(total),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    return [
        program(code, {"distributed": True}, **common, SLURM_PROCID=str(i), SLURM_LOCALID=str(i))
        for i in range(total)
    ]


@pytest.mark.parametrize("total", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_gather_agree_compare_and_leave_together(total):
    devices = 2 if total == 2 else 1
    running = under_slurm(COLLECTIVES, 2, 2) if total == 2 else programs(COLLECTIVES, total)
    outputs = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0] * total, outputs
    said = [json.loads(out.split("SAID ")[1]) for out, _ in outputs]
    for number, words in enumerate(said):
        assert (words["count"], words["devices"]) == (total, total * devices)
        expected = [{"number": i, "text": "é" * 100 * i} for i in range(total)]
        assert words["gather"] == expected
        assert words["empty"] == [""] * total
        assert words["agree"] == number * 10
        assert words["one fails"] == (
            "KeyError: 'clip.mp4'"
            if number == 1
            else f"OtherProcessFailed: process 1 on {HOST} failed: KeyError: 'clip.mp4'"
        )
        assert words["all fail"] == "KeyError: 'clip.mp4'"
        assert words["first"] == 7
        assert words["first fails"].startswith("FirstProcessFailed" if number else "KeyError")
        assert words["same"] is None
        others = ", ".join(f"{i} ({HOST})" for i in range(total) if i != 1)
        assert words["different"].startswith(
            "ProcessesDiffer: the processes do not run the same:\n  recipe.optim.lr:\n"
        )
        assert f"    0.1: process {others}\n    0.2: process 1 ({HOST})\n" in words["different"]
    assert min(words["left"] for words in said) >= said[1]["end"]


@pytest.mark.parametrize("victim", [0, 1])
def test_who_loses_a_process_outside_of_a_collective_is_aborted_by_jax(victim):
    running = programs(IDLE, 2, heartbeat_seconds=10)
    for process in running:
        assert "ready" in [process.stdout.readline() for _ in range(2)][1]  # the first is Gloo's
    running[victim].send_signal(signal.SIGKILL)
    words = running[1 - victim].communicate(timeout=30)[1]  # the heartbeat time-out, or at once
    assert running[1 - victim].returncode == ABORTED, words
    said = "unhealthy (stopped sending heartbeats):\n1\n" if victim else "leader task was preempted"
    assert said in words
    running[victim].communicate()


def test_who_does_not_come_is_named_in_the_others_which_jax_aborts():
    running = programs(IDLE, 3, absent=1, timeout_seconds=5)
    for number, process in zip((0, 2), running, strict=True):
        words = process.communicate(timeout=60)[1]
        assert process.returncode == ABORTED, words
        assert f"process {number} of 3 on {HOST}: waiting up to 5 s" in words
        assert "# of tasks that reached the barrier: 2/3." in words
        assert "timed out task names:\n1\n" in words
