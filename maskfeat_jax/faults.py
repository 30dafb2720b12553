"""Named points at which a test can make a run fail; without `MASKFEAT_FAULTS` they do nothing.

    MASKFEAT_FAULTS="save.before_manifest:kill@3; data.wait:sleep=60@10" python main.py ...

A plan is a list of `point:action=argument@n`. When a process reaches the point for the n-th time
(default: the first), the action is executed:

    kill             SIGKILL to itself
    term, int        SIGTERM or SIGINT to itself; the process then goes on
    raise=ENOSPC     OSError with this errno
    sleep=SECONDS    waits; forever without an argument
    spin             never returns and keeps the GIL, like a C library that hangs
    segv             reads address 0

Disk faults are injected below Python (`bench/faults/disk.c`), numerical ones by wrapping a step.
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
    "start.built": "the recipe is checked and the data listed; no work directory yet",
    "start.opened": "the work directory is opened and locked",
    "restore.before": "a good step is found, nothing is read yet",
    "restore.after": "the state is restored",
    "compile": "the first step is about to be compiled",
    "data.first": "waiting for the first batch",
    "data.wait": "waiting for a later batch",
    "step": "an update is about to be dispatched",
    "evaluate.batch": "a batch of an evaluation is about to be dispatched",
    "report": "a line of progress is about to be written",
    "save.begin": "a save is requested, nothing is written",
    "save.before_data": "the folder `<step>.saving` exists, its arrays are not written",
    "save.before_manifest": "the arrays are written, the manifest is not",
    "save.before_rename": "the manifest is written, the folder is not renamed to `<step>`",
    "save.after_rename": "the folder is renamed, older steps are not deleted",
    "save.deleting": "an old step is renamed, about to be deleted",
    "save.end": "the save is complete",
    "shutdown": "the last state is saved and evaluated",
}
_PLAN = re.compile(r"([a-z_.]+):(kill|term|int|raise|sleep|spin|segv)(?:=([\w.]+))?(?:@(\d+))?")
_SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}


class Fault(NamedTuple):
    """An action to execute when a point is reached for the n-th time."""

    point: str
    action: str
    argument: str
    nth: int


def plan(text: str) -> list[Fault]:
    """The faults of `MASKFEAT_FAULTS`.

    Raises:
      ValueError: an entry is malformed or names an unknown point.
    """
    faults = []
    for entry in filter(None, map(str.strip, text.split(";"))):
        match = _PLAN.fullmatch(entry)
        if match is None or match[1] not in POINTS:
            raise ValueError(
                f"MASKFEAT_FAULTS: {entry!r}: expected point:action=argument@n, with a point of "
                + ", ".join(POINTS)
            )
        faults.append(Fault(match[1], match[2], match[3] or "", int(match[4] or 1)))
    return faults


_faults = plan(os.environ.get("MASKFEAT_FAULTS", ""))
_reached: collections.Counter[str] = collections.Counter()


def fault_point(name: str) -> None:
    """Executes the actions planned for this point, if any."""
    if not _faults:
        return
    assert name in POINTS, name
    _reached[name] += 1
    for fault in _faults:
        if (fault.point, fault.nth) == (name, _reached[name]):
            _execute(fault)


def _execute(fault: Fault) -> None:
    if fault.action in _SIGNALS:
        os.kill(os.getpid(), _SIGNALS[fault.action])
    elif fault.action == "raise":
        number = getattr(errno, fault.argument)
        raise OSError(number, f"{os.strerror(number)} (planned at {fault.point})")
    elif fault.action == "sleep":
        time.sleep(float(fault.argument or 1e6))
    elif fault.action == "spin":
        ctypes.PyDLL(None).pause()  # PyDLL keeps the GIL
        while True:
            ctypes.PyDLL(None).sleep(1000)
    else:
        ctypes.string_at(0)
