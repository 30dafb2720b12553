"""The processes of a run: starting them together, asking and telling all, and their end.

Each process runs the same program. `start` makes them one run, and `finish` ends it. In between,
functions that "all processes call" are collective: one that stays away keeps the others waiting,
until it is noticed to be gone (`peers`).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from maskfeat_jax.distributed.peers import SILENT_SECONDS, Peers, end_instead_of_abort
from maskfeat_jax.distributed.preemption import EXIT_CODE
from maskfeat_jax.distributed.roll_call import (
    MissingProcesses,
    ProcessesDiffer,
    call_roll,
    myself,
    split_address,
)

__all__ = ["MissingProcesses", "ProcessesDiffer"]

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow", "av")
_LOST = re.compile("gloo|nccl|by peer|socket closed|heartbeat|coordination|unavailable:|deadline")

Value = TypeVar("Value")


class BadStart(ValueError):
    """The flags do not say how the processes find each other; says what is missing."""


class OtherProcessFailed(RuntimeError):
    """Another process raised an error in work that all do; names it, and what it said."""


class FirstProcessFailed(OtherProcessFailed):
    """Process 0 raised an error in work that it does for all."""


class _Place(NamedTuple):
    """Arguments of `jax.distributed.initialize`."""

    coordinator: str
    num_processes: int
    process_id: int
    local_device_ids: Sequence[int] | None = None


class _Run:
    """What `start` leaves behind: JAX has one run for each process, and so have we."""

    peers: Peers | None = None
    handler: object = None


def start(
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    distributed: bool = False,
    timeout_seconds: float = 300.0,
    end_process: Callable[[str], object] | None = None,
) -> None:
    """Waits for the other processes and starts JAX with them; nothing happens for a single one.

    To be called before anything else of JAX. JAX's own handler of SIGTERM stays off.

    Args:
      coordinator: `host:port` of process 0. The port must be free there, and reachable.
      num_processes: how many there are.
      process_id: which of them this is, from 0.
      distributed: find these three as JAX does, on TPU pods, Slurm, Kubernetes and Open MPI.
      timeout_seconds: how long to wait for the others.
      end_process: called with a reason, from a thread, when another process is gone and this one
        does not end by itself; None prints it and ends the process with code 75.

    Raises:
      BadStart: a flag is missing or wrong, or no cluster was found.
      MissingProcesses: not all came in time.
      ProcessesDiffer: two have the same number, or they disagree on how many there are.
    """
    jax.config.update("jax_enable_preemption_service", False)
    if distributed:
        place = _found_by_jax(timeout_seconds)
        if place is None:
            print(
                "warning: this JAX does not say where the other processes are; no roll call",
                file=sys.stderr,
            )
            jax.distributed.initialize(initialization_timeout=int(timeout_seconds))
            return
    else:
        place = _given(coordinator, num_processes, process_id)
    if place is None or place.num_processes == 1:
        return
    me = myself(place.process_id, place.num_processes)
    wires, members = call_roll(place.coordinator, me, timeout_seconds)
    _Run.peers = Peers(me, wires, members, end_process or _end_process)
    jax.distributed.initialize(
        place.coordinator,
        place.num_processes,
        place.process_id,
        local_device_ids=place.local_device_ids,
        cluster_detection_method="deactivate",
        initialization_timeout=max(1, int(timeout_seconds)),
        heartbeat_timeout_seconds=int(SILENT_SECONDS) + 60,  # `peers` notices first
    )
    _Run.handler = end_instead_of_abort(_Run.peers)


def finish(failure: str = "") -> None:
    """The end of this process's part in the run; nothing happens for a single process.

    Without a failure it waits until all have come here. With one, JAX is left as it is: then the
    process must end by `os._exit`, since a normal exit waits minutes for the others.

    Args:
      failure: why this process ends before its time, told to the others.
    """
    peers, _Run.peers = _Run.peers, None
    if peers is None:
        return
    if failure:
        peers.fail(failure)
    elif peers.leave():
        jax.distributed.shutdown()
        peers.close()


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error means that another process is gone.

    An error of ours says itself what is wrong, also when another process has failed meanwhile;
    unless one of JAX that tells of a lost process is behind it.
    """
    if _Run.peers is None:
        return False
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, jax.errors.JaxRuntimeError) and _LOST.search(str(seen).lower()):
            return True
        seen = seen.__cause__
    ours = type(error).__module__.startswith(("maskfeat_jax.", "input_pipeline."))
    return bool(_Run.peers.lost) and not ours


def gather(value: Any) -> list[Any]:
    """The values of all processes, in their order; all processes call it.

    Args:
      value: what JSON can hold; of any size, also a different one in each process.
    """
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    if jax.process_count() == 1:
        return [json.loads(data.tobytes())]
    sizes = multihost_utils.process_allgather(np.array(data.size, np.int32)).reshape(-1)
    room = 1 << int(sizes.max() - 1).bit_length()  # few sizes, few programs
    padded = np.zeros(room, np.uint8)
    padded[: data.size] = data
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def agree(action: Callable[[], Value]) -> Value:
    """Runs an action that must succeed everywhere or nowhere; all processes call it.

    Returns:
      What the action returned in this process.

    Raises:
      OtherProcessFailed: the action raised in another process. Where it raised, its own error is
        raised. So nobody is left waiting for a process that failed.
    """
    if jax.process_count() == 1:
        return action()
    failure: BaseException | None = None
    try:
        value = action()
    except BaseException as error:
        failure = error
    mine = "" if failure is None else f"{type(failure).__name__}: {failure}"[:2000]
    try:
        answers = gather([mine, socket.gethostname()])
    except Exception:
        if failure is None:
            raise
    if failure is not None:
        raise failure
    for process, (words, host) in enumerate(answers):
        if words:
            raise OtherProcessFailed(f"process {process} on {host} failed: {words}")
    return value


def on_first_process(action: Callable[[], int]) -> int:
    """Runs `action` on process 0 and returns its answer in every process; all call it.

    Args:
      action: returns a number from 0 to 2**31 - 1.

    Raises:
      FirstProcessFailed: in the other processes, when `action` raised on process 0, which raises
        its own error. So nobody is left waiting for a process that failed.
    """
    if jax.process_count() == 1:
        return action()
    answer = np.array(-1, np.int32)
    try:
        if jax.process_index() == 0:
            answer = np.array(action(), np.int32)
    finally:
        answer = multihost_utils.broadcast_one_to_all(answer)
    if int(answer) < 0:
        raise FirstProcessFailed("process 0 failed; its message says why")
    return int(answer)


def compare(facts: Mapping[str, str]) -> None:
    """Makes sure that the processes run the same; all processes call it.

    Args:
      facts: of this process, see `facts_of`.

    Raises:
      ProcessesDiffer: in every process; a table of what differs.
    """
    counts = [0] * jax.process_count()
    for device in jax.devices():
        counts[device.process_index] += 1
    if len(set(counts)) > 1:  # gathering needs as many in each
        raise ProcessesDiffer(
            "the processes have different numbers of devices: "
            + ", ".join(f"process {i} has {count}" for i, count in enumerate(counts))
        )
    digest = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()
    if len(set(gather(digest))) > 1:
        rows = gather([socket.gethostname(), dict(facts)])
        raise ProcessesDiffer(
            "the processes do not run the same:\n"
            + _table(rows)
            + "\nStart all with the same command, code, packages and data."
        )


def facts_of(recipe: Mapping[str, Any], *fingerprints: str) -> dict[str, str]:
    """What `compare` compares.

    Args:
      recipe: the resolved recipe.
      *fingerprints: of the lists of examples.
    """
    return {
        **_flat(recipe, "recipe"),
        **{f"data {i}": words for i, words in enumerate(fingerprints)},
        "code": code_hash(),
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "device": jax.local_devices()[0].device_kind,
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }


def code_hash(root: pathlib.Path = pathlib.Path(__file__).parents[2]) -> str:
    """SHA-256 of the code of a run: every .py file of the package, its input, and the command.

    Args:
      root: the folder that the package lies in.
    """
    digest = hashlib.sha256()
    found = [root / name for name in ("main.py",) if (root / name).is_file()]
    for folder in ("maskfeat_jax", "input_pipeline"):
        found += sorted((root / folder).rglob("*.py"))
    for path in found:
        data = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest()


def _given(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> _Place | None:
    """What the flags say; None for a single process."""
    flags = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [f"--{name}" for name, value in flags.items() if value is None]
    if len(missing) == len(flags):
        return None
    if missing or coordinator is None or num_processes is None or process_id is None:
        raise BadStart(f"{', '.join(missing)} missing: several processes need all of {[*flags]}")
    if not 0 <= process_id < num_processes:
        raise BadStart(
            f"--process_id={process_id}: expected 0 to {num_processes - 1} "
            f"with --num_processes={num_processes}"
        )
    try:
        split_address(coordinator)
    except ValueError as error:
        raise BadStart(f"--coordinator: {error}") from error
    return _Place(coordinator, num_processes, process_id)


def _found_by_jax(timeout_seconds: float) -> _Place | None:
    """What JAX finds out about a cluster; None if it has no function that says so."""
    try:
        from jax._src.clusters import ClusterEnv  # private, may be gone

        find = ClusterEnv.auto_detect_unset_distributed_params
        found = find(None, None, None, None, None, int(timeout_seconds))
        coordinator, num_processes, process_id, local_device_ids = found
    except (ImportError, AttributeError, TypeError):
        return None
    if coordinator is None or num_processes is None or process_id is None:
        raise BadStart(
            "--distributed: JAX finds no cluster here (Slurm, TPU pod, Kubernetes, Open MPI); "
            "give --coordinator, --num_processes and --process_id instead"
        )
    return _Place(coordinator, num_processes, process_id, local_device_ids)


def _end_process(reason: str) -> None:
    print(f"stopped: {reason}; run the same command again to go on", file=sys.stderr, flush=True)
    os._exit(EXIT_CODE)


def _flat(tree: Any, name: str) -> dict[str, str]:
    if not isinstance(tree, Mapping) or not tree:
        return {name: json.dumps(tree, default=str)}
    flat: dict[str, str] = {}
    for key in sorted(tree):
        flat.update(_flat(tree[key], f"{name}.{key}"))
    return flat


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _table(rows: Sequence[tuple[str, Mapping[str, str]]]) -> str:
    """Facts that differ: for each value the processes that have it."""
    lines = []
    for fact in sorted({name for _, facts in rows for name in facts}):
        holders: dict[str, list[str]] = {}
        for process, (host, facts) in enumerate(rows):
            holders.setdefault(facts.get(fact, "(absent)"), []).append(f"{process} ({host})")
        if len(holders) > 1:
            lines.append(f"  {fact}:")
            for value, who in holders.items():
                shown = ", ".join(who[:8]) + (f" and {len(who) - 8} more" if len(who) > 8 else "")
                lines.append(f"    {value[:200]}: process {shown}")
    return "\n".join(lines)
