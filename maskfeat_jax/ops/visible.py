"""The visible tokens of a grid: taking them out, putting them back.

The gradient of either is the other, so neither adds numbers up in place: that is slow on a CPU,
and on a GPU the order of the sum, hence the result, changes from run to run.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from maskfeat_jax.typing import Array


class Visible(NamedTuple):
    """Which tokens are visible, the same number in each clip.

    Attributes:
      places: of the visible tokens on the flattened grid, in order.
      rank: for each token of the grid how many visible ones there are up to it, less one.
      shown: for each token of the grid whether it is visible.
    """

    places: Int[Array, "b k"]
    rank: Int[Array, "b n"]
    shown: Bool[Array, "b n"]


def visible_tokens(mask: Bool[Array, "b t h w"], count: int) -> Visible:
    """The visible tokens of a mask.

    Args:
      mask: True = masked; leaves exactly `count` tokens of each clip visible.
      count: visible tokens.
    """
    shown = ~mask.reshape(len(mask), -1)
    places = jnp.argsort(~shown, axis=1, stable=True)[:, :count]
    return Visible(places, jnp.cumsum(shown, axis=1) - 1, shown)


@jax.custom_vjp
def take_visible(tokens: Float[Array, "b n d"], visible: Visible) -> Float[Array, "b k d"]:
    """The visible tokens."""
    return jnp.take_along_axis(tokens, visible.places[..., None], axis=1, mode="clip")


@jax.custom_vjp
def put_visible(tokens: Float[Array, "b k d"], visible: Visible) -> Float[Array, "b n d"]:
    """The visible tokens in their places on the grid, and 0 elsewhere."""
    spread = jnp.take_along_axis(tokens, visible.rank[..., None], axis=1, mode="clip")
    return jnp.where(visible.shown[..., None], spread, 0)


take_visible.defvjp(
    lambda tokens, visible: (take_visible(tokens, visible), visible),
    lambda visible, cotangent: (put_visible(cotangent, visible), None),
)
put_visible.defvjp(
    lambda tokens, visible: (put_visible(tokens, visible), visible),
    lambda visible, cotangent: (take_visible(cotangent, visible), None),
)
