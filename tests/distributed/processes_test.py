from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

import jax
import pytest

from maskfeat_jax.distributed import processes
from maskfeat_jax.distributed.processes import BadStart, ProcessesDiffer, code_hash, facts_of
from tests.recipes import ROOT

CHILD = """
import json, sys, time
from maskfeat_jax import processes

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

address, total, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
processes.start(coordinator=address, num_processes=total, process_id=number, timeout_seconds=60)
import jax
import numpy as np
said = {"count": jax.process_count(), "devices": jax.device_count()}
said["gather"] = processes.gather({"number": number, "text": "é" * 100 * number})
said["empty"] = processes.gather("")
said["agree"] = processes.agree(lambda: number * 10)
said["one fails"] = attempt(lambda: processes.agree(fail(1)))
said["all fail"] = attempt(lambda: processes.agree(fail(number)))
said["first"] = processes.on_first_process(lambda: 7 + number)
said["first fails"] = attempt(lambda: processes.on_first_process(fail(0)))
facts = processes.facts_of({"optim": {"lr": 0.1}}, "fingerprint")
said["same"] = attempt(lambda: processes.compare(facts))
if number == 1:
    facts["recipe.optim.lr"] = "0.2"
said["different"] = attempt(lambda: processes.compare(facts))
if number == 1:
    time.sleep(1.0)  # the others must wait
end = time.time()
processes.finish()
print("SAID", json.dumps({**said, "left": time.time(), "end": end}), flush=True)
"""


def start(
    code: str, total: int, devices: int = 1, env: Callable[[int], dict[str, str]] = lambda _: {}
) -> list[subprocess.Popen[str]]:
    """So many processes with a coordinator on a free port."""
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    flags = f"--xla_force_host_platform_device_count={devices}"
    return [
        subprocess.Popen(
            [sys.executable, "-c", code, f"localhost:{port}", str(total), str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, **env(number)},
        )
        for number in range(total)
    ]


@pytest.mark.parametrize(("total", "devices"), [(2, 2), pytest.param(4, 1, marks=pytest.mark.slow)])
def test_processes_gather_agree_compare_and_leave_together(total, devices):
    running = start(CHILD, total, devices)
    outputs = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0] * total, outputs
    said = [json.loads(out.split("SAID ")[1]) for out, _ in outputs]
    host = socket.gethostname()
    for number, words in enumerate(said):
        assert (words["count"], words["devices"]) == (total, total * devices)
        expected = [{"number": i, "text": "é" * 100 * i} for i in range(total)]
        assert words["gather"] == expected
        assert words["empty"] == [""] * total
        assert words["agree"] == number * 10
        assert words["one fails"] == (
            "KeyError: 'clip.mp4'"
            if number == 1
            else f"OtherProcessFailed: process 1 on {host} failed: KeyError: 'clip.mp4'"
        )
        assert words["all fail"] == "KeyError: 'clip.mp4'"
        assert words["first"] == 7
        assert words["first fails"].startswith("FirstProcessFailed" if number else "KeyError")
        assert words["same"] is None
        others = ", ".join(f"{i} ({host})" for i in range(total) if i != 1)
        assert words["different"].startswith(
            "ProcessesDiffer: the processes do not run the same:\n  recipe.optim.lr:\n"
        )
        assert f"    0.1: process {others}\n    0.2: process 1 ({host})\n" in words["different"]
    assert min(words["left"] for words in said) >= said[1]["end"]


IDLE = """
import sys, time
from maskfeat_jax import processes
processes.start(
    coordinator=sys.argv[1], num_processes=int(sys.argv[2]), process_id=int(sys.argv[3]),
    timeout_seconds=60,
)
processes.gather(0)
print("ready", flush=True)
time.sleep(100)
"""


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_who_loses_a_process_ends_with_code_75_and_names_it(victim):
    """Without help JAX aborts the others (134): at once when process 0 dies."""
    running = start(IDLE, 2)
    for process in running:
        assert "ready" in [process.stdout.readline() for _ in range(2)][1]  # the first is Gloo's
    running[victim].send_signal(signal.SIGKILL)
    other = running[1 - victim]
    words = other.communicate(timeout=60)[1]
    assert other.returncode == processes.EXIT_CODE, words
    gone = f"process {victim} ({socket.gethostname()!r}, pid {running[victim].pid}) is gone"
    assert gone in words
    running[victim].communicate()


ABORT = """
import os
from maskfeat_jax import peers

class Nobody:
    lost = ""

handler = peers.end_instead_of_abort(Nobody)
os.abort()
"""


def test_an_abort_with_nobody_lost_stays_an_abort_and_shows_the_stacks():
    done = subprocess.run([sys.executable, "-c", ABORT], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGABRT
    assert 'File "<string>", line 9' in done.stderr


def test_a_single_process_needs_nobody():
    processes.start()
    assert processes.gather({"a": (1, None)}) == [{"a": [1, None]}]
    assert processes.agree(lambda: 5) == 5
    with pytest.raises(KeyError):
        processes.agree(lambda: {}["a"])
    processes.compare(facts_of({}, "a"))
    processes.finish()
    processes.finish("an error")
    assert not jax.distributed.is_initialized()
    assert jax.config.jax_enable_preemption_service is False  # SIGTERM has one owner: us


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"coordinator": "a:1"}, "--num_processes, --process_id missing"),
        ({"num_processes": 2, "process_id": 0}, "--coordinator missing"),
        ({"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "expected 0 to 1"),
        ({"coordinator": "a", "num_processes": 2, "process_id": 1}, "expected host:port"),
        ({"distributed": True}, "JAX finds no cluster"),
    ],
)
def test_flags_that_do_not_say_how_to_find_the_others(flags, words):
    with pytest.raises(BadStart, match=words):
        processes.start(**flags, timeout_seconds=1)


def test_slurm_says_where_the_others_are(monkeypatch):
    for name, value in {
        "SLURM_JOB_ID": "4100",
        "SLURM_STEP_NODELIST": "node[07-09],other",
        "SLURM_NTASKS": "4",
        "SLURM_PROCID": "2",
        "SLURM_LOCALID": "1",
    }.items():
        monkeypatch.setenv(name, value)
    place = processes._found_by_jax(1)
    assert place == ("node07:61444", 4, 2, [1])


FOUND = """
from maskfeat_jax import processes
processes.start(distributed=True, timeout_seconds=60)
import jax
print("SAID", processes.gather(jax.process_index()), jax.process_index())
processes.finish()
"""


@pytest.mark.slow
def test_two_processes_find_each_other_as_under_slurm():
    job = str(os.getpid())  # the port is made of it

    def slurm(number: int) -> dict[str, str]:
        return {
            "SLURM_JOB_ID": job,
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": str(number),
            "SLURM_LOCALID": str(number),
        }

    running = start(FOUND, 2, env=slurm)
    outputs = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    for number, (out, _) in enumerate(outputs):
        assert f"SAID [0, 1] {number}" in out


def test_the_hash_of_the_code_sees_each_byte_and_each_name(tmp_path):
    def write(**files: str) -> str:
        for name in ("maskfeat_jax", "input_pipeline"):
            (tmp_path / name).mkdir(exist_ok=True)
        for path in tmp_path.rglob("*.py"):
            path.unlink()
        for name, text in files.items():
            (tmp_path / name.replace("__", "/")).with_suffix(".py").write_text(text)
        return code_hash(tmp_path)

    hashes = [
        write(main="1", maskfeat_jax__a="2", input_pipeline__b="3"),
        write(main="1", maskfeat_jax__a="2", input_pipeline__b="4"),
        write(main="1", maskfeat_jax__a="2", input_pipeline__c="3"),
        write(main="5", maskfeat_jax__a="2", input_pipeline__b="3"),
        write(main="1", maskfeat_jax__a="23", input_pipeline__b=""),
    ]
    assert len(set(hashes)) == len(hashes)
    again = write(input_pipeline__b="3", maskfeat_jax__a="2", main="1", elsewhere="9")
    assert again == hashes[0]
    assert facts_of({})["code"] == code_hash() != hashes[0]


def test_a_table_of_many_processes_stays_short():
    rows = [(f"h{i}", {"jax": "1"}) for i in range(100)]
    rows[7] = ("h7", {"jax": "2", "av": "3"})
    text = processes._table(rows)
    assert "    1: process 0 (h0), 1 (h1)" in text
    assert "and 91 more" in text
    assert "    2: process 7 (h7)" in text
    assert "    3: process 7 (h7)" in text
    assert len(text) < 500


def test_processes_with_different_numbers_of_devices_differ(monkeypatch):
    class Device:
        process_index = 0

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "devices", lambda: [Device()] * 3)
    with pytest.raises(ProcessesDiffer, match="process 0 has 3, process 1 has 0"):
        processes.compare({})


def test_errors_that_mean_that_a_process_was_lost(monkeypatch):
    gloo = jax.errors.JaxRuntimeError("Gloo all-reduce failed: Connection closed by peer")
    assert not processes.is_lost_peer(gloo)  # a single process

    class Peers:
        lost = ""

    monkeypatch.setattr(processes._Run, "peers", Peers)
    assert processes.is_lost_peer(gloo)
    wrapped = RuntimeError("the step could not be saved")
    wrapped.__cause__ = gloo
    assert processes.is_lost_peer(wrapped)
    assert not processes.is_lost_peer(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: memory"))
    assert not processes.is_lost_peer(ValueError("gloo"))
    Peers.lost = "process 1 is gone"
    assert processes.is_lost_peer(ValueError("anything else, then, is a consequence"))
    assert not processes.is_lost_peer(ProcessesDiffer("but this says itself what is wrong"))
    behind = ProcessesDiffer("unless this is behind it")
    behind.__cause__ = gloo
    assert processes.is_lost_peer(behind)
