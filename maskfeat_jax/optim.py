"""Optimiser: AdamW, weight decay and learning-rate rules, schedule."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int

from maskfeat_jax.arrays import Array
from maskfeat_jax.models.layers import stacked_range

Params = Any  # nested dict of arrays
Schedule = Callable[[Int[Array, ""] | int], Float[Array, ""]]


class Optimizer(NamedTuple):
    """What a step needs to follow a gradient.

    Attributes:
      tx: optax transformation, learning rate included.
      schedule: learning rate of the head by number of updates, for reports.
      ema_decay: of the moving average of the parameters; 0 keeps none.
    """

    tx: optax.GradientTransformation
    schedule: Schedule
    ema_decay: float


def adamw(
    params: Params,
    *,
    steps_per_epoch: int,
    epochs: float,
    batch_size: int,
    lr: float,
    lr_batch: int = 256,
    warmup_lr: float = 1e-6,
    end_lr: float = 1e-6,
    warmup_epochs: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    weight_decay: float = 0.05,
    no_decay: Sequence[str] = (),
    clip_norm: float = 0.0,
    layer_decay: float = 1.0,
    ema_decay: float = 0.0,
) -> Optimizer:
    """AdamW (epsilon 1e-8) with linear warm-up and a cosine.

    Args:
      params: the parameters, or their shapes.
      steps_per_epoch: updates in an epoch.
      epochs: of the whole run, warm-up included.
      batch_size: clips per update over all devices.
      lr: peak learning rate for a batch of `lr_batch`; it and the two below grow with the batch.
      lr_batch: batch that the learning rates are given for.
      warmup_lr: learning rate of the first update.
      end_lr: learning rate that the cosine ends at.
      warmup_epochs: epochs from `warmup_lr` to `lr`.
      b1: decay of the first moment.
      b2: decay of the second moment.
      weight_decay: decoupled, multiplied by the learning rate; never on vectors such as biases.
      no_decay: regular expressions; parameters whose path matches are not decayed either.
      clip_norm: bound on the global norm of the gradient; 0 for none.
      layer_decay: factor on the learning rate per layer below the head; 1 for none.
      ema_decay: see `Optimizer`.

    Raises:
      ValueError: a rule matches no parameter, or a number is out of its range.

    Source: PySlowFast slowfast/models/optimizer.py and slowfast/utils/lr_policy.py.
    """
    if not 0 <= warmup_epochs < epochs:
        raise ValueError(f"warmup_epochs={warmup_epochs} is not below epochs={epochs}")
    if not 0 < layer_decay <= 1 or not 0 <= ema_decay < 1:
        raise ValueError(f"layer_decay={layer_decay} or ema_decay={ema_decay} is out of range")
    scale = batch_size / lr_batch
    schedule = warmup_cosine(
        lr * scale,
        warmup_lr * scale,
        end_lr * scale,
        warmup_steps=warmup_epochs * steps_per_epoch,
        total_steps=epochs * steps_per_epoch,
    )
    tx = optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        optax.scale_by_adam(b1, b2, eps=1e-8),
        optax.add_decayed_weights(weight_decay, decayed(params, no_decay)),
        scale_by_tree(layer_scales(params, layer_decay)) if layer_decay < 1 else optax.identity(),
        optax.scale_by_learning_rate(schedule),
    )
    return Optimizer(tx, schedule, ema_decay)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"adamw": adamw}


def warmup_cosine(
    peak: float, start: float, end: float, *, warmup_steps: float, total_steps: float
) -> Schedule:
    """Linear from `start` to `peak`, then half a cosine to `end`; by updates made before."""

    def schedule(step: Int[Array, ""] | int) -> Float[Array, ""]:
        step = jnp.asarray(step, jnp.float32)
        rising = start + step * (peak - start) / max(warmup_steps, 1)
        done = jnp.clip((step - warmup_steps) / (total_steps - warmup_steps), 0, 1)
        falling = end + (peak - end) * 0.5 * (1 + jnp.cos(math.pi * done))
        return jnp.where(step < warmup_steps, rising, falling)

    return schedule


def decayed(params: Params, no_decay: Sequence[str] = ()) -> Params:
    """True for each parameter that weight decay applies to.

    Vectors (biases, norms) are exempt, as is whatever matches `no_decay`. Class token, mask token
    and positions are decayed unless named.

    Raises:
      ValueError: a pattern matches no parameter.
    """
    paths = [_path(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern in no_decay:
        if not any(re.search(pattern, path) for path in paths):
            raise ValueError(
                f"no_decay={pattern!r} matches no parameter; there are: {_some(paths)}"
            )

    def rule(path: Any, leaf: Any) -> bool:
        stacked = any(map(stacked_range, _path(path).split("/")))
        axes = leaf.ndim - stacked  # stacked blocks have one axis more
        return axes > 1 and not any(re.search(pattern, _path(path)) for pattern in no_decay)

    return jax.tree_util.tree_map_with_path(rule, params)


def layer_scales(params: Params, layer_decay: float) -> Params:
    """Factor on the learning rate of each parameter, for encoders of numbered blocks.

    `layer_decay ** (depth + 1 - layer)`: layer 0 is everything of the encoder outside its blocks
    (patch embedding, tokens, positions), block i is layer i + 1, the rest (head) is `depth + 1`.

    Raises:
      ValueError: the parameters have no blocks.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    depth = 0
    for path, _ in leaves:
        if blocks := _blocks(_path(path)):
            depth = max(depth, blocks[1] + 1)
    if not depth:
        raise ValueError("layer_decay needs an encoder of blocks; there are: " + _some(leaves))

    def rule(path: Any, leaf: Any) -> Any:
        name = _path(path)
        if not name.startswith("encoder/"):
            return 1.0
        first, last = _blocks(name) or (-1, -1)
        if first == last:
            return layer_decay ** (depth - first)
        scales = layer_decay ** (depth - jnp.arange(first, last + 1, dtype=jnp.float32))
        return scales.reshape(-1, *[1] * (leaf.ndim - 1))

    return jax.tree_util.tree_map_with_path(rule, params)


def scale_by_tree(scales: Params) -> optax.GradientTransformation:
    """Multiplies each update with its factor."""
    return optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, scales))


def _blocks(name: str) -> tuple[int, int] | None:
    """First and last block of the encoder that a parameter belongs to, if any."""
    match = re.match(r"encoder/blocks/([^/]+)/", name)
    return match and (stacked_range(match[1]) or (int(match[1]), int(match[1])))


def _path(path: Any) -> str:
    return "/".join(str(getattr(key, "key", key)) for key in path)


def _some(paths: Sequence[Any]) -> str:
    names = [path if isinstance(path, str) else _path(path[0]) for path in paths]
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
