"""Notices that a run hangs, writes down where, and ends it with code 75.

Two observers: a thread, which can say in `STATUS.json` what happened, and, for C code that never
gives Python's lock back, timers of the C library that need no lock.
"""

from __future__ import annotations

import collections
import faulthandler
import json
import os
import pathlib
import statistics
import threading
import time
from collections.abc import Callable
from types import TracebackType

from maskfeat_jax.distributed.dead_man import DeadMan
from maskfeat_jax.distributed.preemption import EXIT_CODE
from maskfeat_jax.files import write_atomically

_LOOK_SECONDS = 0.5
_LATER_SECONDS = 2.0  # when the thread should have seen it long ago
_HEARTBEAT_SECONDS = 15.0
_TIMES_MEDIAN = 10.0


class Watchdog:
    """Ends the process when `beat` is not called in time.

    Attributes:
      step: the last that was begun.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        process: int = 0,
        start_seconds: float = 1800.0,
        step_seconds: float = 300.0,
        end_process: Callable[[str], None] | None = None,
    ):
        """Starts watching.

        Args:
          workdir: gets `stacks_<process>.txt` when the run hangs, and `heartbeat.json` (process 0).
          process: number of this process.
          start_seconds: time until the second beat, and of phases that take long.
          step_seconds: time between two beats, or ten times the median of the last ones if that is
            more.
          end_process: what ends the process with a reason, see `Signals.end_process`; None: the
            timers alone.
        """
        self._start_seconds, self._step_seconds = start_seconds, step_seconds
        self._end_process = end_process
        self._heartbeat = workdir / "heartbeat.json" if process == 0 else None
        self._stacks = open(workdir / f"stacks_{process}.txt", "a+", encoding="utf-8")  # noqa: SIM115
        self._dead_man = DeadMan(EXIT_CODE)
        self._durations: collections.deque[float] = collections.deque(maxlen=100)
        self.step = 0
        self._doing = "starting"
        self._beats = 0
        self._last = time.monotonic()
        self._limit = start_seconds
        self._over = threading.Event()
        self._arming = threading.Lock()
        self._arm(start_seconds + _LATER_SECONDS)
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")
        self._thread.start()

    def beat(self, step: int) -> None:
        """Says that the run goes on: the update after so many is about to be made."""
        now = time.monotonic()
        if self._beats and self._doing == "training":
            self._durations.append(now - self._last)
        self._beats += 1
        self.step, self._doing, self._last = step, "training", now
        median = statistics.median(self._durations) if self._durations else 0.0
        enough = max(self._step_seconds, _TIMES_MEDIAN * median)
        before, self._limit = self._limit, self._start_seconds if self._beats == 1 else enough
        if self._limit < before:  # at once: what comes may keep the thread from doing it
            with self._arming:
                self._arm(self._limit + _LATER_SECONDS)

    def phase(self, doing: str) -> None:
        """Says that something else than an update begins, or goes on; it may take longer."""
        self._doing, self._last, self._limit = doing, time.monotonic(), self._start_seconds

    def close(self) -> None:
        """Stops watching."""
        self._over.set()
        self._thread.join()
        self._disarm()
        empty = not self._stacks.tell()
        self._stacks.close()
        if empty:
            pathlib.Path(self._stacks.name).unlink(missing_ok=True)

    def __enter__(self) -> Watchdog:
        """For `with`."""
        return self

    def __exit__(self, *_: type | BaseException | TracebackType | None) -> None:
        """Closes."""
        self.close()

    def _watch(self) -> None:
        beaten = -_HEARTBEAT_SECONDS
        while not self._over.wait(_LOOK_SECONDS):
            with self._arming:
                now = time.monotonic()
                left = self._last + self._limit - now
                if left > 0:
                    self._arm(left + _LATER_SECONDS)
            if left <= 0:
                return self._bite()
            if now - beaten > _HEARTBEAT_SECONDS:
                beaten = now
                self._write_heartbeat()

    def _bite(self) -> None:
        reason = f"{self._doing} at step {self.step} did not end within {self._limit:.0f} s"
        self._disarm()
        self._dead_man.arm(5)  # writing may hang as well
        self._stacks.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {reason}; threads:\n")
        self._stacks.flush()
        faulthandler.dump_traceback(self._stacks, all_threads=True)
        if self._end_process is not None:
            self._end_process(f"{reason}; see {self._stacks.name}")

    def _arm(self, seconds: float) -> None:
        faulthandler.dump_traceback_later(seconds, file=self._stacks)
        self._dead_man.arm(seconds + 1)

    def _disarm(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._dead_man.arm(0)

    def _write_heartbeat(self) -> None:
        """For whoever watches from outside."""
        if self._heartbeat is None:
            return
        words = {"step": self.step, "doing": self._doing, "time": time.time(), "pid": os.getpid()}
        try:
            write_atomically(self._heartbeat, json.dumps(words) + "\n")
        except OSError:
            return  # a full disk is not a hang
