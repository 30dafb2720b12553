"""Losses: sums over what counts, divided by how much counts.

Both are returned apart, so that parts of a batch (accumulation, devices) add up to exactly the
loss of the whole.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from maskfeat_jax.typing import Array


def masked_mse(
    predicted: Float[Array, "b t h w d"],
    wanted: Float[Array, "b t h w d"],
    mask: Bool[Array, "b t h w"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Squared error of the masked tokens, summed, and the number of numbers it is summed over.

    Source: PySlowFast `multi_mse`: the mean over all masked tokens of the batch, so a clip with
    more masked tokens weighs more.
    """
    wide = jnp.promote_types(jnp.result_type(predicted, wanted), jnp.float32)
    error = jnp.square(predicted.astype(wide) - wanted.astype(wide)).sum(-1)
    weight = mask.astype(wide)
    return jnp.sum(error * weight), jnp.sum(weight) * wanted.shape[-1]


def soft_cross_entropy(
    logits: Float[Array, "b classes"],
    wanted: Float[Array, "b classes"],
    weight: Float[Array, b],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross-entropy with soft labels, summed over the batch with weights, and their sum."""
    losses = -jnp.sum(wanted * jax.nn.log_softmax(logits.astype(jnp.float32)), -1)
    return jnp.sum(losses * weight), jnp.sum(weight)


def hits(logits: Float[Array, "b classes"], labels: Int[Array, b], k: int) -> Bool[Array, b]:
    """Whether fewer than `k` classes score higher than the right one."""
    right = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    # Written so that a logit that is not a number never counts as a hit.
    return jnp.sum(~(logits <= right), axis=-1) < k
