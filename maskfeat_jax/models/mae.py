"""Masked autoencoder: encodes the visible tokens, decodes features of all tokens."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Bool, Float

from maskfeat_jax.models.layers import (
    INITS,
    NORMAL,
    Dense,
    LayerNorm,
    check_choice,
    check_epsilon,
    check_sizes,
)
from maskfeat_jax.models.positions import check_positions, fixed_positions, positions
from maskfeat_jax.models.vit import ViT, blocks_like
from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.ops.visible import Visible, put_visible, visible_tokens
from maskfeat_jax.typing import Array

CLASS_TOKENS = ("encoder", "own", "none")


class MAE(nn.Module):
    """Encoder of the visible tokens, layer norm, and a small transformer on the whole grid.

    Masked tokens cost the encoder nothing: not even their patches are embedded.

    The originals differ in the decoder. PySlowFast, whose weights are the published ones: 8 heads,
    joint positions, class token of the encoder. mae_st: 16 heads, separate positions, a class token
    of its own. MAE for images: depth 8, 16 heads, sincos positions, class token of the encoder.
    VideoMAE: 6 heads of 64 channels for ViT-B, sinusoid positions, no class token in encoder and
    decoder; it has no bias in the first map of the decoder and for keys, which here must be zero.

    Parameters are initialised as for MaskFeat, or with `kernel_init="xavier"` as in MAE for images;
    PySlowFast initialises the encoder's biases to 0.02 and the decoder's first map as PyTorch does.

    Attributes:
      encoder: a ViT; others need the whole grid.
      dim: values per token of the target.
      visible: number of visible tokens of each clip.
      width: of the decoder.
      depth: number of decoder blocks.
      heads: attention heads of the decoder.
      positions: "joint", "separate", "sincos" or "sinusoid", see `models.positions`.
      class_token: of the decoder: the encoder's output ("encoder"), a learned one ("own"), or
        "none".
      last_epsilon: of the layer norm after the decoder; None for the encoder's epsilon.

    Source: MAE (arXiv:2111.06377), MAE for video (arXiv:2205.09113), VideoMAE (arXiv:2203.12602).
    """

    encoder: ViT
    dim: int
    visible: int
    width: int = 512
    depth: int = 4
    heads: int = 8
    positions: str = "joint"
    class_token: str = "encoder"
    last_epsilon: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.encoder, ViT):
            raise ValueError(
                f"{type(self.encoder).__name__} cannot skip masked tokens; a masked autoencoder "
                "needs a ViT (model.encoder)"
            )
        check_sizes(self.width, self.depth, self.heads)
        check_choice("class_token", self.class_token, CLASS_TOKENS)
        if self.class_token == "encoder" and not self.encoder.class_tokens:
            raise ValueError(
                "class_token='encoder' needs an encoder with a class token; this one has none "
                "(use 'own' or 'none')"
            )
        check_positions(self.positions, self.width)
        check_epsilon(self.last_epsilon)
        super().__post_init__()

    @property
    def frozen(self) -> tuple[str, ...]:
        """Regular expressions for the paths of parameters that are not trained."""
        own = (f"^decoder/{name}" for name in fixed_positions(self.positions))
        return (*self.encoder.frozen, *own)

    @nn.compact
    def __call__(
        self,
        clips: Float[Array, "b t h w 3"],
        mask: Bool[Array, "b gt gh gw"],
        *,
        train: bool = False,
    ) -> Float[Array, "b gt gh gw {self.dim}"]:
        """Predicts the features of every token, masked or not, in float32.

        The mask must leave exactly `visible` tokens of each clip.
        """
        visible = visible_tokens(mask, self.visible)
        tokens = self.encoder(clips, visible=visible, train=train)
        tokens = LayerNorm(self.encoder.epsilon, name="norm")(tokens)
        decoder = Decoder(
            self.encoder,
            self.dim,
            self.width,
            self.depth,
            self.heads,
            self.positions,
            self.class_token,
            self.last_epsilon or self.encoder.epsilon,
            name="decoder",
        )
        predicted = decoder(tokens, visible, self.encoder.grid(clips.shape[1:4]))
        wide = jnp.promote_types(predicted.dtype, jnp.float32)
        return predicted.reshape(*mask.shape, self.dim).astype(wide)


class Decoder(nn.Module):
    """Mask tokens at masked positions, positional embeddings, blocks, layer norm, linear map.

    Attributes:
      like: the encoder whose settings (dtype, kernels, scan, remat) it shares.
      dim, width, depth, heads, positions, class_token: see `MAE`.
      last_epsilon: of the last layer norm.
    """

    like: ViT
    dim: int
    width: int
    depth: int
    heads: int
    positions: str
    class_token: str
    last_epsilon: float

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b k d"], visible: Visible, grid: Size3
    ) -> Float[Array, "b n {self.dim}"]:
        """Features of every token of the grid, from the encoder's tokens after the layer norm."""
        dtype, init = jnp.dtype(self.like.dtype), INITS[self.like.kernel_init]
        mask_token = self.param("mask_token", NORMAL, (1, 1, self.width)).astype(dtype)
        encoded, first = self.like.class_tokens, int(self.class_token != "none")
        embedding = positions(self.param, self.positions, grid, self.width, first).astype(dtype)
        tokens = Dense(self.width, dtype, init, name="embed")(tokens)
        cls_token, tokens = tokens[:, :encoded], tokens[:, encoded:]
        if self.class_token == "own":
            cls_token = self.param("cls_token", NORMAL, (1, 1, self.width)).astype(dtype)
            cls_token = jnp.broadcast_to(cls_token, (len(tokens), 1, self.width))
        mask_tokens = jnp.where(visible.is_visible[..., None], 0, mask_token)
        tokens = put_visible(tokens, visible) + mask_tokens
        tokens = jnp.concatenate([cls_token[:, :first], tokens], 1) + embedding
        tokens = blocks_like(self.like, self.depth, self.heads)(tokens, train=False)[:, first:]
        tokens = LayerNorm(self.last_epsilon, name="norm")(tokens)
        return Dense(self.dim, dtype, init, name="projection")(tokens)
