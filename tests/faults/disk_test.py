"""The disk that fails on demand reaches what TensorStore writes, and a run survives it."""

from __future__ import annotations

import errno
import os
import statistics

import pytest

from bench.faults.disk import COMPILER, MISSING
from bench.faults.saver import ARRAYS, saver


@pytest.mark.skipif(COMPILER is None, reason=MISSING)
def test_a_disk_that_fails_in_whatever_way_costs_no_good_step(tmp_path):
    with saver(tmp_path) as child:
        assert child.ask(step=1)["ok"]
        for step, (rules, words) in enumerate(
            [
                ({"ops": "write", "errno": errno.ENOSPC, "after": 10**6, "match": ARRAYS}, "space"),
                ({"ops": "write", "errno": errno.ENOSPC, "match": "manifest.json"}, "space"),
                ({"ops": "fsync", "errno": errno.EIO, "match": ARRAYS}, "Input/output error"),
                ({"ops": "rename,mkdir,open", "errno": errno.EROFS}, "Read-only file system"),
                ({"ops": "open", "errno": errno.EACCES}, "Permission denied"),
            ],
            start=2,
        ):
            child.disk.fail(child.directory, **rules)
            answer = child.ask(step=step)
            assert words in answer["error"]
            assert (
                f"step {step} could not be saved ({os.strerror(int(rules['errno']))}"
                in (answer["messages"][0])
            )
            child.disk.heal()
            assert child.ask(find=True)["found"] == 1
        for step, match in ((8, "manifest.json"), (9, ARRAYS)):  # the second try succeeds
            once = {"errno": errno.EIO, "tear": 1, "times": 1, "match": match}
            child.disk.fail(child.directory, ops="write", **once)
            answer = child.ask(step=step)
            assert answer["ok"]
            assert "Input/output error" in " ".join(answer["messages"])
            child.disk.heal()
            assert child.ask(find=True)["found"] == step
        assert child.ask(step=10)["steps"] == [8, 9, 10]
        assert not list(child.directory.glob("*.saving"))


@pytest.mark.skipif(COMPILER is None, reason=MISSING)
def test_work_goes_on_while_a_slow_disk_is_written_to(tmp_path):
    with saver(tmp_path) as child:
        assert child.ask(step=1)["ok"]
        child.disk.fail(child.directory, rate=4e5)  # 1.8 MB after compression
        answer = child.ask(step=2, work_s=0.5)
        assert answer["steps_meanwhile"] == [1]
        blocked_s, medium_s = answer["blocked_s"], statistics.median(answer["work_s"])
        answer = child.ask(step=3)
        assert answer["steps"] == [1, 2, 3]
        assert answer["written_s"] > 4  # of step 3, after step 2
        assert blocked_s < 2
        assert medium_s < 0.1
