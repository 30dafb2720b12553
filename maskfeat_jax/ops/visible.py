"""Gathers the visible tokens of a grid and scatters them back.

Each is the VJP of the other, so both are gathers. The scatter-add that JAX derives is slow on a CPU
and not deterministic on a GPU.
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
      indices: of the visible tokens in the flattened grid, ascending.
      rank: for each token of the grid, the number of visible tokens up to it, minus one.
      is_visible: for each token of the grid, whether it is visible.
    """

    indices: Int[Array, "b k"]
    rank: Int[Array, "b n"]
    is_visible: Bool[Array, "b n"]


def visible_tokens(mask: Bool[Array, "b t h w"], count: int) -> Visible:
    """The visible tokens of a mask.

    Args:
      mask: True = masked; leaves exactly `count` tokens of each clip visible.
      count: number of visible tokens.
    """
    is_visible = ~mask.reshape(len(mask), -1)
    indices = jnp.argsort(~is_visible, axis=1, stable=True)[:, :count]
    return Visible(indices, jnp.cumsum(is_visible, axis=1) - 1, is_visible)


@jax.custom_vjp
def take_visible(tokens: Float[Array, "b n d"], visible: Visible) -> Float[Array, "b k d"]:
    """The visible tokens."""
    return jnp.take_along_axis(tokens, visible.indices[..., None], axis=1, mode="clip")


@jax.custom_vjp
def put_visible(tokens: Float[Array, "b k d"], visible: Visible) -> Float[Array, "b n d"]:
    """The visible tokens at their positions in the grid, 0 elsewhere."""
    spread = jnp.take_along_axis(tokens, visible.rank[..., None], axis=1, mode="clip")
    return jnp.where(visible.is_visible[..., None], spread, 0)


take_visible.defvjp(
    lambda tokens, visible: (take_visible(tokens, visible), visible),
    lambda visible, cotangent: (put_visible(cotangent, visible), None),
)
put_visible.defvjp(
    lambda tokens, visible: (put_visible(tokens, visible), visible),
    lambda visible, cotangent: (take_visible(cotangent, visible), None),
)
