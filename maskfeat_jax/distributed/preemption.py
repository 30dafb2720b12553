"""Handles SIGTERM, SIGINT and SIGUSR1.

A separate thread receives signals at once, even while C code compiles or decodes in the main
thread. Where nothing can be lost (start, compilation, restoring), the process ends immediately.
Elsewhere the training loop checks `stopping` between updates, saves, and ends with code 75. A
second signal, or the end of the grace time, ends the process in any case.

`distributed.start` disables JAX's own handler of SIGTERM, which would conflict.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

EXIT_CODE = 75  # EX_TEMPFAIL: run the same command again
_STOPPING = (signal.SIGTERM, signal.SIGINT)
_SAME_SECONDS = 0.5  # schedulers may signal a process and its group: one request, two signals


class Stopped(Exception):
    """The run was asked to stop and has saved; the same command resumes it."""


class Signals:
    """Installs signal handlers; create it in the main thread, before anything slow.

    Attributes:
      grace_seconds: from the first signal to the end of the process, at the latest.
      before_exit: called with the reason before the process ends from the watching thread.
      on_usr1: set by SIGUSR1: save, and continue.
    """

    def __init__(
        self,
        grace_seconds: float = 25.0,
        before_exit: Callable[[str], None] | None = None,
        exit_process: Callable[[int], object] = os._exit,
    ):
        """Installs the handlers.

        Args:
          grace_seconds: see the class.
          before_exit: see the class.
          exit_process: ends the process with a code; replaced in tests.
        """
        self.grace_seconds, self.before_exit = grace_seconds, before_exit
        self.on_usr1 = threading.Event()
        self._exit_process = exit_process
        self._stopping = threading.Event()
        self._restored = threading.Event()
        self._since = 0.0
        self._reason = ""
        self._may_end_at_once = False
        self._lock = threading.RLock()  # held while the process ends
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._before = {number: self._install(number) for number in (*_STOPPING, signal.SIGUSR1)}
        threading.Thread(target=self._watch, daemon=True, name="signals").start()

    @property
    def stopping(self) -> bool:
        """Whether this process was asked to stop."""
        return self._stopping.is_set()

    @property
    def reason(self) -> str:
        """Which signal it was."""
        return self._reason

    @contextlib.contextmanager
    def nothing_to_lose(self) -> Iterator[None]:
        """Inside, a signal ends the process at once.

        Raises:
          Stopped: the signal came before.
        """
        before = self._set_may_end(True)
        try:
            yield
        finally:
            self._set_may_end(before)

    def take_back(self) -> bool:
        """Installs the handlers again if others have replaced them (main thread only).

        Returns:
          Whether that was needed.
        """
        stolen = [n for n in self._before if signal.getsignal(n) != self._handle]
        for number in stolen:
            self._install(number)
        return bool(stolen)

    def restore(self) -> None:
        """Restores the previous handlers and ends the watching thread."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self._restored.set()
        os.close(self._writer)

    def end_process(self, reason: str) -> None:
        """Ends the process with code 75, after `before_exit`; from any thread."""
        with self._lock:
            print(f"stopped: {reason}; run the same command again to continue", file=sys.stderr)
            try:
                if self.before_exit is not None:
                    self.before_exit(reason)
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                self._exit_process(EXIT_CODE)

    def _install(self, number: int) -> Any:
        return signal.signal(number, self._handle)

    def _handle(self, number: int, _: object) -> None:
        """Runs late, in the main thread; needed if a library has replaced the wake-up pipe."""
        self._note(number)

    def _watch(self) -> None:
        while number := os.read(self._reader, 1):
            if self._note(number[0]) and time.monotonic() - self._since > _SAME_SECONDS:
                self.end_process(f"a second signal after {self._reason}")
        os.close(self._reader)

    def _note(self, number: int) -> bool:
        """Records a signal; returns whether it is a second request to stop."""
        if number == signal.SIGUSR1:
            self.on_usr1.set()
        if number not in _STOPPING:
            return False
        with self._lock:
            if self.stopping:
                return True
            self._since = time.monotonic()
            self._reason = signal.Signals(number).name
            self._stopping.set()
            threading.Thread(target=self._end_at_deadline, daemon=True, name="grace").start()
            if self._may_end_at_once:
                self.end_process(f"{self._reason}, nothing was lost")
        return False

    def _end_at_deadline(self) -> None:
        if self._restored.wait(self.grace_seconds):
            return
        print(
            f"not finished {self.grace_seconds:g} s after {self._reason}; threads:", file=sys.stderr
        )
        faulthandler.dump_traceback(sys.__stderr__ or 2)
        self.end_process(f"{self._reason}, the grace time of {self.grace_seconds:g} s is over")

    def _set_may_end(self, value: bool) -> bool:
        with self._lock:  # not while the process ends
            before, self._may_end_at_once = self._may_end_at_once, value
        if value and self.stopping:
            raise Stopped(self._reason)
        return before
