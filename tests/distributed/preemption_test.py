"""Signals, sent to this very process; only ending it is replaced."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from maskfeat_jax.distributed.preemption import Signals, Stopped


@pytest.fixture
def ended():
    """Codes that the process would have ended with."""
    return []


@pytest.fixture
def signals(ended):
    taken = Signals(grace_seconds=60, exit_process=ended.append)
    yield taken
    taken.restore()


def send(number: int, seen) -> None:
    os.kill(os.getpid(), number)
    deadline = time.monotonic() + 5
    while not seen() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert seen()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_nothing_else_happens(signals, ended, number):
    assert not signals.stopping
    send(number, lambda: signals.stopping)
    assert signals.reason == signal.Signals(number).name
    assert ended == []


def test_usr1_asks_to_save_only(signals, ended):
    send(signal.SIGUSR1, signals.on_usr1.is_set)
    assert not signals.stopping
    assert ended == []


def test_where_nothing_is_lost_the_process_ends_at_once(signals, ended):
    reasons = []
    signals.before_exit = reasons.append
    with signals.nothing_to_lose():
        send(signal.SIGTERM, lambda: bool(ended))
    assert ended == [75]
    assert reasons == ["SIGTERM, nothing was lost"]


def test_a_signal_before_is_found_at_the_door(signals, ended):
    send(signal.SIGTERM, lambda: signals.stopping)
    with pytest.raises(Stopped), signals.nothing_to_lose():
        raise AssertionError("not reached")
    assert ended == []


def test_a_second_signal_ends_the_process_but_not_its_echo(signals, ended):
    send(signal.SIGTERM, lambda: signals.stopping)
    os.kill(os.getpid(), signal.SIGTERM)  # to the process and to its group
    time.sleep(0.1)
    assert ended == []
    time.sleep(0.6)
    send(signal.SIGTERM, lambda: bool(ended))
    assert ended == [75]


def test_the_grace_time_ends(ended, capfd):
    taken = Signals(grace_seconds=0.2, exit_process=ended.append)
    send(signal.SIGTERM, lambda: bool(ended))
    taken.restore()
    assert ended == [75]
    assert "test_the_grace_time_ends" in capfd.readouterr().err  # where the main thread was


def test_the_process_ends_even_if_the_last_words_cannot_be_written(signals, ended):
    def fail(reason: str) -> None:
        raise OSError("disk full")

    signals.before_exit = fail
    with pytest.raises(OSError, match="disk full"):
        signals.end_process("test")
    assert ended == [75]


def test_handlers_are_taken_back_from_whoever_replaced_them(signals):
    assert not signals.take_back()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signals.take_back()
    assert not signals.take_back()
    send(signal.SIGTERM, lambda: signals.stopping)


def test_a_stolen_wake_up_pipe_only_delays(signals):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    ours = signal.set_wakeup_fd(writer)
    try:
        send(signal.SIGTERM, lambda: signals.stopping)
    finally:
        signal.set_wakeup_fd(ours)
        os.close(reader)
        os.close(writer)


def test_handlers_are_put_back():
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    Signals(exit_process=lambda code: None).restore()
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before
    time.sleep(0.05)
    assert not [t for t in threading.enumerate() if t.name == "signals" and t.is_alive()]
