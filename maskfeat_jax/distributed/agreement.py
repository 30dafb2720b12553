"""Whether any process was asked to stop or to save, known to all of them at the same step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from maskfeat_jax.distributed.preemption import Signals


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
