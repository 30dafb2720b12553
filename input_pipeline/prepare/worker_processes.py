"""Runs a function in several processes, any of which may crash without affecting the others."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, NamedTuple

Pipe = multiprocessing.connection.Connection


class Died(NamedTuple):
    """Result of a job whose process ended, for example because a decoder crashed."""

    exit_code: int | None  # negative: the signal


def results(
    function: Callable, jobs: Iterable, workers: int
) -> Generator[tuple[Any, Any], None, None]:
    """Calls a function for each job in new processes (start method "spawn").

    The function, jobs and results must be picklable; 0 workers means in this process, for
    debugging.

    Yields:
      Each job with its result, in order of completion; `Died` if the job ended its process, which
      is replaced.

    Raises:
      Exception: the exception of the function; the remaining jobs are cancelled.
      RuntimeError: a process fails to start.
    """
    waiting = iter(jobs)
    if not workers:
        yield from ((job, function(job)) for job in waiting)
        return
    busy: dict[Pipe, tuple[multiprocessing.process.BaseProcess, Any]] = {}
    try:
        for _ in range(workers):
            _start(function, busy)
        while busy:
            for ready in multiprocessing.connection.wait(list(busy)):
                assert isinstance(ready, Pipe)
                process, job = busy.pop(ready)
                try:
                    outcome = ready.recv()
                except (EOFError, ConnectionError):
                    process.join()
                    outcome = Died(process.exitcode)
                    if job is None:
                        raise RuntimeError(
                            f"a worker process ended with code {process.exitcode} when it started"
                        ) from None
                    _start(function, busy)
                else:
                    _give_next(waiting, ready, process, busy)
                if isinstance(outcome, BaseException):
                    raise outcome
                if job is not None:
                    yield job[0], outcome
    finally:
        for process, _ in busy.values():
            process.terminate()
        for process, _ in busy.values():
            process.join()


def _start(function: Callable, busy: dict) -> None:
    """Starts a process; its first message, without a job, reports that it is ready."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(function, theirs), daemon=True)
    process.start()
    theirs.close()  # the last copy is then closed by the end of the process
    busy[ours] = process, None


def _give_next(waiting: Iterator, pipe: Pipe, process, busy: dict) -> None:
    for job in waiting:
        pipe.send(job)
        busy[pipe] = process, (job,)
        return
    pipe.close()  # which ends the process


def _work(function: Callable, pipe: Pipe) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    pipe.send(None)
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        try:
            outcome = function(job)
        except Exception as error:
            outcome = error
        pipe.send(outcome)
