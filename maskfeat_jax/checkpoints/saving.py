"""A save on its way to the disk: work in a thread, and what all processes know of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
from jax.experimental import multihost_utils

_RUNNING, _DONE, _FAILED = 0, 1, 2  # what processes tell each other of their part


class Writing:
    """Work in a thread.

    The program does not end before the work: a thread that is cut off inside a library of C++ takes
    the process down with an abort. What is begun when the program is about to end may fail, though,
    as the libraries then start no threads any more: settle it before.

    Attributes:
      step: that is saved.
      bytes: of its arrays in memory.
      seconds: from the call of `save` to the end of the work, when it has ended.
      error: what this process's work raised, when it has ended.
    """

    def __init__(self, step: int, begun: float, size: int, work: Callable[[], None]):
        """Starts the work.

        Args:
          step: that is saved.
          begun: `time.perf_counter()` at the call of `save`.
          size: of its arrays in memory, bytes.
          work: this process's part; no collective operations of JAX, they belong to main threads.
        """
        self.step = step
        self.bytes = size
        self.seconds = 0.0
        self.error: BaseException | None = None
        self._begun = begun
        self._ended = threading.Event()
        threading.Thread(target=self._run, args=(work,), name="checkpoint").start()

    def __str__(self) -> str:
        speed = self.bytes / 1e6 / self.seconds
        return f"the save of step {self.step}: the disk writes {speed:.1f} MB/s"

    def wait(self) -> list[int]:
        """Waits for the end in all processes, which all call it; the numbers of those that failed.

        Returns as soon as one has failed: in others the work may then wait for it in vain.
        """
        while True:
            # Short waits: an operation of all processes must not wait long for one of them.
            self._ended.wait(0.2)
            states = np.ravel(multihost_utils.process_allgather(np.int32(self._state())))
            if _FAILED in states or _RUNNING not in states:
                return [int(i) for i in np.flatnonzero(states == _FAILED)]

    def wait_here(self) -> BaseException | None:
        """Waits for the end in this process only; what went wrong."""
        self._ended.wait()
        return self.error

    def _state(self) -> int:
        if not self._ended.is_set():
            return _RUNNING
        return _DONE if self.error is None else _FAILED

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # whatever it is, the main thread raises it
            self.error = error
        self.seconds = time.perf_counter() - self._begun
        self._ended.set()
