"""What the steps of all tasks are made of: keys, gradients of a batch, the update.

The steps themselves are methods of the tasks (`tasks/`): pure functions of state and batch. A batch
holds `video` (b t h w 3, uint8), `valid` (b, False for padding and unreadable files), where there
are labels `label` (b), and for reports `index` (b, of the example; two int32 halves where JAX has
no 64-bit integers) and `view` (b).
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
from maskfeat_jax.typing import Array

Batch = dict[str, Array]
Metrics = dict[str, Array]


def step_keys(seed: int, step: Array) -> Array:
    """Three keys of a step: for augmentation, for masks or mixing, and for what is dropped."""
    return jax.random.split(jax.random.fold_in(jax.random.key(seed), step), 3)


def forward(
    model: nn.Module, params: Any, *inputs: Array, dropout: Array | None = None
) -> Float[Array, ...]:
    """The output of a model; with a key for what is dropped as in training."""
    if dropout is None:
        return model.apply({"params": params}, *inputs)  # type: ignore[return-value]  # no state
    rngs = {"dropout": dropout}
    return model.apply({"params": params}, *inputs, train=True, rngs=rngs)  # type: ignore


def accumulated_gradient(
    loss_of: Callable[..., Float[Array, ""]],
    params: Any,
    key: Array,
    inputs: tuple[Array, ...],
    parts: int,
) -> tuple[Float[Array, ""], Any]:
    """Loss and gradient of a batch, summed over equal parts of it.

    The loss of a part must already be divided by what the whole batch counts: then the sum is
    exactly that of the batch at once.
    """
    if parts == 1:
        return jax.value_and_grad(loss_of)(params, key, *inputs)

    def split(rows: Array) -> Array:  # each part takes rows from every device
        return jnp.swapaxes(rows.reshape(len(rows) // parts, parts, *rows.shape[1:]), 0, 1)

    def add(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, jax.value_and_grad(loss_of)(params, *part)), None

    zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, params))
    total, _ = jax.lax.scan(add, zero, (jax.random.split(key, parts), *map(split, inputs)))
    return total


def update(
    state: TrainState, loss: Float[Array, ""], grads: Any, optimizer: Optimizer
) -> tuple[TrainState, Metrics]:
    """Follows the gradient, or leaves the update out.

    Left out is what is not finite, and what stands out where the optimiser asks for it
    (`skip_spikes`): then `step` and `skipped` count on, `recent` takes what is finite, and nothing
    else changes.
    """
    norm = optax.global_norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    now = jnp.stack([loss, norm]).astype(jnp.float32)
    sigmas = jnp.where(finite, deviations(now, state.recent), 0)
    metrics = {"loss": loss, "grad_norm": norm, "nonfinite": ~finite}
    metrics |= {"loss_sigmas": sigmas[0], "grad_norm_sigmas": sigmas[1]}
    take = finite
    if optimizer.skip_spikes:
        metrics["spike"] = (sigmas > optimizer.skip_spikes).any()
        take = finite & ~metrics["spike"]
    slot = state.step % RECENT_STEPS
    recent = state.recent.at[slot].set(jnp.where(finite, now, state.recent[slot]))

    def follow(state: TrainState) -> TrainState:
        updates, opt_state = optimizer.tx.update(grads, state.opt_state, state.params, norm=norm)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            ema = optax.incremental_update(params, ema, 1 - optimizer.ema_decay)
        return state.replace(params=params, opt_state=opt_state, ema=ema)

    new = _only_if(take, follow, state)
    # The schedule counts the updates that were taken.
    metrics["lr"] = optimizer.schedule(state.step - state.skipped)
    return new.replace(step=state.step + 1, skipped=state.skipped + ~take, recent=recent), metrics


def deviations(now: Float[Array, " k"], recent: Float[Array, "n k"]) -> Float[Array, " k"]:
    """How many standard deviations numbers are above the mean of the n before; 0 until there are n.

    Where those are all the same, the distance itself.
    """
    std = recent.std(0)
    above = (now - recent.mean(0)) / jnp.where(std > 0, std, 1)
    return jnp.where(jnp.isfinite(recent).all(), above, 0)


def _only_if(
    condition: Array, change: Callable[[TrainState], TrainState], state: TrainState
) -> TrainState:
    """`change(state)` where the condition holds, else `state`."""

    def select(state: TrainState) -> TrainState:
        return jax.tree.map(lambda a, b: jnp.where(condition, a, b), change(state), state)

    def branch(state: TrainState) -> TrainState:
        return jax.lax.cond(condition, change, lambda state: state, state)

    # Selecting makes XLA's CPU backend copy the moments first; a branch would make the host wait
    # for an accelerator.
    return jax.lax.platform_dependent(state, cpu=branch, default=select)
