"""Building blocks of the training steps: random keys, accumulated gradient, update.

The steps are methods of the tasks (`tasks/`): pure functions of state and batch. A batch has the
keys `video` (b t h w 3, uint8), `valid` (b, False for padding and unreadable files), for labelled
data `label` (b), and for logs `index` (b, of the example; two int32 halves if JAX has no 64-bit
integers) and `view` (b).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from maskfeat_jax.optim import Optimizer
from maskfeat_jax.state import RECENT_STEPS, TrainState
from maskfeat_jax.typing import Array, PyTree

Batch = dict[str, Array]
Metrics = dict[str, Array]


def step_keys(seed: int, step: Array) -> Array:
    """The three random keys of a step: augmentation, masks or mixing, drop path and dropout."""
    return jax.random.split(jax.random.fold_in(jax.random.key(seed), step), 3)


def forward(
    model: nn.Module, params: Any, *inputs: Array, dropout: Array | None = None
) -> Float[Array, ...]:
    """Applies a model; in training mode if the key of drop path and dropout is given."""
    if dropout is None:
        return model.apply({"params": params}, *inputs)  # type: ignore[return-value]  # no state
    rngs = {"dropout": dropout}
    return model.apply({"params": params}, *inputs, train=True, rngs=rngs)  # type: ignore


def accumulated_gradient(
    loss_of: Callable[..., tuple[Float[Array, ""], Metrics]],
    params: Any,
    key: Array,
    inputs: tuple[PyTree, ...],
    slices: int,
) -> tuple[tuple[Float[Array, ""], Metrics], Any]:
    """Loss with other metrics, and gradient of a batch, accumulated over equal slices of it.

    `loss_of` must divide by the count of the whole batch: then the sum over the slices is exactly
    the loss of the batch.
    """
    gradient = jax.value_and_grad(loss_of, has_aux=True)
    if slices == 1:
        return gradient(params, key, *inputs)

    def split(rows: Array) -> Array:  # each slice has rows of every device
        return jnp.swapaxes(rows.reshape(len(rows) // slices, slices, *rows.shape[1:]), 0, 1)

    def add(total: Any, one: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient(params, *one)), None

    every = (jax.random.split(key, slices), *jax.tree.map(split, inputs))
    shapes = jax.eval_shape(gradient, params, *jax.tree.map(lambda x: x[0], every))
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add, zero, every)
    return total


def update(
    state: TrainState,
    loss: Float[Array, ""],
    grads: Any,
    optimizer: Optimizer,
    others: Metrics | None = None,
) -> tuple[TrainState, Metrics]:
    """Applies the gradient, or skips the update; `others` are added to the metrics.

    Skipped are updates whose loss or gradient norm is not finite, and spikes if the optimiser has
    `skip_spikes`. A skipped update only increments `step` and `skipped`, and a finite spike enters
    `recent`.
    """
    norm = optax.global_norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    now = jnp.stack([loss, norm]).astype(jnp.float32)
    sigmas = jnp.where(finite, deviations(now, state.recent), 0)
    metrics = {"loss": loss, **(others or {}), "grad_norm": norm, "nonfinite": ~finite}
    metrics |= {"loss_sigmas": sigmas[0], "grad_norm_sigmas": sigmas[1]}
    take = finite
    if optimizer.skip_spikes:
        metrics["spike"] = (sigmas > optimizer.skip_spikes).any()
        take = finite & ~metrics["spike"]
    slot = state.step % RECENT_STEPS
    recent = state.recent.at[slot].set(jnp.where(finite, now, state.recent[slot]))

    def apply(state: TrainState) -> TrainState:
        updates, opt_state = optimizer.tx.update(grads, state.opt_state, state.params, norm=norm)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            ema = optax.incremental_update(params, ema, 1 - optimizer.ema_decay)
        return state.replace(params=params, opt_state=opt_state, ema=ema)

    new = _only_if(take, apply, state)
    # The schedule counts applied updates only.
    metrics["lr"] = optimizer.schedule(state.step - state.skipped)
    return new.replace(step=state.step + 1, skipped=state.skipped + ~take, recent=recent), metrics


def deviations(now: Float[Array, " k"], recent: Float[Array, "n k"]) -> Float[Array, " k"]:
    """Standard deviations of `now` above the mean of `recent`; 0 until `recent` is filled.

    If all of `recent` are equal, the difference itself.
    """
    std = recent.std(0)
    above = (now - recent.mean(0)) / jnp.where(std > 0, std, 1)
    return jnp.where(jnp.isfinite(recent).all(), above, 0)


def _only_if(
    condition: Array, change: Callable[[TrainState], TrainState], state: TrainState
) -> TrainState:
    """`change(state)` if the condition holds, else `state`."""

    def select(state: TrainState) -> TrainState:
        return jax.tree.map(lambda a, b: jnp.where(condition, a, b), change(state), state)

    def branch(state: TrainState) -> TrainState:
        return jax.lax.cond(condition, change, lambda state: state, state)

    # With a select, XLA's CPU backend copies the moments first; with a branch, the host waits for
    # an accelerator.
    return jax.lax.platform_dependent(state, cpu=branch, default=select)
