"""Vision Transformer for clips; an image is a clip of one frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Bool, Float

from maskfeat_jax.arrays import Array
from maskfeat_jax.models.layers import NORMAL, Block, Blocks, check_fields, uniform
from maskfeat_jax.ops.linear import affine
from maskfeat_jax.ops.patches import Size3, patchify, token_grid


class ViT(nn.Module):
    """ViT without the final norm, which belongs to the heads.

    Pre-norm blocks, a class token, learned positions for the class token and every token of the
    grid, exact GELU, layer norm epsilon 1e-6.

    Attributes:
      width: of the tokens.
      depth: number of blocks.
      heads: attention heads.
      tubelet: frames, rows and columns of one token, pixels.
      mlp_ratio: width of the MLP relative to the tokens.
      drop_path: rate of the last block; the first has 0.
      scan: trace one block instead of all, parameters stacked.
      remat: recompute activations in the backward pass.
      attention: kernel, "xla" or "cudnn".
      dtype: of the computation, "float32" or "bfloat16"; parameters, norms and softmax are float32.

    Source: ViT (arXiv:2010.11929) as in PySlowFast's MaskFeat configs.
    """

    width: int
    depth: int
    heads: int
    tubelet: Size3 = (1, 16, 16)
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    scan: bool = False
    remat: bool = False
    attention: str = "xla"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a whole number of {self.heads} heads")
        check_fields(self.drop_path, self.attention)
        super().__post_init__()

    def grid(self, clip: Sequence[int]) -> Size3:
        """Tokens along time, height and width of a clip of `(frames, height, width)`.

        Raises:
          ValueError: the clip is not a whole number of tubelets.
        """
        return token_grid(clip, self.tubelet)

    @nn.compact
    def __call__(
        self,
        clips: Float[Array, "b t h w 3"],
        mask: Bool[Array, "b gt gh gw"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "b tokens d"]:
        """Encodes clips.

        Args:
          clips: normalised RGB.
          mask: tokens to replace by the mask token before positions are added; None for none.
          train: whether drop path is active; needs the rng `drop_path`.

        Returns:
          Tokens after the last block: the class token, then the grid, time slowest.

        Raises:
          ValueError: the clip is not a whole number of tubelets.
        """
        dtype = jnp.dtype(self.dtype)
        tokens = PatchEmbed(self.width, self.tubelet, dtype, name="patch_embed")(clips)
        if mask is not None:
            mask_token = self.param("mask_token", NORMAL, (1, 1, self.width))
            tokens = jnp.where(mask[..., None], mask_token[:, :, None, None].astype(dtype), tokens)
        b, n = tokens.shape[0], math.prod(tokens.shape[1:4])
        cls_token = self.param("cls_token", NORMAL, (1, 1, self.width)).astype(dtype)
        pos_embed = self.param("pos_embed", NORMAL, (1, 1 + n, self.width)).astype(dtype)
        tokens = tokens.reshape(b, n, self.width)
        tokens = jnp.concatenate([jnp.broadcast_to(cls_token, (b, 1, self.width)), tokens], 1)
        block = {
            "heads": self.heads,
            "mlp_ratio": self.mlp_ratio,
            "kernel": self.attention,
            "dtype": dtype,
        }
        blocks = Blocks(
            Block, (block,) * self.depth, self.drop_path, self.scan, self.remat, name="blocks"
        )
        return blocks(tokens + pos_embed, train=train)


class PatchEmbed(nn.Module):
    """One linear map of each tubelet (a convolution whose stride is its kernel)."""

    width: int
    tubelet: Size3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, clips: Float[Array, "b t h w c"]) -> Float[Array, "b gt gh gw d"]:
        """Embeds every tubelet."""
        shape = (*self.tubelet, clips.shape[-1], self.width)
        kernel = self.param("kernel", NORMAL, shape)
        bias = self.param("bias", uniform(math.prod(shape[:-1])), (self.width,))
        patches = patchify(clips.astype(self.dtype), self.tubelet)
        return affine(patches, kernel.reshape(-1, self.width), bias)
