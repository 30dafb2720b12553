"""Splits clips into patches."""

from __future__ import annotations

from collections.abc import Sequence

import einops
from jaxtyping import Shaped

from maskfeat_jax.typing import Array

Size3 = tuple[int, int, int]


def token_grid(clip: Sequence[int], tubelet: Size3) -> Size3:
    """Tokens along time, height and width of a clip of `(frames, height, width)`.

    Raises:
      ValueError: the clip is not a whole number of tubelets.
    """
    if any(patch < 1 or size % patch for size, patch in zip(clip, tubelet, strict=True)):
        raise ValueError(f"clip {_times(clip)} is not a whole number of {_times(tubelet)} tubelets")
    frames, height, width = (size // patch for size, patch in zip(clip, tubelet, strict=True))
    return frames, height, width


def patchify(clips: Shaped[Array, "b t h w c"], tubelet: Size3) -> Shaped[Array, "b gt gh gw d"]:
    """Splits clips into tubelets of `(frames, height, width)` pixels.

    Returns:
      The values of each tubelet in the order frame, row, column, channel.

    Raises:
      ValueError: the clip is not a whole number of tubelets.
    """
    token_grid(clips.shape[1:4], tubelet)
    u, p, q = tubelet
    return einops.rearrange(clips, "b (t u) (h p) (w q) c -> b t h w (u p q c)", u=u, p=p, q=q)


def _times(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
