"""The end of a process is reported, and the next job has a new one."""

from __future__ import annotations

import ctypes
import os
import time

from bench.faults.isolation import Died, Hung, each


def act(job: str):
    if job == "crash":
        ctypes.string_at(0)
    if job == "end":
        os._exit(3)
    if job == "hang":
        time.sleep(100)
    if job == "spin":
        ctypes.PyDLL(None).sleep(100)  # with Python's lock
    if job == "eat":
        return len(bytes(4 << 30))
    if job == "raise":
        raise IndexError("no 3")
    return job


def test_each():
    jobs = ["fine", "crash", "end", "raise", "hang", "eat", "spin", "fine"]
    outcomes = dict(zip(range(8), [o for _, o in each(act, jobs, 1.0, 2 << 30)], strict=True))
    assert outcomes[0] == outcomes[7] == "fine"
    assert outcomes[1] == Died(-11)
    assert outcomes[2] == Died(3)
    assert outcomes[3] == "IndexError: no 3"
    assert outcomes[4] == outcomes[6] == Hung(1.0)
    assert outcomes[5].startswith("MemoryError")
