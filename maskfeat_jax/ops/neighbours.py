"""k nearest neighbours by cosine similarity, and their vote."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from maskfeat_jax.typing import Array


def unit(features: Float[Array, "*lead d"]) -> Float[Array, "*lead d"]:
    """Features normalised to length 1; zero, where the gradient is finite, stays zero."""
    squares = jnp.sum(jnp.square(features), -1, keepdims=True)
    return features / jnp.sqrt(jnp.maximum(squares, 1e-12))


def nearest(
    queries: Float[Array, "b d"],
    bank: Float[Array, "shards m d"],
    labels: Int[Array, "shards m"],
    k: int,
) -> tuple[Float[Array, "b k"], Int[Array, "b k"]]:
    """The most similar examples of a bank.

    Each device searches its shard of the bank; then the best of all shards are compared.

    Args:
      queries: of length 1.
      bank: likewise.
      labels: class of each example; padding has -1 and is never found.
      k: number of neighbours, at most the number of examples.

    Returns:
      Cosines in descending order, and labels.
    """
    similarity = jnp.einsum("bd,smd->sbm", queries, bank, preferred_element_type=jnp.float32)
    similarity = jnp.where(labels[:, None] >= 0, similarity, -jnp.inf)
    best, found = _best(similarity, labels, min(k, bank.shape[1]))
    best, found = (jnp.moveaxis(x, 2, 0).reshape(len(queries), -1) for x in (best, found))
    best, indices = lax.top_k(best, k)
    return best, jnp.take_along_axis(found, indices, axis=1)


def _best(
    similarity: Float[Array, "shards b m"], labels: Int[Array, "shards m"], k: int
) -> tuple[Float[Array, "k shards b"], Int[Array, "k shards b"]]:
    """The k largest values along the last axis, in descending order, and their labels.

    Repeated maxima, since `lax.top_k` would gather all shards on every device first.
    """
    index = jnp.arange(similarity.shape[2])

    def take(similarity: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        chosen = index == similarity.argmax(-1)[..., None]
        label = jnp.sum(jnp.where(chosen, labels[:, None], 0), -1)
        return jnp.where(chosen, -jnp.inf, similarity), (similarity.max(-1), label)

    return lax.scan(take, similarity, None, length=k)[1]


def vote(
    similarity: Float[Array, "b k"], labels: Int[Array, "b k"], classes: int, temperature: float
) -> Float[Array, "b {classes}"]:
    """Share of the votes of each class; the weight of a neighbour is exp(cosine / temperature).

    Source: DINO (arXiv:2104.14294), after Wu et al. (arXiv:1805.01978).
    """
    weight = jax.nn.softmax(similarity / temperature)
    return jnp.sum(weight[..., None] * jax.nn.one_hot(labels, classes), 1)
