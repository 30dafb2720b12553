"""Ends a run that hangs, with code 1, after writing the stacks of its threads.

It uses `faulthandler`, whose thread does not need the GIL, so that it also ends C code that holds
the GIL. Nothing else runs then: `STATUS.json` still has the state "running".
"""

from __future__ import annotations

import collections
import contextlib
import faulthandler
import json
import os
import pathlib
import statistics
import time
from types import TracebackType

from maskfeat_jax.files import write_atomically

_HEARTBEAT_SECONDS = 15.0
_TIMES_MEDIAN = 10.0


class Watchdog:
    """Ends the process when neither `beat` nor `phase` is called in time."""

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        process: int = 0,
        start_seconds: float = 1800.0,
        step_seconds: float = 300.0,
    ):
        """Starts watching.

        Args:
          workdir: gets `stacks_<process>.txt` when the run hangs, and `heartbeat.json` (process 0).
          process: number of this process.
          start_seconds: time limit until the second beat, and of other phases.
          step_seconds: time limit between two beats, or ten times the median of the last ones if
            that is more.
        """
        self._start_seconds, self._step_seconds = start_seconds, step_seconds
        self._heartbeat = workdir / "heartbeat.json" if process == 0 else None
        self._stacks = open(workdir / f"stacks_{process}.txt", "a", encoding="utf-8")  # noqa: SIM115
        self._durations: collections.deque[float] = collections.deque(maxlen=100)
        self._step = 0
        self._doing = ""
        self._beats = 0
        self._last = self._written = time.monotonic()
        self.phase("starting")

    def beat(self, step: int) -> None:
        """Reports progress: `step` updates are made, the next one begins."""
        now = time.monotonic()
        if self._beats and self._doing == "training":
            self._durations.append(now - self._last)
        self._beats += 1
        self._step, self._last = step, now
        median = statistics.median(self._durations) if self._durations else 0.0
        enough = max(self._step_seconds, _TIMES_MEDIAN * median)
        self._begin("training", self._start_seconds if self._beats == 1 else enough)

    def phase(self, doing: str) -> None:
        """Reports that other work begins or goes on, which may take longer than an update."""
        self._begin(doing, self._start_seconds)

    def close(self) -> None:
        """Stops watching."""
        faulthandler.cancel_dump_traceback_later()
        empty = not os.fstat(self._stacks.fileno()).st_size
        self._stacks.close()
        if empty:
            pathlib.Path(self._stacks.name).unlink(missing_ok=True)

    def __enter__(self) -> Watchdog:
        """For `with`."""
        return self

    def __exit__(self, *_: type | BaseException | TracebackType | None) -> None:
        """Closes."""
        self.close()

    def _begin(self, doing: str, seconds: float) -> None:
        faulthandler.dump_traceback_later(seconds, exit=True, file=self._stacks)
        now = time.monotonic()
        if doing != self._doing or now - self._written > _HEARTBEAT_SECONDS:
            self._doing, self._written = doing, now
            self._write_heartbeat()

    def _write_heartbeat(self) -> None:
        """Writes `heartbeat.json`, for supervisors outside of the process."""
        if self._heartbeat is None:
            return
        words = {"step": self._step, "doing": self._doing, "time": time.time(), "pid": os.getpid()}
        with contextlib.suppress(OSError):  # a full disk is not a hang
            write_atomically(self._heartbeat, json.dumps(words) + "\n")
