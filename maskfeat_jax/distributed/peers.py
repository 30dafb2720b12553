"""Notices that another process of the run is gone, says which, and ends this one with code 75.

JAX notices too, but late (no heartbeat for 100 s) and by aborting the process with a stack of C++
frames; when process 0 dies, at once. Collectives may fail by an exception (CPU) or wait for ever
(GPU, TPU). So every process keeps its connection of the roll call to process 0: a process that dies
closes it, one whose host or network is gone falls silent, and process 0 tells the others.

A process that leaves in good order says so; one that fails says why. Whoever hears it has some time
to end by itself, as its own error is the better message.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping

from maskfeat_jax.distributed.roll_call import Member, Message, Wire, readable

SILENT_SECONDS = 100.0  # without a sign of life: gone
_WARN_SECONDS = 20.0
_BEAT_SECONDS = 5.0
_LOOK_SECONDS = 0.5
_LOST_SECONDS = 10.0  # to end by oneself after another process was lost,
_FAILED_SECONDS = 60.0  # and after another one has said that it failed
_LINGER_SECONDS = 15.0  # process 0 leaves last: JAX aborts the others as soon as it is gone


class Peers:
    """The other processes of a run, watched by a thread.

    Attributes:
      lost: what is known of the first process that left before its time; empty if none did.
    """

    def __init__(
        self,
        me: Member,
        wires: Mapping[int, Wire],
        members: Mapping[int, Member],
        end_process: Callable[[str], object],
        *,
        silent_seconds: float = SILENT_SECONDS,
        lost_seconds: float = _LOST_SECONDS,
    ):
        """Starts watching.

        Args:
          me: this process.
          wires: of `roll_call.call_roll`.
          members: of `roll_call.call_roll`.
          end_process: called with a reason, from the watching thread, when a process is gone and
            this one has not ended by itself.
          silent_seconds: see the module.
          lost_seconds: how long that is.
        """
        self._me, self._wires, self._members = me, dict(wires), members
        self._end_process, self._lost_seconds = end_process, lost_seconds
        self._silent_seconds = silent_seconds
        self._heard = dict.fromkeys(self._wires, time.monotonic())
        self._warned: set[int] = set()
        self._left: set[int] = set()  # those who said good-bye
        self._sending = threading.Lock()
        self._together = threading.Event()  # all have said good-bye, or one is lost
        self._closed = threading.Event()
        self._end_at = float("inf")
        self.lost = ""
        self._thread = threading.Thread(target=self._watch, daemon=True, name="peers")
        self._thread.start()

    def leave(self) -> bool:
        """Waits until all processes leave; whether they did, and none was lost."""
        self._left.add(self._me.process)
        if self._me.process:
            self._send(0, {"bye": True})
        else:
            self._part()
        self._together.wait()
        return not self.lost

    def fail(self, reason: str) -> None:
        """Tells the others that this process ends with an error; does not wait for them.

        Process 0 waits a little, since JAX aborts the others as soon as it is gone.
        """
        if not self._me.process:
            self._tell({"gone": f"{self._me} failed: {reason}"})
            until = time.monotonic() + _LINGER_SECONDS
            while self._wires and time.monotonic() < until:
                time.sleep(0.05)
        else:
            self._send(0, {"failed": reason})

    def close(self) -> None:
        """Stops watching."""
        self._closed.set()
        self._thread.join()
        for wire in self._wires.values():
            wire.close()

    def _watch(self) -> None:
        beaten = looked = time.monotonic()
        while not self._closed.is_set():
            self._listen()
            now = time.monotonic()
            if now - looked > 10 * _LOOK_SECONDS:  # it was we who were stopped
                self._heard = dict.fromkeys(self._wires, now)
            looked = now
            self._look_for_silence(now)
            if now - beaten > _BEAT_SECONDS:
                beaten = now
                self._tell({"beat": True})
            if now > self._end_at:
                self._end_at = float("inf")
                self._end_process(self.lost)

    def _listen(self) -> None:
        if not self._wires:
            self._closed.wait(_LOOK_SECONDS)
            return
        processes = {wire: process for process, wire in self._wires.items()}
        for wire in readable(processes, _LOOK_SECONDS):
            process = processes[wire]
            try:
                messages = wire.receive()
            except (OSError, ValueError, RecursionError):
                self._disconnect(process, "is gone: its connection was closed")
                continue
            self._heard[process] = time.monotonic()
            self._warned.discard(process)
            for message in messages:
                self._hear(process, message)

    def _hear(self, process: int, message: Message) -> None:
        if "bye" in message:
            self._left.add(process)
            self._part()
        elif "end" in message:
            self._left.add(process)
            self._together.set()
        elif "failed" in message:
            self._lose(f"{self._members[process]} failed: {message['failed']}", _FAILED_SECONDS)
        elif "gone" in message:
            failed = " failed: " in str(message["gone"])
            self._lose(str(message["gone"]), _FAILED_SECONDS if failed else self._lost_seconds)

    def _part(self) -> None:
        """In process 0: lets all go when all have said good-bye."""
        if len(self._left) == self._me.total:
            self._tell({"end": True})
            self._together.set()

    def _disconnect(self, process: int, how: str) -> None:
        self._wires.pop(process).close()
        if process not in self._left:
            self._lose(f"{self._members[process]} {how}", self._lost_seconds)

    def _lose(self, words: str, seconds: float) -> None:
        if self.lost:
            return
        self.lost = words
        self._end_at = time.monotonic() + seconds
        if not self._me.process:
            self._tell({"gone": words})
        self._together.set()

    def _look_for_silence(self, now: float) -> None:
        for process in [*self._wires]:
            silent = now - self._heard[process]
            if silent > self._silent_seconds:
                self._disconnect(process, f"is gone: not a sign of life for {silent:.0f} s")
            elif silent > _WARN_SECONDS and process not in self._warned:
                self._warned.add(process)
                words = f"no sign of life for {silent:.0f} s; waiting"
                print(f"warning: {self._members[process]}: {words}", file=sys.stderr, flush=True)

    def _tell(self, message: Message) -> None:
        for process in [*self._wires]:
            self._send(process, message)

    def _send(self, process: int, message: Message) -> None:
        with self._sending, contextlib.suppress(OSError, KeyError):  # seen when it is listened to
            self._wires[process].send(message)


_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)


def end_instead_of_abort(peers: Peers) -> object:
    """When JAX aborts since a process is gone, lets this one end as `Peers` wants it.

    JAX offers nothing for it: its callback for missed heartbeats crashes when it is a function of
    Python (jaxlib 0.10.2). The thread that aborts is held up until the process has ended. An abort
    for another reason goes on after the stacks of all threads.

    Returns:
      What must be kept as long as the handler is installed.
    """

    def aborted(_: int) -> None:
        until = time.monotonic() + 4 * _LOOK_SECONDS
        while time.monotonic() < until and not peers.lost:
            time.sleep(0.05)
        while peers.lost:
            time.sleep(1.0)  # the watching thread ends the process
        faulthandler.dump_traceback(sys.__stderr__ or 2)

    handler = _HANDLER(aborted)
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = (ctypes.c_int, _HANDLER)
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGABRT, handler)
    return handler
