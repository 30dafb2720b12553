"""Named points at which a test can make a run fail; without `MASKFEAT_FAULTS` they do nothing.

    MASKFEAT_FAULTS="save.before_manifest:kill@3; data.wait:sleep=60@10" python main.py ...

A plan is a list of `point:action=argument@n`: at the n-th time (the first, if none is given) that a
process comes to the point, this is done:

    kill             SIGKILL to itself
    term, int        SIGTERM or SIGINT to itself; the process then goes on
    raise=ENOSPC     OSError with this errno
    sleep=SECONDS    waits, for ever without an argument
    spin             never returns and never lets another Python thread run, as a stuck C library
    segv             reads address 0

Faults of disks are made below Python (`bench/faults/disk.c`), those of numbers by wrapping a step.
"""

from __future__ import annotations

import collections
import ctypes
import errno
import os
import re
import signal
import time
from typing import NamedTuple

POINTS = {
    "start.imported": "nothing is built yet",
    "start.built": "the recipe is checked, the data listed; no work directory yet",
    "start.opened": "the work directory is this run's",
    "restore.before": "a good step is found, nothing is read",
    "restore.after": "the state is restored",
    "compile": "the first step is about to be compiled",
    "data.first": "the first batch is waited for",
    "data.wait": "a later batch is waited for",
    "step": "an update is about to be dispatched",
    "evaluate.batch": "a batch of an evaluation is about to be dispatched",
    "report": "a line of progress is about to be written",
    "save.begin": "a save is asked for, nothing is written",
    "save.before_data": "`<step>.saving` is made, its arrays are not written",
    "save.before_manifest": "the arrays are written, the manifest is not",
    "save.before_rename": "the manifest is written, the step has no name yet",
    "save.after_rename": "the step has its name, older ones are not deleted",
    "save.deleting": "an old step is renamed and about to be deleted",
    "save.end": "everything of a save is done",
    "shutdown": "the last state is saved and evaluated",
}
_PLAN = re.compile(r"([a-z_.]+):(kill|term|int|raise|sleep|spin|segv)(?:=([\w.]+))?(?:@(\d+))?")
_SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}


class Fault(NamedTuple):
    """What happens at the n-th time that a point is reached."""

    point: str
    action: str
    argument: str
    nth: int


def plan(text: str) -> list[Fault]:
    """The faults of `MASKFEAT_FAULTS`.

    Raises:
      ValueError: a part of it is not understood.
    """
    faults = []
    for part in filter(None, map(str.strip, text.split(";"))):
        match = _PLAN.fullmatch(part)
        if match is None or match[1] not in POINTS:
            raise ValueError(f"MASKFEAT_FAULTS: {part!r} is not understood; points: {[*POINTS]}")
        faults.append(Fault(match[1], match[2], match[3] or "", int(match[4] or 1)))
    return faults


_faults = plan(os.environ.get("MASKFEAT_FAULTS", ""))
_reached: collections.Counter[str] = collections.Counter()


def fault_point(name: str) -> None:
    """Does what the plan says for this point; nothing without a plan."""
    if not _faults:
        return
    assert name in POINTS, name
    _reached[name] += 1
    for fault in _faults:
        if (fault.point, fault.nth) == (name, _reached[name]):
            _happen(fault)


def _happen(fault: Fault) -> None:
    if fault.action in _SIGNALS:
        os.kill(os.getpid(), _SIGNALS[fault.action])
    elif fault.action == "raise":
        number = getattr(errno, fault.argument)
        raise OSError(number, f"{os.strerror(number)} (planned at {fault.point})")
    elif fault.action == "sleep":
        time.sleep(float(fault.argument or 1e6))
    elif fault.action == "spin":
        ctypes.PyDLL(None).pause()  # PyDLL keeps Python's lock
        while True:
            ctypes.PyDLL(None).sleep(1000)
    else:
        ctypes.string_at(0)
