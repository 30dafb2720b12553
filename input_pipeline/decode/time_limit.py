"""A time limit for functions that may never return, such as a decoder that hangs in C code."""

from __future__ import annotations

import concurrent.futures
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from input_pipeline.bad_inputs import BadMedia

P = ParamSpec("P")
T = TypeVar("T")


class LimitedThread:
    """A thread that runs functions for the caller and is abandoned when one takes too long.

    Python cannot end a thread. A stuck one keeps its resources until it returns, if ever; it does
    not prevent the program from exiting. A call costs about 20 microseconds.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds  # limit of one call
        self.cleanup = contextlib.ExitStack()  # closed at the end of the thread, however late
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        self._stuck = False
        self._thread = threading.Thread(
            target=_work, args=(self._jobs, self.cleanup), name="decode", daemon=True
        )
        self._thread.start()

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a function on the thread; returns its result or raises its exception.

        Raises:
          BadMedia: of kind "timeout", if it takes too long; the thread must not be used again.
        """
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._jobs.put((future, function, args, kwargs))
        self._stuck = not concurrent.futures.wait([future], self.seconds).done
        if self._stuck:
            raise BadMedia("timeout", f"no result after {self.seconds:g} s (timeout_seconds)")
        return future.result()

    def end(self) -> None:
        """Ends the thread after its current call; waits for it unless it is stuck."""
        self._jobs.put(None)
        if not self._stuck:
            self._thread.join(self.seconds)


def _work(jobs: queue.SimpleQueue, cleanup: contextlib.ExitStack) -> None:
    with cleanup:
        while (job := jobs.get()) is not None:
            future, function, args, kwargs = job
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:  # it belongs to the caller
                future.set_exception(error)
            del job, future, function, args, kwargs  # not held while waiting
