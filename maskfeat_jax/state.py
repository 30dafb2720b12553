"""What training carries from step to step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from maskfeat_jax.optim import Optimizer

RECENT_STEPS = 128


class TrainState(struct.PyTreeNode):
    """Everything that a checkpoint holds; data and randomness follow from `step`.

    Attributes:
      step: batches consumed, int32.
      skipped: steps that were left out, int32; the optimiser has seen the others.
      params: nested dict, float32.
      opt_state: of optax.
      ema: moving average of the parameters, or None.
      recent: loss and gradient norm of the last finite steps, `(128, 2)` float32, NaN where there
        were none yet; None in a state that is only evaluated.
    """

    step: Any
    skipped: Any
    params: Any
    opt_state: Any
    ema: Any
    recent: Any = None

    @classmethod
    def create(cls, params: Any, optimizer: Optimizer) -> TrainState:
        """The state before the first step."""
        return cls(
            step=jnp.int32(0),
            skipped=jnp.int32(0),
            params=params,
            opt_state=optimizer.tx.init(params),
            ema=jax.tree.map(jnp.copy, params) if optimizer.ema_decay else None,
            recent=jnp.full((RECENT_STEPS, 2), jnp.nan),
        )

    @classmethod
    def frozen(cls, params: Any) -> TrainState:
        """A state that is evaluated, not trained."""
        return cls(step=0, skipped=0, params=params, opt_state=(), ema=None)

    @property
    def evaluated(self) -> Any:
        """The parameters to evaluate: the moving average where there is one."""
        return self.params if self.ema is None else self.ema
