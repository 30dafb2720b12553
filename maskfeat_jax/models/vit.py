"""Vision Transformer for clips; an image is a clip of one frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Key

from maskfeat_jax.models.layers import (
    ACTIVATIONS,
    INITS,
    NORMAL,
    Block,
    Blocks,
    Initialiser,
    LayerNorm,
    check_choice,
    check_epsilon,
    check_fields,
    check_sizes,
    is_scanned,
    uniform,
)
from maskfeat_jax.models.positions import (
    TABLE,
    check_positions,
    fixed_positions,
    grid_of_table,
    positions,
)
from maskfeat_jax.ops.linear import affine
from maskfeat_jax.ops.patches import Size3, patchify, token_grid
from maskfeat_jax.ops.visible import Visible, take_visible
from maskfeat_jax.typing import Array


class ViT(nn.Module):
    """ViT without the final norm, which is part of the heads.

    Pre-norm blocks, a class token by default, absolute positions for it and every token of the
    grid.

    Attributes:
      width: of the tokens.
      depth: number of blocks.
      heads: attention heads.
      tubelet: frames, rows and columns of one token, pixels.
      mlp_ratio: width of the MLP relative to the tokens.
      drop_path: rate of the last block; the first has 0.
      positions: "joint", "separate", "sincos" or "sinusoid", see `models.positions`.
      kernel_init: of the linear maps, "normal" or "xavier", see `models.layers`.
      scan: trace and compile one block instead of all, with stacked parameters; None: see
        `layers.is_scanned`.
      remat: store only the inputs of blocks for the backward pass, see `models.layers`.
      attention: kernel, "auto" or a key of `ops.attention.TABLE`.
      dtype: of the computation, "float32" or "bfloat16"; parameters, norms and softmax are float32.
      class_token: whether to have one (VideoMAE has none).
      epsilon: of the layer norms, also of the head's; transformers has 1e-12 by default.
      activation: of the MLPs, "gelu" (exact) or "quick_gelu" (CLIP).
      norm_first: a layer norm before the first block (CLIP).

    Source: ViT (arXiv:2010.11929) as in PySlowFast's MaskFeat configs.
    """

    width: int
    depth: int
    heads: int
    tubelet: Size3 = (1, 16, 16)
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    positions: str = "joint"
    kernel_init: str = "normal"
    scan: bool | None = None
    remat: bool = False
    attention: str = "auto"
    dtype: str = "float32"
    class_token: bool = True
    epsilon: float = 1e-6
    activation: str = "gelu"
    norm_first: bool = False

    def __post_init__(self) -> None:
        check_sizes(self.width, self.depth, self.heads, self.mlp_ratio)
        check_fields(self.drop_path, self.attention, self.dtype)
        check_positions(self.positions, self.width)
        check_epsilon(self.epsilon)
        check_choice("kernel_init", self.kernel_init, INITS)
        check_choice("activation", self.activation, ACTIVATIONS)
        super().__post_init__()

    def grid(self, clip: Sequence[int]) -> Size3:
        """Tokens along time, height and width of a clip of `(frames, height, width)`.

        Raises:
          ValueError: the clip is not a whole number of tubelets.
        """
        return token_grid(clip, self.tubelet)

    def fitted(self, clips: Float[Array, "b t h w 3"]) -> Float[Array, "b t y x 3"]:
        """Clips of any height and width without the rest that fills no token."""
        (height, width), (_, y, x) = clips.shape[2:4], self.tubelet
        return clips[:, :, : height - height % y, : width - width % x]

    def shortened(self, depth: int) -> ViT:
        """The encoder up to its block `depth`, counted from 1; its parameters are the same."""
        return self.clone(depth=depth)

    @property
    def frozen(self) -> tuple[str, ...]:
        """Regular expressions for the paths of parameters that are not trained."""
        return tuple(f"^encoder/{name}" for name in fixed_positions(self.positions))

    @property
    def class_tokens(self) -> int:
        """Number of tokens before those of the grid."""
        return int(self.class_token)

    @nn.compact
    def __call__(
        self,
        clips: Float[Array, "b t h w 3"],
        mask: Bool[Array, "b gt gh gw"] | None = None,
        *,
        visible: Visible | None = None,
        any_frame: bool = False,
        train: bool = False,
    ) -> Float[Array, "b tokens d"]:
        """Encodes clips.

        Args:
          clips: normalised RGB.
          mask: tokens to replace by the mask token before positions are added; None for none.
          visible: tokens to compute (MAE); None for all.
          any_frame: interpolate the positions of square frames for frames of another size.
          train: whether drop path is active; needs the rng `dropout`.

        Returns:
          Tokens after the last block: the class token, if there is one, then those of the grid,
          time slowest.

        Raises:
          ValueError: the clip is not a whole number of tubelets.
        """
        dtype = jnp.dtype(self.dtype)
        grid, b = self.grid(clips.shape[1:4]), len(clips)
        init = INITS[self.kernel_init]
        embed = PatchEmbed(self.width, self.tubelet, init, dtype, name="patch_embed")
        tokens = embed(clips, visible)
        if mask is not None:
            mask_token = self.param("mask_token", NORMAL, (1, 1, self.width)).astype(dtype)
            tokens = jnp.where(mask.reshape(b, -1, 1), mask_token, tokens)
        first = self.class_tokens
        cls_token = self._class_token().astype(dtype)
        table = self._positions(grid, any_frame).astype(dtype)
        of_class, of_tokens = table[:, :first], table[:, first:]
        if visible is not None:
            of_tokens = take_visible(
                jnp.broadcast_to(of_tokens, (b, *of_tokens.shape[1:])), visible
            )
        cls_token = jnp.broadcast_to(cls_token + of_class, (b, first, self.width))
        tokens = jnp.concatenate([cls_token, tokens + of_tokens], 1)
        if self.norm_first:
            tokens = LayerNorm(self.epsilon, name="norm_pre")(tokens)
        blocks = blocks_like(self, self.depth, self.heads, self.drop_path)
        return blocks(tokens, train=train)

    def _positions(self, grid: Size3, any_frame: bool) -> Float[Array, "1 n {self.width}"]:
        """Positional embeddings of the class token and of a grid."""
        first = self.class_tokens
        name = "pos_embed_spatial" if self.positions == "separate" else TABLE
        stored: Array | None = self.get_variable("params", name) if any_frame else None
        own = grid if stored is None else grid_of_table(stored.shape[1], name, first, grid)
        table = positions(self.param, self.positions, own, self.width, first)
        if own == grid:
            return table
        between = jax.image.resize(
            table[:, first:].reshape(*own, -1), (*grid, self.width), "trilinear", antialias=False
        )
        return jnp.concatenate([table[:, :first], between.reshape(1, -1, self.width)], 1)

    def _class_token(self) -> Float[Array, "1 c {self.width}"]:
        if not self.class_token:
            return jnp.zeros((1, 0, self.width))
        return self.param("cls_token", NORMAL, (1, 1, self.width))


def blocks_like(encoder: ViT, depth: int, heads: int, drop_path: float = 0.0) -> Blocks:
    """A submodule `blocks` of the calling module, with the settings of an encoder."""
    block = {
        "heads": heads,
        "mlp_ratio": encoder.mlp_ratio,
        "kernel": encoder.attention,
        "dtype": jnp.dtype(encoder.dtype),
        "kernel_init": INITS[encoder.kernel_init],
        "epsilon": encoder.epsilon,
        "activation": encoder.activation,
    }
    scan = is_scanned(encoder.scan, encoder.depth)
    return Blocks(Block, (block,) * depth, drop_path, scan, encoder.remat, name="blocks")


class PatchEmbed(nn.Module):
    """Linear map of each tubelet (a convolution whose stride equals its kernel size)."""

    width: int
    tubelet: Size3
    kernel_init: Initialiser = NORMAL
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, clips: Float[Array, "b t h w c"], visible: Visible | None = None
    ) -> Float[Array, "b tokens d"]:
        """Embeds every tubelet, or the visible ones."""
        shape = (*self.tubelet, clips.shape[-1], self.width)
        inner = math.prod(shape[:-1])
        kernel = self.param("kernel", self._init, shape)
        bias = self.param("bias", uniform(inner), (self.width,))
        patches = patchify(clips.astype(self.dtype), self.tubelet)
        patches = patches.reshape(len(clips), -1, inner)
        if visible is not None:
            patches = take_visible(patches, visible)
        return affine(patches, kernel.reshape(inner, self.width), bias)

    def _init(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Array:
        """Initialises like a linear map from all values of a tubelet."""
        return self.kernel_init(key, (math.prod(shape[:-1]), shape[-1])).reshape(shape)
