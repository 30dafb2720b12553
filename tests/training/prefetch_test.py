from __future__ import annotations

import threading
import time

import pytest

from maskfeat_jax.training.prefetch import Prefetcher


def rows(count, closed=None, error=None):
    try:
        for i in range(count):
            yield {"index": i}
        if error is not None:
            raise error
    finally:
        if closed is not None:
            closed.append(True)


def test_batches_come_in_order_each_once_and_ahead():
    transferred, closed = [], []

    def to_devices(batch):
        transferred.append(batch["index"])
        return {"index": -batch["index"]}

    batches = Prefetcher(rows(6, closed), to_devices, ahead=2)
    assert batches.peek() == {"index": 0}
    time.sleep(0.2)
    assert batches.next() == {"index": 0}
    assert len(transferred) >= 2  # the transfer of others has begun
    assert [batches.next()["index"] for _ in range(5)] == [-1, -2, -3, -4, -5]
    with pytest.raises(StopIteration):
        batches.next()
    batches.close()
    assert transferred == list(range(6))
    assert closed == [True]


def test_an_error_comes_after_the_batches_before_it():
    batches = Prefetcher(rows(3, error=ValueError("file 3")), lambda batch: batch)
    assert [batches.next()["index"] for _ in range(3)] == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(ValueError, match="file 3"):
            batches.next()
    batches.close()


def test_waiting_can_be_interrupted_and_a_stuck_loader_does_not_block_close(monkeypatch):
    monkeypatch.setattr("maskfeat_jax.training.prefetch._END_SECONDS", 0.1)
    stuck, asked = threading.Event(), iter([False, False, True])

    def never():
        stuck.wait(20)
        yield {}

    batches = Prefetcher(never(), lambda batch: batch)
    assert batches.next(lambda: next(asked)) is None
    start = time.monotonic()
    batches.close()
    assert time.monotonic() - start < 5
    stuck.set()


def test_closing_early_closes_the_iterator():
    closed = []
    batches = Prefetcher(rows(100, closed), lambda batch: batch)
    assert next(iter(batches)) == {"index": 0}
    batches.close()
    assert closed == [True]
