"""Saving in the background: what it blocks, and when its errors are raised."""

from __future__ import annotations

import errno
import pathlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskfeat_jax.checkpoints import arrays as stored_arrays
from maskfeat_jax.checkpoints import checkpointer as checkpoint
from maskfeat_jax.checkpoints import storage
from maskfeat_jax.checkpoints.checkpointer import CheckpointError, Checkpoints

STATE = {"w": jnp.arange(1000.0), "n": jnp.int32(7)}


class Writer:
    """Takes the place of Orbax's: waits until it may go on, and fails a given number of times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.go_on = threading.Event()
        self.go_on.set()
        self.errors: list[Exception] = []
        self.before = lambda *arguments: None
        self.calls = self.running = self.most_at_once = 0
        self._save = stored_arrays.ocp.save
        monkeypatch.setattr(stored_arrays.ocp, "save", self)

    def __call__(self, *arguments: Any) -> None:
        self.calls += 1
        self.before(*arguments)
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        self.go_on.wait(30)
        self.running -= 1
        if self.errors:
            raise self.errors.pop()
        self._save(*arguments)


@pytest.fixture
def writer(monkeypatch) -> Iterator[Writer]:
    writer = Writer(monkeypatch)
    yield writer
    writer.go_on.set()


def full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def test_a_state_may_be_given_away_and_overwritten_as_soon_as_it_is_copied(tmp_path, writer):
    state = {"device": jnp.arange(100_000.0), "host": np.arange(5, dtype=np.float32)}
    expected = {name: np.array(leaf) for name, leaf in state.items()}
    like = jax.eval_shape(lambda: state)
    spoil = jax.jit(lambda array: array * 0 - 1, donate_argnums=0)
    checkpoints = Checkpoints(tmp_path)
    writer.go_on.clear()
    checkpoints.save(1, state, {})
    spoilt = spoil(state["device"]).block_until_ready()
    state["host"][:] = -1
    assert state["device"].is_deleted()  # its memory was free to be used again
    writer.go_on.set()
    checkpoints.finish()
    restored, _ = checkpoints.restore(1, like)
    for name, array in expected.items():
        np.testing.assert_array_equal(restored[name], array)
    assert (spoilt == -1).all()


def test_work_goes_on_while_a_save_is_written_and_no_two_overlap(tmp_path, writer):
    checkpoints = Checkpoints(tmp_path)
    writer.go_on.clear()
    checkpoints.save(1, STATE, {})
    assert checkpoints.steps() == []
    checkpoints.save(1, STATE, {})  # is being written already
    threading.Timer(1.5, writer.go_on.set).start()
    begun = time.perf_counter()
    checkpoints.save(2, STATE, {})
    assert 1.2 < checkpoints.waited_s <= checkpoints.blocked_s <= time.perf_counter() - begun
    assert checkpoints.steps() in ([1], [1, 2])
    assert checkpoints.written_s > 1.2
    (sentence,) = checkpoints.messages()
    assert sentence.startswith("step 2 waited ")
    assert "for the save of step 1: the disk writes 0.0 MB/s; save less often" in sentence
    assert checkpoints.latest_good() == 2
    assert (writer.calls, writer.most_at_once) == (2, 1)


@pytest.mark.parametrize(
    "late",
    [
        Checkpoints.finish,
        lambda checkpoints: checkpoints.save(3, STATE, {}),
        Checkpoints.latest_good,
        lambda checkpoints: checkpoints.restore(1, STATE),
        lambda checkpoints: checkpoints.__exit__(None, None, None),
    ],
)
def test_an_error_is_raised_at_the_next_call_and_the_step_is_not_remembered(tmp_path, writer, late):
    checkpoints = Checkpoints(tmp_path, pause_s=0)
    checkpoints.save(1, STATE, {})
    checkpoints.finish()
    writer.errors = [full(), full()]
    checkpoints.save(2, STATE, {})
    with pytest.raises(CheckpointError) as caught:
        late(checkpoints)
    message = str(caught.value)
    assert f"step 2 could not be saved in {tmp_path}: No space left on device" in message
    assert "GB are free" in message
    assert [path.name for path in tmp_path.iterdir()] == ["1"]  # nor is its half there
    assert checkpoints.latest_good() == 1
    checkpoints.save(2, STATE, {})
    assert checkpoints.latest_good() == 2


def test_an_error_of_the_caller_waits_for_the_save_and_tells_if_it_failed_too(tmp_path, writer):
    def save_and_fail(step: int) -> None:
        with Checkpoints(tmp_path, pause_s=0) as checkpoints:
            checkpoints.save(step, STATE, {})
            raise KeyError

    with pytest.raises(KeyError):
        save_and_fail(1)
    assert Checkpoints(tmp_path).latest_good() == 1
    writer.errors = [full(), full()]
    with pytest.raises(KeyError) as caught:
        save_and_fail(2)
    assert caught.value.__notes__ == ["step 2 could not be saved: No space left on device"]


def test_once_more_after_a_pause_without_what_the_first_try_still_writes(
    tmp_path, writer, monkeypatch
):
    first: list[pathlib.Path] = []
    commit = storage.Storage.commit

    def write_late(self: storage.Storage, step: int, temporary: pathlib.Path, body: Any) -> None:
        (first[0] / "late").mkdir(parents=True, exist_ok=True)
        (first[0] / "late" / "file").write_text("of the first try")
        commit(self, step, temporary, body)

    monkeypatch.setattr(storage.Storage, "commit", write_late)
    writer.before = lambda directory, _: first.append(directory)
    writer.errors = [OSError(errno.EIO, "Input/output error")]
    slept: list[float] = []
    monkeypatch.setattr(checkpoint.time, "sleep", slept.append)
    checkpoints = Checkpoints(tmp_path, pause_s=7.5)
    checkpoints.save(1, STATE, {})
    checkpoints.finish()
    assert 7.5 in slept
    assert checkpoints.messages() == [
        "step 1 could not be saved (Input/output error); trying again"
    ]
    assert not list((tmp_path / "1").rglob("late"))
    assert {path.name for path in tmp_path.iterdir()} == {"1", "1.saving"}
    assert checkpoints.latest_good() == 1
    assert {path.name for path in tmp_path.iterdir()} == {"1"}


def test_a_full_disk_costs_the_oldest_good_step_but_not_the_newest(tmp_path, writer):
    checkpoints = Checkpoints(tmp_path, keep_last=9, pause_s=0)

    def fill_disk_and_save(step: int) -> str:
        writer.errors = [full()]
        checkpoints.save(step, STATE, {})
        checkpoints.finish()
        return checkpoints.messages()[0]

    for step in (11, 12, 13, 14, 15):
        checkpoints.save(step, STATE, {})
    checkpoints.finish()
    for damaged in ("11", "15"):
        (tmp_path / damaged / "manifest.json").unlink()
    for step, left in ((16, [11, 13, 14, 15, 16]), (17, [11, 14, 15, 16, 17])):
        assert f"; step {step - 4} was deleted to make room; trying again" in fill_disk_and_save(
            step
        )
        assert checkpoints.steps() == left
    for damaged in ("14", "17"):
        (tmp_path / damaged / "manifest.json").unlink()
    assert "no older step to delete" in fill_disk_and_save(18)
    assert checkpoints.steps() == [11, 14, 15, 16, 17, 18]  # 16 was the newest good one


def test_little_space_is_reported_before_it_is_needed(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    usage = storage.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: usage._replace(free=6006))
    checkpoints.check_space(STATE)
    assert checkpoints.messages() == []
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: usage._replace(free=6005))
    for call in (checkpoints.check_space, lambda state: checkpoints.save(1, state, {})):
        call(STATE)
        (sentence,) = checkpoints.messages()
        assert "0.00 GB are free, a checkpoint needs 0.00 GB; make room" in sentence
    checkpoints.finish()
