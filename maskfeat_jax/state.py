"""The train state."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from maskfeat_jax.optim import Optimizer

RECENT_STEPS = 128


class TrainState(struct.PyTreeNode):
    """What a step takes and returns; order of data and random keys follow from `step`.

    A checkpoint contains all of it but `teacher`.

    Attributes:
      step: batches consumed, int32.
      skipped: steps whose update was skipped, int32; the optimiser has seen the others.
      params: nested dict, float32.
      opt_state: optax state.
      ema: moving average of the parameters, or None.
      recent: loss and gradient norm of the last 128 steps, non-finite ones left out, `(128, 2)`
        float32, NaN until filled; None in a state that is only evaluated.
      teacher: weights of the target's frozen networks, see `targets.Target.teacher`; not trained,
        and read from their own file instead of from a checkpoint.
    """

    step: Any
    skipped: Any
    params: Any
    opt_state: Any
    ema: Any
    recent: Any = None
    teacher: Any = ()

    @classmethod
    def create(cls, params: Any, optimizer: Optimizer, teacher: Any = ()) -> TrainState:
        """The state before the first step."""
        return cls(
            step=jnp.int32(0),
            skipped=jnp.int32(0),
            params=params,
            opt_state=optimizer.tx.init(params),
            ema=jax.tree.map(jnp.copy, params) if optimizer.ema_decay else None,
            recent=jnp.full((RECENT_STEPS, 2), jnp.nan),
            teacher=teacher,
        )

    @classmethod
    def frozen(cls, params: Any, teacher: Any = ()) -> TrainState:
        """A state for evaluation only."""
        return cls(step=0, skipped=0, params=params, opt_state=(), ema=None, teacher=teacher)

    @property
    def stored(self) -> TrainState:
        """What a checkpoint contains."""
        return self.replace(teacher=())

    @property
    def evaluated(self) -> Any:
        """The parameters to evaluate: the moving average if there is one."""
        return self.params if self.ema is None else self.ema
