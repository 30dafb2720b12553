"""Operations that all processes of a run call together: gather values, agree, stop.

If a process does not call, the others wait until it is detected as lost (see `start`).
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from maskfeat_jax.distributed.preemption import Signals

Value = TypeVar("Value")


class OtherProcessFailed(RuntimeError):
    """Another process raised an error in work that all do; names the process and its error."""


class FirstProcessFailed(OtherProcessFailed):
    """Process 0 raised an error in work for all processes."""


def gather(value: Any) -> list[Any]:
    """The values of all processes, ordered by process index; all processes call it.

    Args:
      value: JSON-serialisable, of any size, which may differ between processes.
    """
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    if jax.process_count() == 1:
        return [json.loads(data.tobytes())]
    sizes = multihost_utils.process_allgather(np.array(data.size, np.int32)).reshape(-1)
    length = 1 << int(sizes.max() - 1).bit_length()  # few sizes, few programs
    padded = np.zeros(length, np.uint8)
    padded[: data.size] = data
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def agree(action: Callable[[], Value]) -> Value:
    """Runs an action in all processes; if it fails in one, raises in all. All call it.

    Returns:
      The result in this process.

    Raises:
      OtherProcessFailed: the action raised in another process. The failed process raises its own
        error. So no process waits for one that failed.
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
    for process, (message, host) in enumerate(answers):
        if message:
            raise OtherProcessFailed(f"process {process} on {host} failed: {message}")
    return value


def on_first_process(action: Callable[[], int]) -> int:
    """Runs `action` on process 0 and returns its result in every process; all call it.

    Args:
      action: returns a number from 0 to 2**31 - 1.

    Raises:
      FirstProcessFailed: in the other processes, when `action` raised on process 0, which raises
        its own error. So no process waits for one that failed.
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
        raise FirstProcessFailed("process 0 failed; see its message")
    return int(answer)


class Asked(NamedTuple):
    """What the run was asked to do."""

    stop: bool = False
    save: bool = False


class Agreement:
    """Combines the signals of all processes into one decision.

    With several processes each call starts a reduction over the devices and returns the result of
    the previous one, so that no process waits. All of them must call it equally often.
    """

    def __init__(self, signals: Signals | None):
        """Starts with nothing asked.

        Args:
          signals: of this process; None to ignore signals.
        """
        self._signals = signals
        self._several = jax.process_count() > 1
        self._started: jax.Array | None = None
        self._any: Callable[[Any], jax.Array] | None = None

    def alone(self) -> bool:
        """Whether this process was asked to stop and need not ask others."""
        return not self._several and self._signals is not None and self._signals.stopping

    def asked(self) -> Asked:
        """What any process was asked up to the last call."""
        if self._signals is None:
            return Asked()
        mine = Asked(self._signals.stopping, self._signals.on_usr1.is_set())
        if mine.save:
            self._signals.on_usr1.clear()
        return self._all(mine) if self._several else mine

    def _all(self, mine: Asked) -> Asked:
        if self._any is None:
            mesh = jax.make_mesh((jax.device_count(),), ("all",), (AxisType.Auto,))
            self._rows = NamedSharding(mesh, PartitionSpec("all"))
            whole = NamedSharding(mesh, PartitionSpec())
            self._any = jax.jit(lambda rows: jnp.any(rows, 0), out_shardings=whole)
        rows = np.tile(np.array([mine]), (jax.local_device_count(), 1))
        before = self._started
        self._started = self._any(jax.make_array_from_process_local_data(self._rows, rows))
        if before is None:
            return Asked()
        stop, save = np.asarray(before.addressable_data(0))
        return Asked(bool(stop), bool(save))
