"""Processes that watch each other, as threads of one; with JAX in processes_test.py."""

from __future__ import annotations

import concurrent.futures
import threading
import time

import pytest

from maskfeat_jax.distributed import peers as peers_module
from maskfeat_jax.distributed.peers import Peers
from tests.distributed.roll_call_test import call, members, port

__all__ = ["port"]


class Run:
    """Three processes of a run, in threads of this one."""

    def __init__(self, port, **settings):
        results = call(port, members(0, 1, 2, total=3))
        self.wires = [wires for wires, _ in results]
        self.known = [known for _, known in results]
        self.ended = [threading.Event() for _ in range(3)]
        self.reasons = [""] * 3
        self.settings = {"lost_seconds": 0.2, **settings}
        self.peers: dict[int, Peers] = {}

    def start(self, process):
        def end(reason):
            self.reasons[process] = reason
            self.ended[process].set()

        me = members(0, 1, 2, total=3)[process]
        wires, known = self.wires[process], self.known[process]
        self.peers[process] = Peers(me, wires, known, end, **self.settings)
        return self.peers[process]

    def close(self):
        for peers in self.peers.values():
            peers.close()


@pytest.fixture
def run(port):
    run = Run(port)
    yield run
    run.close()


def test_a_process_that_is_killed_is_named_in_the_others_which_end(run):
    run.start(0), run.start(2)
    run.wires[1][0].close()  # as the kernel does it
    for process in (0, 2):
        assert run.ended[process].wait(5)
        assert run.reasons[process].startswith("process 1 ('host1', pid 101) is gone")
        assert run.peers[process].lost


def test_without_process_0_the_others_end_too(run):
    run.start(1), run.start(2)
    for wire in run.wires[0].values():
        wire.close()
    for process in (1, 2):
        assert run.ended[process].wait(5)
        assert run.reasons[process].startswith("process 0 ('host0', pid 100) is gone")


def test_a_failure_is_told_and_leaves_the_others_time_to_end_by_themselves(run, monkeypatch):
    monkeypatch.setattr(peers_module, "_FAILED_SECONDS", 1.0)
    for process in range(3):
        run.start(process)
    start = time.monotonic()
    run.peers[2].fail("BadInput: clip.mp4")
    run.peers.pop(2).close()
    for process in (0, 1):
        assert run.ended[process].wait(5)
        assert run.reasons[process] == "process 2 ('host2', pid 102) failed: BadInput: clip.mp4"
    assert time.monotonic() - start > 0.9


def test_all_leave_together(run):
    for process in range(3):
        run.start(process)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        early = [pool.submit(run.peers[process].leave) for process in (0, 1)]
        time.sleep(0.5)
        assert not any(answer.done() for answer in early)
        assert run.peers[2].leave()
        assert all(answer.result(5) for answer in early)
    run.close()
    time.sleep(0.5)
    assert run.reasons == [""] * 3


def test_who_waits_for_the_others_is_let_go_when_one_is_lost(run):
    run.start(0), run.start(1)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        leaving = pool.submit(run.peers[1].leave)
        time.sleep(0.2)
        run.wires[2][0].close()
        assert leaving.result(5) is False


def test_silence_is_told_first_and_then_taken_for_the_end(port, capsys, monkeypatch):
    monkeypatch.setattr(peers_module, "_BEAT_SECONDS", 0.1)
    monkeypatch.setattr(peers_module, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(peers_module, "_WARN_SECONDS", 0.5)
    run = Run(port, silent_seconds=2.0)
    run.start(0), run.start(1)  # 2 is connected, but stopped
    assert run.ended[0].wait(20)
    assert run.ended[1].wait(20)
    assert "process 2 ('host2', pid 102) is gone: not a sign of life for 2 s" in run.reasons[1]
    warnings = [line for line in capsys.readouterr().err.splitlines() if "process 2" in line]
    assert len(warnings) == 1
    run.close()


def test_garbage_from_a_peer_ends_its_connection(run):
    run.start(0)
    run.wires[1][0]._socket.sendall(b"garbage\n")
    assert run.ended[0].wait(5)
    assert run.reasons[0].startswith("process 1")
