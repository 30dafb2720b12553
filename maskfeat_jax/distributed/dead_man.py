"""Ends the process when nobody says in time that it is alive, even if Python is stuck in C."""

from __future__ import annotations

import ctypes
import sys

_CLOCK_MONOTONIC = 1
_SIGEV_THREAD = 2


class _Event(ctypes.Structure):
    """`struct sigevent` of glibc."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("padding", ctypes.c_char * 32),
    )


class _Times(ctypes.Structure):
    """`struct itimerspec`: the interval, then the first time; seconds and nanoseconds."""

    _fields_ = (
        ("every_s", ctypes.c_long),
        ("every_ns", ctypes.c_long),
        ("first_s", ctypes.c_long),
        ("first_ns", ctypes.c_long),
    )


class DeadMan:
    """A timer of the C library whose thread calls `_exit`; it needs no lock of Python's.

    `faulthandler.dump_traceback_later` can end a stuck process too, but only with code 1.

    Attributes:
      works: whether the C library has such timers (Linux); if not, nothing here does anything.
    """

    def __init__(self, exit_code: int):
        """Makes the timer; it does not run yet.

        Args:
          exit_code: of the process, when the time is over.
        """
        self._libc = ctypes.CDLL(None)
        self._timer = ctypes.c_void_p()
        self.works = sys.platform.startswith("linux") and hasattr(self._libc, "timer_create")
        if self.works:
            end = ctypes.cast(self._libc._exit, ctypes.c_void_p)
            event = _Event(value=exit_code, notify=_SIGEV_THREAD, function=end)
            made = self._libc.timer_create(
                _CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self._timer)
            )
            self.works = made == 0

    def arm(self, seconds: float) -> None:
        """Ends the process after so long, unless armed anew before; 0 disarms."""
        if self.works:
            whole = int(seconds)
            times = _Times(0, 0, whole, int((seconds - whole) * 1e9))
            self._libc.timer_settime(self._timer, 0, ctypes.byref(times), None)
