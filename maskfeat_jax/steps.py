"""The steps: pure functions of state and batch, compiled by `loop`.

A batch holds `video` (b t h w 3, uint8), `valid` (b, False for padding and unreadable files) and,
where there are labels, `label` (b).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, Int

from maskfeat_jax import losses
from maskfeat_jax.augment import Augment, Mix, Normalise
from maskfeat_jax.masking import Masker
from maskfeat_jax.models.probes import RUNNING
from maskfeat_jax.ops.patches import token_grid
from maskfeat_jax.optim import Optimizer
from maskfeat_jax.state import RECENT_STEPS, TrainState
from maskfeat_jax.targets import Target
from maskfeat_jax.typing import Array

Batch = dict[str, Array]
Metrics = dict[str, Array]


def pretrain_step(
    state: TrainState,
    batch: Batch,
    *,
    model: nn.Module,
    normalise: Normalise,
    augment: Augment,
    masker: Masker,
    target: Target,
    optimizer: Optimizer,
    seed: int,
    accumulate: int = 1,
) -> tuple[TrainState, Metrics]:
    """One update: hide tokens, predict their features, follow the gradient."""
    augment_key, mask_key, drop_key = _keys(seed, state.step)
    clips = augment(augment_key, normalise(batch["video"]))
    wanted = target(clips)
    grid = token_grid(clips.shape[1:4], target.tubelet)
    mask = masker(mask_key, len(clips), grid)  # True = masked
    counted = mask & batch["valid"][:, None, None, None]
    numbers = jnp.maximum(counted.sum() * target.dim, 1)

    def loss_of(params: Any, key: Array, clips: Array, wanted: Array, mask: Array, counted: Array):
        predicted = forward(model, params, clips, mask, dropout=key)
        return losses.masked_mse(predicted, wanted, counted)[0] / numbers

    inputs = (clips, wanted, mask, counted)
    loss, grads = _accumulated(loss_of, state.params, drop_key, inputs, accumulate)
    return _update(state, loss, grads, optimizer)


def finetune_step(
    state: TrainState,
    batch: Batch,
    *,
    model: nn.Module,
    normalise: Normalise,
    augment: Augment,
    mix: Mix,
    classes: int,
    optimizer: Optimizer,
    seed: int,
    accumulate: int = 1,
) -> tuple[TrainState, Metrics]:
    """One update: mix clips and labels, classify, follow the gradient."""
    augment_key, mix_key, drop_key = _keys(seed, state.step)
    clips = augment(augment_key, normalise(batch["video"]))
    clips, wanted = mix(mix_key, clips, batch["label"], classes)
    weight = batch["valid"].astype(jnp.float32)
    if mix.probability:  # a clip mixed with an unreadable one counts no more than that one
        weight = weight * mix.partner(weight)
    total = jnp.maximum(weight.sum(), 1)

    def loss_of(params: Any, key: Array, clips: Array, wanted: Array, weight: Array):
        logits = forward(model, params, clips, dropout=key)
        return losses.soft_cross_entropy(logits, wanted, weight)[0] / total

    inputs = (clips, wanted, weight)
    loss, grads = _accumulated(loss_of, state.params, drop_key, inputs, accumulate)
    return _update(state, loss, grads, optimizer)


def probe_step(
    state: TrainState,
    batch: Batch,
    *,
    model: nn.Module,
    normalise: Normalise,
    augment: Augment,
    classes: int,
    optimizer: Optimizer,
    seed: int,
) -> tuple[TrainState, Metrics]:
    """One update of a small classifier on a frozen encoder, and of its running statistics."""
    augment_key, _, _ = _keys(seed, state.step)
    clips = augment(augment_key, normalise(batch["video"]))
    wanted = jax.nn.one_hot(batch["label"], classes)
    weight = batch["valid"].astype(jnp.float32)

    def loss_of(params: Any):
        logits, changed = model.apply(
            {"params": params}, clips, batch["valid"], train=True, mutable=[RUNNING]
        )
        loss, total = losses.soft_cross_entropy(logits, wanted, weight)
        return loss / jnp.maximum(total, 1), changed.get(RUNNING, {})

    (loss, running), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    new, metrics = _update(state, loss, grads, optimizer)
    keep = (new.skipped != state.skipped) | ~batch["valid"].any()
    params = _with(new.params, running, keep)
    return new.replace(params=params), metrics


def eval_step(
    params: Any, batch: Batch, *, model: nn.Module, normalise: Normalise, views: int = 1
) -> Metrics:
    """Sums over the examples of a batch of which all views are valid.

    The `views` rows of an example follow each other; its score is the mean of their probabilities.

    Returns:
      `loss`, and see `class_sums`.
    """
    logits = forward(model, params, normalise(batch["video"]))
    by_view = jax.nn.log_softmax(logits).reshape(-1, views, logits.shape[-1])
    scores = jax.nn.logsumexp(by_view, axis=1) - math.log(views)
    valid = jnp.asarray(batch["valid"]).reshape(-1, views).all(1)
    labels = jnp.where(valid, batch["label"][::views], 0)
    wanted = jax.nn.one_hot(labels, scores.shape[-1])
    loss, _ = losses.soft_cross_entropy(scores, wanted, valid.astype(jnp.float32))
    return {"loss": loss, **class_sums(scores, labels, valid)}


def class_sums(
    scores: Float[Array, "b classes"], labels: Int[Array, " b"], valid: Bool[Array, " b"]
) -> Metrics:
    """Sums over the valid examples.

    Returns:
      `examples`, hits among the best 1 and 5 (`top1`, `top5`), and by class `(classes,)`
      `class_examples` and `class_top1`. An example whose class scores -inf is no hit.
    """
    labels = jnp.where(valid, labels, 0)
    wanted = jax.nn.one_hot(labels, scores.shape[-1]) * valid[:, None]
    possible = valid & jnp.isfinite(jnp.take_along_axis(scores, labels[:, None], 1)[:, 0])
    top1, top5 = (jnp.asarray(losses.hits(scores, labels, k) & possible) for k in (1, 5))
    return {
        "examples": jnp.sum(valid.astype(jnp.float32)),
        "top1": jnp.sum(top1),
        "top5": jnp.sum(top5),
        "class_examples": wanted.sum(0),
        "class_top1": (wanted * top1[:, None]).sum(0),
    }


def pretrain_eval_step(
    params: Any,
    batch: Batch,
    *,
    model: nn.Module,
    normalise: Normalise,
    masker: Masker,
    target: Target,
    seed: int,
    views: int = 1,
) -> Metrics:
    """Sums over the masked tokens of the examples of a batch of which all views are valid.

    Masks depend on `seed` and the place in the batch only.

    Returns:
      `examples`, masked `tokens`, `loss` the squared error per number, and of the wanted numbers
      themselves their sum and sum of squares `(d,)`, from which the loss of the best constant
      follows.
    """
    complete = batch["valid"].reshape(-1, views).all(1)
    clips = normalise(batch["video"])
    wanted = target(clips)
    grid = token_grid(clips.shape[1:4], target.tubelet)
    mask = masker(jax.random.key(seed), len(clips), grid)
    predicted = forward(model, params, clips, mask)
    counted = mask & jnp.repeat(complete, views)[:, None, None, None]
    weight = counted[..., None].astype(jnp.float32)
    return {
        "examples": jnp.sum(complete),
        "tokens": jnp.sum(weight),
        "loss": losses.masked_mse(predicted, wanted, counted)[0] / target.dim,
        "wanted": jnp.sum(wanted * weight, (0, 1, 2, 3)),
        "wanted_squared": jnp.sum(jnp.square(wanted) * weight, (0, 1, 2, 3)),
    }


def forward(
    model: nn.Module, params: Any, *inputs: Array, dropout: Array | None = None
) -> Float[Array, ...]:
    """The output of a model; with a key for what is dropped as in training."""
    if dropout is None:
        return model.apply({"params": params}, *inputs)  # type: ignore[return-value]  # no state
    rngs = {"dropout": dropout}
    return model.apply({"params": params}, *inputs, train=True, rngs=rngs)  # type: ignore


def _keys(seed: int, step: Array) -> Array:
    return jax.random.split(jax.random.fold_in(jax.random.key(seed), step), 3)


def _accumulated(
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


def _update(
    state: TrainState, loss: Float[Array, ""], grads: Any, optimizer: Optimizer
) -> tuple[TrainState, Metrics]:
    """Follows the gradient, unless it or the loss is not finite: then only the step counts.

    Nor where it stands out of those before, if the optimiser minds.
    """
    norm = optax.global_norm(grads)
    finite = take = jnp.isfinite(loss) & jnp.isfinite(norm)
    metrics = {"loss": loss, "grad_norm": norm, "nonfinite": ~finite}
    if state.recent is not None:
        now = jnp.stack([loss, norm]).astype(jnp.float32)
        metrics["spike"] = finite & stands_out(now, state.recent, optimizer.skip_spikes)
        take = finite & ~metrics["spike"]
        there = jnp.where(finite, now, state.recent[state.step % RECENT_STEPS])
        state = state.replace(recent=state.recent.at[state.step % RECENT_STEPS].set(there))

    def follow(state: TrainState) -> TrainState:
        updates, opt_state = optimizer.tx.update(grads, state.opt_state, state.params, norm=norm)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            ema = optax.incremental_update(params, ema, 1 - optimizer.ema_decay)
        return state.replace(params=params, opt_state=opt_state, ema=ema)

    new = _only_if(take, follow, state)
    metrics["lr"] = optimizer.schedule(state.step - state.skipped)
    return new.replace(step=state.step + 1, skipped=state.skipped + ~take), metrics


def stands_out(
    now: Float[Array, " k"], recent: Float[Array, "n k"], sigmas: float
) -> Bool[Array, ""]:
    """Whether a number is far above those before it, once there are n of them."""
    bound = recent.mean(0) + sigmas * recent.std(0)
    return jnp.isfinite(recent).all() & (now > bound).any()


def _with(params: Any, values: Any, keep: Array) -> Any:
    """Parameters with some replaced by the values that lie under the same paths, unless `keep`."""
    if not isinstance(values, dict):
        return jnp.where(keep, params, values)
    return {**params, **{name: _with(params[name], x, keep) for name, x in values.items()}}


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
