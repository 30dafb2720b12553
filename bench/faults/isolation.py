"""A function in a process of its own, of which neither a crash nor a hang is missed."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pathlib
import resource
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple


def peak_megabytes() -> float:
    """Most memory that this process ever had, or since the peak was set back.

    Not `ru_maxrss`, which begins with the memory of the process that started this one.
    """
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


class Died(NamedTuple):
    """The process ended by itself; minus the signal."""

    code: int | None


class Hung(NamedTuple):
    """Nothing came back in time."""

    seconds: float


def each(
    function: Callable, jobs: Iterable, seconds: float, memory: int | None = None
) -> Iterator[tuple[Any, Any]]:
    """Calls a function for each job, one after the other, in a process that starts afresh.

    Args:
      function: takes a job and returns something; all three can be pickled.
      jobs: what to do.
      seconds: how long one job may take; then the process is ended and another one started.
      memory: bytes that the process may allocate; None for no limit.

    Yields:
      Each job with what came out, an exception that was raised, `Died` or `Hung`.
    """
    context = multiprocessing.get_context("spawn")
    child = pipe = None
    try:
        for job in jobs:
            if child is None:
                pipe, theirs = context.Pipe()
                child = context.Process(target=_work, args=(function, theirs, memory), daemon=True)
                child.start()
                theirs.close()
                pipe.recv()  # ready: what is imported does not count
            pipe.send(job)
            outcome: Any = Hung(seconds)
            if pipe.poll(seconds):
                try:
                    outcome = pipe.recv()
                except (EOFError, ConnectionError):
                    child.join()
                    outcome = Died(child.exitcode)
            if isinstance(outcome, Died | Hung):
                child.kill()
                child.join()
                child = None
            yield job, outcome
    finally:
        if child is not None:
            child.kill()
            child.join()


def _work(function: Callable, pipe: Any, memory: int | None) -> None:
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    # What decoders print about damaged files belongs to nobody.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        os.dup2(nowhere.fileno(), sys.__stderr__.fileno())
        pipe.send(None)
        while True:
            try:
                job = pipe.recv()
            except EOFError:
                return
            try:
                outcome = function(job)
            except Exception as error:
                outcome = f"{type(error).__name__}: {error}"
            pipe.send(outcome)
