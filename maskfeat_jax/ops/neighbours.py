"""Nearest neighbours by cosine, and their vote."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from maskfeat_jax.typing import Array


def unit(features: Float[Array, "*lead d"]) -> Float[Array, "*lead d"]:
    """Features of length 1."""
    length = jnp.linalg.norm(features, axis=-1, keepdims=True)
    return features / jnp.maximum(length, 1e-12)


def nearest(
    queries: Float[Array, "b d"],
    bank: Float[Array, "parts m d"],
    labels: Int[Array, "parts m"],
    k: int,
) -> tuple[Float[Array, "b k"], Int[Array, "b k"]]:
    """The most similar examples of a bank.

    The bank is in parts, so that each device looks through its own; only the best of each part are
    compared with each other.

    Args:
      queries: of length 1.
      bank: likewise.
      labels: class of each example; -1 fills a part up and is never found.
      k: how many to find, not more than there are.

    Returns:
      Cosines, falling, and labels.
    """
    likeness = jnp.einsum("bd,pmd->pbm", queries, bank, preferred_element_type=jnp.float32)
    likeness = jnp.where(labels[:, None] >= 0, likeness, -jnp.inf)
    best, found = _best(likeness, labels, min(k, bank.shape[1]))
    best, found = (jnp.moveaxis(x, 2, 0).reshape(len(queries), -1) for x in (best, found))
    best, places = lax.top_k(best, k)
    return best, jnp.take_along_axis(found, places, axis=1)


def _best(
    likeness: Float[Array, "parts b m"], labels: Int[Array, "parts m"], k: int
) -> tuple[Float[Array, "k parts b"], Int[Array, "k parts b"]]:
    """The largest along the last axis, one after the other, and their labels.

    `lax.top_k` would bring all parts to every device first; maxima stay where the parts are.
    """
    place = jnp.arange(likeness.shape[2])

    def take(likeness: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        chosen = place == likeness.argmax(-1)[..., None]
        label = jnp.sum(jnp.where(chosen, labels[:, None], 0), -1)
        return jnp.where(chosen, -jnp.inf, likeness), (likeness.max(-1), label)

    return lax.scan(take, likeness, None, length=k)[1]


def vote(
    likeness: Float[Array, "b k"], labels: Int[Array, "b k"], classes: int, temperature: float
) -> Float[Array, "b {classes}"]:
    """What part of the votes each class gets; a neighbour votes with exp(cosine / temperature).

    Source: DINO (arXiv:2104.14294), after Wu et al. (arXiv:1805.01978).
    """
    weight = jax.nn.softmax(likeness / temperature)
    return jnp.sum(weight[..., None] * jax.nn.one_hot(labels, classes), 1)
