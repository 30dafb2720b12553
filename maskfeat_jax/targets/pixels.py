"""Pixel target of masked autoencoders."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import einops
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from maskfeat_jax import pictures
from maskfeat_jax.ops.patches import Size3, token_grid
from maskfeat_jax.ops.rows import on_own_rows
from maskfeat_jax.targets.base import Inputs, Target
from maskfeat_jax.typing import Array


@dataclasses.dataclass(frozen=True)
class Pixels(Target):
    """Pixels of a token, in one of its frames or all.

    Attributes:
      tubelet: frames, rows and columns of one token, pixels.
      normalise: scale the values of each token to zero mean and unit (unbiased) variance.
      channels: "first" orders the values channel, row, column (PySlowFast, images), "last" row,
        column, channel (PySlowFast, video; MAE).
      frames: which frames of a token are predicted: "first" (PySlowFast); "spread", frames evenly
        spaced from the first to the last of the clip, which are the first ones of all tokens but
        the last (mae_st); "all", one after the other (PySlowFast without `TIME_STRIDE_LOSS`).
      statistics: mean and variance of `normalise` are those of all values of a "token", or of each
        "channel" of it (VideoMAE, with `channels="last"` and `frames="all"`).

    VideoMAE first maps colours back to [0, 1]. Normalisation per channel cancels that, except for
    the 1e-6 added to a standard deviation, which here is that of normalised colours.

    Source: MaskFeat (arXiv:2112.09133) section 3.2, MAE for video (arXiv:2205.09113) section 3,
    VideoMAE (arXiv:2203.12602); PySlowFast slowfast/models/masked.py, mae_st models_mae.py,
    engine_for_pretraining.py of MCG-NJU/VideoMAE.
    """

    tubelet: Size3
    normalise: bool = True
    channels: str = "first"
    frames: str = "first"
    statistics: str = "token"

    def __post_init__(self) -> None:
        if self.channels not in ("first", "last"):
            raise ValueError(f"channels={self.channels!r} is not 'first' or 'last'")
        if self.frames not in ("first", "spread", "all"):
            raise ValueError(f"frames={self.frames!r} is not 'first', 'spread' or 'all'")
        if self.statistics not in ("token", "channel"):
            raise ValueError(f"statistics={self.statistics!r} is not 'token' or 'channel'")

    @property
    def dim(self) -> int:
        """Values per token."""
        frames, height, width = self.tubelet
        return (frames if self.frames == "all" else 1) * height * width * 3

    def __call__(self, inputs: Inputs) -> Float[Array, "b gt gh gw d"]:
        """Pixels by token."""
        return on_own_rows(self._by_token, inputs.clips)

    def restore(
        self, features: Float[Array, "b gt gh gw d"], inputs: Inputs, *, predicted: bool
    ) -> Float[Array, "b gt gh gw d"]:
        """Pixels; undoes `normalise` with the mean and variance of the true pixels.

        A picture of a prediction thus has the true brightness and contrast of each patch, which
        were not predicted.
        """
        if not self.normalise:
            return features
        mean, std = self._scale(self._tokens(inputs.clips))
        return features * std + mean

    def draw(
        self, features: Float[np.ndarray, "gh gw d"], mean: Sequence[float], std: Sequence[float]
    ) -> UInt8[np.ndarray, "height width 3"]:
        """The pixels of the first frame."""
        _, p, q = self.tubelet
        first = features[..., : 3 * p * q]
        order = self._order.removeprefix("u ")
        image = einops.rearrange(first, f"h w ({order}) -> (h p) (w q) c", p=p, q=q)
        return pictures.to_uint8(image, mean, std)

    @property
    def _order(self) -> str:
        return "u c p q" if self.channels == "first" else "u p q c"

    def _by_token(self, clips: Float[Array, "b t h w 3"]) -> Float[Array, "b gt gh gw d"]:
        tokens = self._tokens(clips)
        if not self.normalise:
            return tokens
        mean, std = self._scale(tokens)
        return (tokens - mean) / std

    def _tokens(self, clips: Float[Array, "b t h w 3"]) -> Float[Array, "b gt gh gw d"]:
        grid = token_grid(clips.shape[1:4], self.tubelet)
        u, p, q = self.tubelet
        if self.frames == "first":
            clips = clips[:, ::u]
        elif self.frames == "spread":
            clips = clips[:, np.linspace(0, clips.shape[1] - 1, grid[0]).astype(int)]
        pattern = f"b (t u) (h p) (w q) c -> b t h w ({self._order})"
        wide = clips.astype(jnp.promote_types(clips.dtype, jnp.float32))
        return einops.rearrange(wide, pattern, t=grid[0], p=p, q=q)

    def _scale(
        self, tokens: Float[Array, "b gt gh gw d"]
    ) -> tuple[Float[Array, "b gt gh gw #d"], Float[Array, "b gt gh gw #d"]]:
        """Mean and (unbiased) standard deviation for the values of each token."""
        if self.statistics == "token":
            variance = tokens.var(-1, keepdims=True, ddof=1)
            return tokens.mean(-1, keepdims=True), jnp.sqrt(variance + 1e-6)
        mixed, apart = f"b t h w ({self._order})", "b t h w c (u p q)"
        _, p, q = self.tubelet
        channels = einops.rearrange(tokens, f"{mixed} -> {apart}", c=3, p=p, q=q)
        # Relative to the first pixel: otherwise a flat patch is rounding errors divided by 1e-6.
        first = channels[..., :1]
        mean = first + (channels - first).mean(-1, keepdims=True)
        std = (channels - first).std(-1, keepdims=True, ddof=1) + 1e-6
        mean, std = (jnp.broadcast_to(x, channels.shape) for x in (mean, std))
        back = f"{apart} -> {mixed}"
        return einops.rearrange(mean, back, p=p, q=q), einops.rearrange(std, back, p=p, q=q)
