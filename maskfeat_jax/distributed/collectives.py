"""What all processes of a run call together: gathering values, agreeing, stopping.

A process that does not call keeps the others waiting, until it is noticed to be gone (see `start`).
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
    """Another process raised an error in work that all do; names it, and what it said."""


class FirstProcessFailed(OtherProcessFailed):
    """Process 0 raised an error in work that it does for all."""


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


class Asked(NamedTuple):
    """What the run was asked to do."""

    stop: bool = False
    save: bool = False


class Agreement:
    """What signals ask of any process, agreed upon by all.

    With several processes each call starts a reduction over the devices and returns the result of
    the one that the call before started: nobody waits for it. So all of them must call it equally
    often.
    """

    def __init__(self, signals: Signals | None):
        """Nothing is asked yet.

        Args:
          signals: of this process; None for a run that is never asked.
        """
        self._signals = signals
        self._several = jax.process_count() > 1
        self._started: jax.Array | None = None
        self._any: Callable[[Any], jax.Array] | None = None

    def alone(self) -> bool:
        """Whether this process was asked to stop and need not ask others."""
        return not self._several and self._signals is not None and self._signals.stopping

    def asked(self) -> Asked:
        """What the processes were asked up to the last call."""
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
