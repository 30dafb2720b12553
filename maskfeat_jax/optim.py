"""Optimisers: AdamW, LARS, SGD; weight decay, layer-wise learning rates, schedule.

To add one: a frozen dataclass derived from `Rule` with `_direction`, and its line in `OPTIMIZERS`.
"""

from __future__ import annotations

import abc
import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int

from maskfeat_jax.models.layers import stacked_range
from maskfeat_jax.typing import Array

Params = Any  # nested dict of arrays
Schedule = Callable[[Int[Array, ""] | int], Float[Array, ""]]


class Optimizer(NamedTuple):
    """An optimiser for given parameters and a given length of the run.

    Attributes:
      tx: optax transformation, learning rate included.
      schedule: number of updates -> learning rate of the head, for logging.
      ema_decay: decay of the moving average of the parameters; 0 for no average.
      skip_spikes: see `Rule`.
    """

    tx: optax.GradientTransformation
    schedule: Schedule
    ema_decay: float
    skip_spikes: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule(abc.ABC):
    """Settings of all optimisers: warm-up and cosine schedule, weight decay, layer-wise decay.

    Attributes:
      lr: peak learning rate at a batch size of `lr_batch`. It, `warmup_lr` and `end_lr` scale
        linearly with the batch size.
      lr_batch: batch size that the learning rates are given for.
      warmup_lr: learning rate of the first update.
      end_lr: learning rate at the end of the cosine.
      warmup_epochs: epochs from `warmup_lr` to `lr`.
      weight_decay: not applied to vectors, such as biases.
      no_decay: regular expressions; parameters whose path matches are not decayed either.
      clip_norm: bound on the global norm of the gradient; 0 for none.
      layer_decay: factor on the learning rate per layer below the head; 1 for none.
      ema_decay: see `Optimizer`.
      skip_spikes: skips an update whose loss or gradient norm is more than this many standard
        deviations above the mean of the last 128 steps; 0 for never. As in MaxText.

    Raises:
      ValueError: a value is out of range.

    Source: PySlowFast slowfast/models/optimizer.py and slowfast/utils/lr_policy.py.
    """

    lr: float
    lr_batch: int = 256
    warmup_lr: float = 0.0
    end_lr: float = 0.0
    warmup_epochs: float = 0.0
    weight_decay: float = 0.0
    no_decay: Sequence[str] = ()
    clip_norm: float = 0.0
    layer_decay: float = 1.0
    ema_decay: float = 0.0
    skip_spikes: float = 0.0

    def __post_init__(self) -> None:
        for name in ("lr", "lr_batch"):
            self._require(name, getattr(self, name) > 0, "positive")
        for name in ("warmup_lr", "end_lr", "warmup_epochs", "weight_decay", "clip_norm"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("skip_spikes", self.skip_spikes >= 0, "0 or more")
        self._require("layer_decay", 0 < self.layer_decay <= 1, "above 0, at most 1")
        self._require("ema_decay", 0 <= self.ema_decay < 1, "at least 0, below 1")

    def optimizer(
        self,
        params: Params,
        *,
        steps_per_epoch: float,
        epochs: float,
        batch_size: int,
        frozen: Sequence[str] = (),
    ) -> Optimizer:
        """The optimiser for these parameters and this length of the run.

        Args:
          params: the parameters, or their shapes.
          steps_per_epoch: updates in an epoch.
          epochs: of the whole run, warm-up included.
          batch_size: clips per update over all devices.
          frozen: regular expressions; parameters whose path matches are not updated and have no
            optimiser state.

        Raises:
          ValueError: a pattern matches no parameter, all parameters are frozen, the warm-up is as
            long as the run, or the optimiser does not support these parameters.
        """
        if not self.warmup_epochs < epochs:
            raise ValueError(f"warmup_epochs={self.warmup_epochs} is not below epochs={epochs}")
        scale = batch_size / self.lr_batch
        schedule = warmup_cosine(
            self.lr * scale,
            self.warmup_lr * scale,
            self.end_lr * scale,
            warmup_steps=self.warmup_epochs * steps_per_epoch,
            total_steps=epochs * steps_per_epoch,
        )
        fixed = _matching(params, frozen, "frozen")
        if all(jax.tree.leaves(fixed)):
            raise ValueError(f"frozen={tuple(frozen)} leaves no trainable parameter")
        trainable = jax.tree.map(lambda x, fix: optax.MaskedNode() if fix else x, params, fixed)
        decay = optax.add_decayed_weights(self.weight_decay, decayed(params, self.no_decay))
        by_layer = self.layer_decay < 1
        tx = optax.chain(
            clip_to(self.clip_norm) if self.clip_norm else optax.identity(),
            *self._direction(decay, trainable),
            scale_by_tree(layer_scales(params, self.layer_decay)) if by_layer else optax.identity(),
            optax.scale_by_learning_rate(schedule),
        )
        if frozen:
            labels = jax.tree.map(lambda fix: "frozen" if fix else "trainable", fixed)
            tx = optax.partition({"trainable": tx, "frozen": optax.set_to_zero()}, labels)
        return Optimizer(tx, schedule, self.ema_decay, self.skip_spikes)

    @abc.abstractmethod
    def _direction(
        self, decay: optax.GradientTransformation, trainable: Params
    ) -> tuple[optax.GradientTransformation, ...]:
        """Transformations from the gradient to the update without learning rate.

        Args:
          decay: adds the weight decay.
          trainable: the parameters without the frozen ones.
        """

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ValueError(f"{name}={getattr(self, name)} is not {expected}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW(Rule):
    """Adam (epsilon 1e-8) with decoupled weight decay, multiplied by the learning rate.

    Attributes:
      b1: decay of the first moment.
      b2: decay of the second moment.

    Source: torch.optim.AdamW.
    """

    warmup_lr: float = 1e-6
    end_lr: float = 1e-6
    weight_decay: float = 0.05
    b1: float = 0.9
    b2: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("b1", "b2"):
            self._require(name, 0 <= getattr(self, name) < 1, "at least 0, below 1")

    def _direction(
        self, decay: optax.GradientTransformation, trainable: Params
    ) -> tuple[optax.GradientTransformation, ...]:
        return optax.scale_by_adam(self.b1, self.b2, eps=1e-8), decay


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sgd(Rule):
    """Gradient descent with momentum; weight decay is part of the gradient.

    The learning rate is applied after the momentum, so that a change of it affects the whole
    update at once.

    Attributes:
      momentum: decay of the sum of past gradients.
      nesterov: look ahead along the momentum.

    Source: torch.optim.SGD.
    """

    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("momentum", 0 <= self.momentum < 1, "at least 0, below 1")
        if self.nesterov:
            self._require("momentum", self.momentum > 0, "positive, as nesterov needs it")

    def _direction(
        self, decay: optax.GradientTransformation, trainable: Params
    ) -> tuple[optax.GradientTransformation, ...]:
        return decay, optax.trace(self.momentum, self.nesterov)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lars(Rule):
    """Momentum on gradients scaled to the norm of their parameter; for linear probes.

    Gradients of tensors with more than one axis are scaled, after weight decay; those of vectors
    are not. Unlike in `optax.lars`, the learning rate is applied after the momentum.

    Attributes:
      momentum: decay of the sum of past gradients.
      trust: norm of the scaled gradient divided by the norm of the parameter.

    Source: util/lars.py of mae, from MoCo v3; LARS (arXiv:1708.03888).
    """

    momentum: float = 0.9
    trust: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("momentum", 0 <= self.momentum < 1, "at least 0, below 1")
        self._require("trust", self.trust > 0, "positive")

    def _direction(
        self, decay: optax.GradientTransformation, trainable: Params
    ) -> tuple[optax.GradientTransformation, ...]:
        scaled = decayed(trainable)
        return decay, optax.masked(by_trust_ratio(self.trust), scaled), optax.trace(self.momentum)


OPTIMIZERS: dict[str, type[Rule]] = {"adamw": AdamW, "lars": Lars, "sgd": Sgd}


def warmup_cosine(
    peak: float, start: float, end: float, *, warmup_steps: float, total_steps: float
) -> Schedule:
    """Linear from `start` to `peak`, then half a cosine to `end`, by the number of past updates."""

    def schedule(step: Int[Array, ""] | int) -> Float[Array, ""]:
        step = jnp.asarray(step, jnp.float32)
        rising = start + step * (peak - start) / max(warmup_steps, 1)
        done = jnp.clip((step - warmup_steps) / (total_steps - warmup_steps), 0, 1)
        falling = end + (peak - end) * 0.5 * (1 + jnp.cos(math.pi * done))
        return jnp.where(step < warmup_steps, rising, falling)

    return schedule


def decayed(params: Params, no_decay: Sequence[str] = ()) -> Params:
    """True for each parameter that weight decay applies to.

    Vectors (biases, norms) and parameters that match `no_decay` are exempt. Class token, mask
    token and positional embeddings are decayed unless they match.

    Raises:
      ValueError: a pattern matches no parameter.
    """
    exempt = _matching(params, no_decay, "no_decay")

    def rule(path: Any, leaf: Any, is_exempt: bool) -> bool:
        axes = leaf.ndim - _stacked(path)  # stacked blocks have one axis more
        return axes > 1 and not is_exempt

    return jax.tree_util.tree_map_with_path(rule, params, exempt)


def layer_scales(params: Params, layer_decay: float) -> Params:
    """Factor on the learning rate of each parameter, for encoders with numbered blocks.

    `layer_decay ** (depth + 1 - layer)`: layer 0 are the parameters of the encoder outside its
    blocks (patch embedding, tokens, positions), block i is layer i + 1, the head is `depth + 1`.

    Raises:
      ValueError: the parameters have no blocks.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    depth = 0
    for path, _ in leaves:
        if blocks := _blocks(_path(path)):
            depth = max(depth, blocks[1] + 1)
    if not depth:
        raise ValueError("layer_decay needs an encoder with blocks; parameters: " + _some(leaves))

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


def clip_to(bound: float) -> optax.GradientTransformationExtraArgs:
    """Scales gradients down to a global norm.

    A caller that has the norm passes it to `update` as `norm`, which saves a pass over the
    gradients. The factor is a scalar, so that XLA fuses the scaling with what follows.

    Source: torch.nn.utils.clip_grad_norm_.
    """

    def update(updates: Any, state: Any, params: Any = None, *, norm: Any = None, **_: Any) -> Any:
        norm = optax.global_norm(updates) if norm is None else norm
        scale = jnp.minimum(1, bound / (norm + 1e-6))
        return jax.tree.map(lambda x: x * scale, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def by_trust_ratio(trust: float) -> optax.GradientTransformation:
    """`optax.scale_by_trust_ratio`, with a norm for each block where blocks are stacked."""
    rule = optax.scale_by_trust_ratio(trust_coefficient=trust)

    def scaled(path: Any, update: Array, param: Array) -> Array:
        def one(update: Array, param: Array) -> Array:
            return rule.update(update, rule.init(param), param)[0]

        return (jax.vmap(one) if _stacked(path) else one)(update, param)

    def update(updates: Any, state: Any, params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(scaled, updates, params), state

    return optax.GradientTransformation(rule.init, update)


def scale_by_tree(scales: Params) -> optax.GradientTransformation:
    """Multiplies each update by its factor."""

    def scaled(scale: Any, update: Any) -> Any:
        # The update of a frozen parameter is a tree without leaves.
        return jax.tree.map(lambda x: jnp.multiply(x, scale), update)

    return optax.stateless(lambda updates, _: jax.tree.map(scaled, scales, updates))


def _matching(params: Params, patterns: Sequence[str], setting: str) -> Params:
    """True for each parameter whose path matches one of the patterns.

    Raises:
      ValueError: a pattern matches no parameter.
    """
    if isinstance(patterns, str):
        raise ValueError(f"{setting}={patterns!r} is not a list of patterns")
    paths = [_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern in patterns:
        if not any(re.search(pattern, path) for path in paths):
            raise ValueError(
                f"{setting}={pattern!r} matches no parameter; parameters: {_some(paths)}"
            )

    def matches(path: Any, _: Any) -> bool:
        return any(re.search(pattern, _path(path)) for pattern in patterns)

    return jax.tree_util.tree_map_with_path(matches, params)


def _stacked(path: Any) -> bool:
    """Whether the first axis of a parameter is that of stacked blocks."""
    return any(map(stacked_range, _path(path).split("/")))


def _blocks(name: str) -> tuple[int, int] | None:
    """First and last block of the encoder that a parameter belongs to; None if to none."""
    match = re.match(r"encoder/blocks/([^/]+)/", name)
    return match and (stacked_range(match[1]) or (int(match[1]), int(match[1])))


def _path(path: Any) -> str:
    return "/".join(str(getattr(key, "key", key)) for key in path)


def _some(paths: Sequence[Any]) -> str:
    names = [path if isinstance(path, str) else _path(path[0]) for path in paths]
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
