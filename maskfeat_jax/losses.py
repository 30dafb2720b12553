"""Losses, summed over tokens or examples.

The caller divides by the count of the whole batch, so that the losses of its slices (gradient
accumulation, devices) add up to exactly the loss of the batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from maskfeat_jax.typing import Array


def masked_mse(
    predicted: Float[Array, "b t h w d"],
    targets: Float[Array, "b t h w d"],
    mask: Bool[Array, "b t h w"],
) -> Float[Array, ""]:
    """Squared error of the masked tokens, summed over tokens and their `d` numbers.

    Source: PySlowFast `multi_mse`, which is the mean over all masked tokens of the batch, so that
    a clip with more masked tokens has more weight.
    """
    wide = jnp.promote_types(jnp.result_type(predicted, targets), jnp.float32)
    error = jnp.square(predicted.astype(wide) - targets.astype(wide)).sum(-1)
    return jnp.sum(error * mask.astype(wide))


def soft_cross_entropy(
    logits: Float[Array, "b classes"],
    targets: Float[Array, "b classes"],
    weight: Float[Array, b],
) -> Float[Array, ""]:
    """Cross-entropy with soft labels, summed over the batch with weights."""
    losses = -jnp.sum(targets * jax.nn.log_softmax(logits.astype(jnp.float32)), -1)
    return jnp.sum(losses * weight)


def hits(logits: Float[Array, "b classes"], labels: Int[Array, b], k: int) -> Bool[Array, b]:
    """Whether fewer than `k` classes score higher than the label's (top-k accuracy)."""
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    # ~(<=) instead of >: a NaN logit never counts as a hit.
    return jnp.sum(~(logits <= own), axis=-1) < k
