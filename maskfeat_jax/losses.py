"""Losses, by token or summed over examples.

The caller divides by the count of the whole batch, so that the losses of its slices (gradient
accumulation, devices) add up to exactly the loss of the batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from maskfeat_jax.ops.neighbours import unit
from maskfeat_jax.typing import Array, PyTree

ByToken = Float[Array, "b t h w"]
Means = Mapping[str, np.ndarray]


class Loss(Protocol):
    """Compares the predictions of tokens with their targets."""

    def __call__(self, predicted: Float[Array, "b t h w d"], targets: PyTree) -> dict[str, ByToken]:
        """float32 values of each token: `loss`, which is trained, and others to report."""

    def statistics(self, targets: PyTree) -> dict[str, Float[Array, "b t h w ..."]]:
        """What `best_constant` needs of each token."""

    def best_constant(self, means: Means) -> dict[str, float]:
        """Of the values of `__call__`, those of the constant prediction with the lowest loss.

        Args:
          means: of the statistics over tokens.
        """


class MSE:
    """Squared error, averaged over the values of a token.

    Source: PySlowFast `multi_mse`, which is the mean over all masked tokens of the batch, so that
    a clip with more masked tokens has more weight.
    """

    def __call__(
        self, predicted: Float[Array, "b t h w d"], targets: Float[Array, "b t h w d"]
    ) -> dict[str, ByToken]:
        """See `Loss`."""
        predicted, targets = _wide(predicted, targets)
        return {"loss": jnp.square(predicted - targets).mean(-1)}

    def statistics(
        self, targets: Float[Array, "b t h w d"]
    ) -> dict[str, Float[Array, "b t h w d"]]:
        """See `Loss`."""
        return {"targets": targets, "squares": jnp.square(targets)}

    def best_constant(self, means: Means) -> dict[str, float]:
        """The variance of the targets, averaged over the values of a token."""
        return {"loss": float(np.mean(means["squares"] - means["targets"] ** 2))}


@dataclasses.dataclass(frozen=True)
class SmoothL1:
    """Smooth L1 loss, averaged over the values of a token.

    Attributes:
      beta: errors below it count as `error**2 / (2 * beta)`, others as `|error| - beta / 2`.

    Source: data2vec (arXiv:2202.03555), with a beta of 2 for images.
    """

    beta: float = 1.0

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"beta={self.beta} must be positive")

    def __call__(
        self, predicted: Float[Array, "b t h w d"], targets: Float[Array, "b t h w d"]
    ) -> dict[str, ByToken]:
        """See `Loss`."""
        predicted, targets = _wide(predicted, targets)
        error = jnp.abs(predicted - targets)
        small = jnp.square(error) / (2 * self.beta)
        return {"loss": jnp.where(error < self.beta, small, error - self.beta / 2).mean(-1)}

    def statistics(
        self, targets: Float[Array, "b t h w d"]
    ) -> dict[str, Float[Array, "b t h w d"]]:
        """See `Loss`."""
        return MSE().statistics(targets)

    def best_constant(self, means: Means) -> dict[str, float]:
        """An upper bound, reached if all targets are within `beta` of their mean.

        The best constant itself is not a function of means over tokens.
        """
        return {"loss": MSE().best_constant(means)["loss"] / (2 * self.beta)}


class Cosine:
    """Squared distance of the vectors scaled to unit length: `2 - 2 cos`.

    That is their squared error summed over the `d` values, `d` times the mean squared error.
    """

    def __call__(
        self, predicted: Float[Array, "b t h w d"], targets: Float[Array, "b t h w d"]
    ) -> dict[str, ByToken]:
        """See `Loss`."""
        predicted, targets = _wide(predicted, targets)
        return {"loss": 2 - 2 * jnp.sum(unit(predicted) * unit(targets), -1)}

    def statistics(
        self, targets: Float[Array, "b t h w d"]
    ) -> dict[str, Float[Array, "b t h w d"]]:
        """See `Loss`."""
        return {"directions": unit(*_wide(targets))}

    def best_constant(self, means: Means) -> dict[str, float]:
        """That of the mean direction."""
        return {"loss": 2 - 2 * float(np.linalg.norm(means["directions"]))}


class CrossEntropy:
    """Cross-entropy with one class per token, and the accuracy of the most probable class.

    Attributes:
      classes: their number.
    """

    def __init__(self, classes: int):
        """Stores it."""
        self.classes = classes

    def __call__(
        self, predicted: Float[Array, "b t h w d"], targets: Int[Array, "b t h w"]
    ) -> dict[str, ByToken]:
        """See `Loss`."""
        (logits,) = _wide(predicted)
        own = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
        hit = (logits.argmax(-1) == targets).astype(logits.dtype)
        return {"loss": jax.nn.logsumexp(logits, -1) - own, "accuracy": hit}

    def statistics(self, targets: Int[Array, "b t h w"]) -> dict[str, Float[Array, "b t h w d"]]:
        """See `Loss`."""
        return {"classes": jax.nn.one_hot(targets, self.classes)}

    def best_constant(self, means: Means) -> dict[str, float]:
        """The entropy of the classes, and the share of the most frequent one."""
        shares = means["classes"]
        return {"loss": entropy(shares), "accuracy": float(shares.max())}


class SoftCrossEntropy:
    """Cross-entropy with the probability of each class."""

    def __call__(
        self, predicted: Float[Array, "b t h w d"], targets: Float[Array, "b t h w d"]
    ) -> dict[str, ByToken]:
        """See `Loss`."""
        return {"loss": soft_cross_entropy(predicted, targets)}

    def statistics(
        self, targets: Float[Array, "b t h w d"]
    ) -> dict[str, Float[Array, "b t h w d"]]:
        """See `Loss`."""
        return {"probabilities": targets}

    def best_constant(self, means: Means) -> dict[str, float]:
        """The entropy of the mean probabilities."""
        return {"loss": entropy(means["probabilities"])}


class Part(NamedTuple):
    """A part of a weighted sum: its loss, its number of predicted values and its weight."""

    loss: Loss
    dim: int
    weight: float


@dataclasses.dataclass(frozen=True)
class Weighted:
    """The sum of several losses, each of its own predicted values.

    Attributes:
      parts: by name; the values of the first come first.
    """

    parts: Mapping[str, Part]

    def __call__(
        self, predicted: Float[Array, "b t h w d"], targets: Mapping[str, PyTree]
    ) -> dict[str, ByToken]:
        """See `Loss`; the values of a part under its name, such as `loss_hog`."""
        own = self.split(predicted)
        return self._sum({k: part.loss(own[k], targets[k]) for k, part in self.parts.items()})

    def statistics(self, targets: Mapping[str, PyTree]) -> dict[str, Float[Array, "b t h w ..."]]:
        """See `Loss`."""
        return {
            f"{name}/{key}": x
            for name, part in self.parts.items()
            for key, x in part.loss.statistics(targets[name]).items()
        }

    def best_constant(self, means: Means) -> dict[str, float]:
        """See `Loss`."""
        own: dict[str, dict[str, np.ndarray]] = {name: {} for name in self.parts}
        for name, x in means.items():
            part, _, key = name.partition("/")
            own[part][key] = x
        return self._sum({k: part.loss.best_constant(own[k]) for k, part in self.parts.items()})

    def split(self, predicted: Float[Array, "... d"]) -> dict[str, Array]:
        """The predicted values of each part."""
        ends = np.cumsum([part.dim for part in self.parts.values()])[:-1]
        return dict(zip(self.parts, jnp.split(predicted, ends, -1), strict=True))

    def _sum(self, found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        total = sum(part.weight * found[name]["loss"] for name, part in self.parts.items())
        each = {f"{key}_{name}": x for name, values in found.items() for key, x in values.items()}
        return {"loss": total, **each}


def soft_cross_entropy(
    logits: Float[Array, "*rows classes"], targets: Float[Array, "*rows classes"]
) -> Float[Array, "*rows"]:
    """Cross-entropy with the probability of each class."""
    return -jnp.sum(targets * jax.nn.log_softmax(logits.astype(jnp.float32)), -1)


def binary_cross_entropy(
    logits: Float[Array, "*rows classes"], targets: Bool[Array, "*rows classes"]
) -> Float[Array, "*rows"]:
    """Cross-entropy of classes that are independent of each other, averaged over them."""
    (logits,) = _wide(logits)
    return jnp.mean(jax.nn.softplus(logits) - targets * logits, -1)


def entropy(probabilities: Float[np.ndarray, " classes"]) -> float:
    """Entropy in nats."""
    positive = probabilities[probabilities > 0]
    return float(-np.sum(positive * np.log(positive)))


def _wide(*arrays: Array) -> list[Array]:
    """The arrays in their common dtype, at least float32."""
    dtype = jnp.promote_types(jnp.result_type(*arrays), jnp.float32)
    return [x.astype(dtype) for x in arrays]


def hits(logits: Float[Array, "b classes"], labels: Int[Array, b], k: int) -> Bool[Array, b]:
    """Whether fewer than `k` classes score higher than the label's (top-k accuracy)."""
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    # ~(<=) instead of >: a NaN logit never counts as a hit.
    return jnp.sum(~(logits <= own), axis=-1) < k
