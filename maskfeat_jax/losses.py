"""Losses, summed over what counts.

Whoever calls them divides by what the whole batch counts, so that parts of a batch (accumulation,
devices) add up to exactly the loss of the whole.
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

    Source: PySlowFast `multi_mse` is its mean over all masked tokens of the batch, so a clip with
    more masked tokens weighs more.
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
    """Whether fewer than `k` classes score higher than the right one."""
    right = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    # Written so that a logit that is not a number never counts as a hit.
    return jnp.sum(~(logits <= right), axis=-1) < k
