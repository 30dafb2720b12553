"""Starts and ends a run of several processes.

It relies on `jax.distributed`: process 0 runs the coordination service, every process sends it
heartbeats, and if they stop JAX ends the other processes by `abort` (exit code 134, -6 for Python's
`subprocess`). The launcher restarts all of them; see docs/scaling.md.
"""

from __future__ import annotations

import contextlib
import functools
import re
import socket
import sys
import time
from collections.abc import Iterator

import jax

from maskfeat_jax.distributed.compare import ProcessesDiffer

_HEARTBEAT_SECONDS = 100
_CONNECT_SECONDS = 30  # longer than the service waits, whose message names the missing processes
_LAST_SECONDS = 3.0
_LOST = re.compile("gloo|nccl|by peer|socket closed|heartbeat|coordination|unavailable:|deadline")
_STATUS = re.compile("[A-Z_]+: ")  # how messages of XLA begin


class BadStart(ValueError):
    """The flags for connecting the processes are incomplete or wrong; says which."""


class StartFailed(RuntimeError):
    """The processes could not be connected; can be repeated."""


def start(
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    distributed: bool = False,
    timeout_seconds: float = 300.0,
    heartbeat_seconds: int = _HEARTBEAT_SECONDS,
) -> None:
    """Waits for the other processes and initialises JAX; does nothing for a single process.

    Call it before any other use of JAX. It disables JAX's own handler of SIGTERM. If a process does
    not connect in time, JAX ends this one by `abort` and names the missing ones.

    Args:
      coordinator: `host:port` of process 0. The port must be free there, and reachable.
      num_processes: how many there are.
      process_id: which of them this is, from 0.
      distributed: JAX detects these three, on TPU pods, Slurm, Kubernetes and Open MPI.
      timeout_seconds: how long to wait for the others.
      heartbeat_seconds: without a heartbeat of a process for so long, JAX ends the others.

    Raises:
      BadStart: a flag is missing or wrong, or no cluster was found.
      StartFailed: for instance, the coordinator's port is in use.
      ProcessesDiffer: process 0 was started with another number of processes.
    """
    jax.config.update("jax_enable_preemption_service", False)
    if not distributed:
        port = _port(coordinator, num_processes, process_id)
        if num_processes in (None, 1):
            return
        if process_id == 0:
            _check_free(port)
        print(
            f"process {process_id} of {num_processes} on {socket.gethostname()}: waiting up to "
            f"{timeout_seconds:g} s for the others at {coordinator}",
            file=sys.stderr,
        )
    try:
        with _missing_are_named(max(1, int(timeout_seconds))):
            jax.distributed.initialize(
                coordinator,
                num_processes,
                process_id,
                cluster_detection_method=None if distributed else "deactivate",
                initialization_timeout=int(timeout_seconds) + _CONNECT_SECONDS,
                heartbeat_timeout_seconds=heartbeat_seconds,
            )
    except ValueError as error:
        raise BadStart(
            "--distributed: JAX finds no cluster here (Slurm, TPU pod, Kubernetes, Open MPI); "
            f"give --coordinator, --num_processes and --process_id instead ({error})"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        raise StartFailed(f"JAX did not connect the processes: {error}") from error
    if num_processes not in (None, jax.process_count()):
        raise ProcessesDiffer(
            f"--num_processes={num_processes}, but process 0 was started as one of "
            f"{jax.process_count()}; give all the same --num_processes"
        )


def finish(failed: bool = False) -> None:
    """Disconnects a process from the run; does nothing for a single process.

    Without a failure it waits until all processes have called it. After one, JAX stays connected:
    the process must end by `os._exit`, since a normal exit waits minutes for the others.

    Args:
      failed: whether this process ends early.
    """
    if not jax.distributed.is_initialized():
        return
    if not failed:
        jax.distributed.shutdown()
    elif jax.process_index() == 0:
        time.sleep(_LAST_SECONDS)  # without process 0 JAX aborts the others: let them report errors


def is_lost_process(error: BaseException) -> bool:
    """Whether an error, or one of its causes, is JAX's report of a lost process."""
    if not jax.distributed.is_initialized():
        return False
    seen: BaseException | None = error
    while seen is not None:
        text = str(seen)
        # Reading an array raises errors of Gloo as ValueError, too.
        jax_says = isinstance(seen, jax.errors.JaxRuntimeError) or (
            isinstance(seen, ValueError) and _STATUS.match(text)
        )
        if jax_says and _LOST.search(text.lower()):
            return True
        seen = seen.__cause__
    return False


def _port(coordinator: str | None, num_processes: int | None, process_id: int | None) -> int:
    """The coordinator's port, 0 without flags; raises BadStart if one is missing or wrong."""
    flags = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [f"--{name}" for name, value in flags.items() if value is None]
    if len(missing) == len(flags):
        return 0
    if missing or coordinator is None or num_processes is None or process_id is None:
        raise BadStart(f"{', '.join(missing)} missing: several processes need all of {[*flags]}")
    if not 0 <= process_id < num_processes:
        raise BadStart(
            f"--process_id={process_id}: expected 0 to {num_processes - 1} "
            f"with --num_processes={num_processes}"
        )
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 65536):
        raise BadStart(f"--coordinator={coordinator!r}: expected host:port, such as node0:1234")
    return int(port)


def _check_free(port: int) -> None:
    """Raises StartFailed if a port is in use, where JAX often crashes (139, jaxlib 0.10.2)."""
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise StartFailed(
            f"process 0 cannot listen on port {port} ({error.strerror}); another run on this host? "
            "Choose another port in --coordinator"
        ) from error


@contextlib.contextmanager
def _missing_are_named(timeout_seconds: int) -> Iterator[None]:
    """Inside, JAX's service stops waiting after this time and names the missing processes.

    `jax.distributed.initialize` (0.10, 0.11) has no argument for that: its service waits an hour,
    and before that every process gives up with a message without names. The function is private; if
    it is removed, the names are lost.
    """
    try:
        from jax._src.distributed import _jax

        start_service = _jax.get_distributed_runtime_service
    except (ImportError, AttributeError):
        yield
        return
    _jax.get_distributed_runtime_service = functools.partial(
        start_service, cluster_register_timeout=timeout_seconds
    )
    try:
        yield
    finally:
        _jax.get_distributed_runtime_service = start_service
