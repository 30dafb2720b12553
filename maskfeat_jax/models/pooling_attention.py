"""Transformer block whose attention pools its queries, keys and values (MViTv2).

Source: MViTv2 (arXiv:2112.01526) section 4; PySlowFast slowfast/models/attention.py.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from maskfeat_jax.models.layers import NORMAL, Dense, LayerNorm, Mlp, Qkv, drop_path
from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.ops.pooling import depthwise_conv, max_pool
from maskfeat_jax.ops.relative_position import relative_attention
from maskfeat_jax.ops.residuals import keep
from maskfeat_jax.typing import Array


class PoolingBlock(nn.Module):
    """Pre-norm block that may reduce the token grid and increase the width.

    The class token comes first and is not pooled. If the width grows, the residual is a linear map
    of the normalised tokens.

    Attributes:
      width: of the output tokens.
      heads: attention heads.
      grid: input tokens along time, height and width.
      q_stride: stride along height and width of the queries, and so of the output tokens.
      kv_stride: stride along height and width of the keys and values.
      rows: rows of the tables of relative positions in time, height and width at initialisation;
        tables of another length, from another clip size, are interpolated.
      pool_frames: frames of the kernels that pool: 3, or 1 for images.
      widen_in: "mlp" or "attention", the layer that changes the width.
      mlp_ratio: hidden width of the MLP relative to its input.
      stochastic: drop branches at random (training with drop path).
      kernel: attention kernel, see `ops.attention`.
      dtype: of the computation.
    """

    width: int
    heads: int
    grid: Size3
    q_stride: int
    kv_stride: int
    rows: Size3
    pool_frames: int = 3
    widen_in: str = "mlp"
    mlp_ratio: float = 4.0
    stochastic: bool = False
    kernel: str = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], rate: Float[Array, ""] | float
    ) -> tuple[Float[Array, "b n2 {self.width}"], None]:
        """Returns the new tokens, and None (`nn.scan` requires a pair)."""
        widens = x.shape[-1] != self.width
        inner = x.shape[-1] if self.widen_in == "mlp" else self.width
        attend = PoolingAttention(
            inner,
            self.heads,
            self.grid,
            self.q_stride,
            self.kv_stride,
            self.rows,
            self.pool_frames,
            self.kernel,
            self.dtype,
            name="attn",
        )
        mlp = Mlp(int(inner * self.mlp_ratio), self.width, self.dtype, name="mlp")
        y = LayerNorm(name="norm1")(x)
        if widens and self.widen_in == "attention":
            x = Dense(self.width, self.dtype, name="proj")(y)
        x = keep(self._shrink(x) + self._drop(attend(y), rate))
        y = LayerNorm(name="norm2")(x)
        if widens and self.widen_in == "mlp":
            x = Dense(self.width, self.dtype, name="proj")(y)
        return x + self._drop(mlp(y), rate), None

    def _shrink(self, x: Array) -> Array:
        if self.q_stride == 1:
            return x
        stride = (1, self.q_stride, self.q_stride)
        return on_grid(lambda tokens: max_pool(tokens, stride), x, self.grid)

    def _drop(self, branch: Array, rate: Array | float) -> Array:
        return drop_path(branch, rate, self.make_rng("dropout")) if self.stochastic else branch


class PoolingAttention(nn.Module):
    """Self-attention between pooled queries and pooled keys, with relative positions.

    The pooled queries are added to the output, except for the class token.

    Attributes:
      width: of the queries and of the output.
      heads, grid, q_stride, kv_stride, rows, pool_frames, kernel, dtype: see `PoolingBlock`.
    """

    width: int
    heads: int
    grid: Size3
    q_stride: int
    kv_stride: int
    rows: Size3
    pool_frames: int = 3
    kernel: str = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n2 {self.width}"]:
        """Attends over the tokens."""
        strides = {"q": self.q_stride, "k": self.kv_stride, "v": self.kv_stride}
        qkv = Qkv(self.width, self.heads, self.dtype, name="qkv")(x)
        q, k, v = (
            self._pool(x, name, stride)
            for x, (name, stride) in zip(qkv, strides.items(), strict=True)
        )
        mixed = relative_attention(
            q,
            k,
            v,
            (self._table("t", 0), self._table("h", 1), self._table("w", 2)),
            pooled_grid(self.grid, self.q_stride),
            pooled_grid(self.grid, self.kv_stride),
            kernel=self.kernel,
        )
        mixed = jnp.concatenate([mixed[:, :1], mixed[:, 1:] + q[:, 1:]], 1)
        mixed = mixed.reshape(*mixed.shape[:2], self.width)
        return Dense(self.width, self.dtype, heads=self.heads, name="proj")(mixed)

    def _pool(self, x: Array, name: str, stride: int) -> Array:
        """Pools the grid, then applies a layer norm to each head of every token."""
        strides = (1, stride, stride)
        pool = DepthwiseConv(
            self.width // self.heads, strides, self.pool_frames, name=f"pool_{name}"
        )
        x = keep(on_grid(pool, x.reshape(*x.shape[:2], self.width), self.grid))
        return LayerNorm(name=f"norm_{name}")(x.reshape(*x.shape[:2], self.heads, -1))

    def _table(self, axis: str, index: int) -> Array:
        name = f"rel_pos_{axis}"
        if self.has_variable("params", name):  # its length may be that of another clip size
            return self.get_variable("params", name)
        return self.param(name, NORMAL, (self.rows[index], self.width // self.heads))


class DepthwiseConv(nn.Module):
    """See `ops.pooling.depthwise_conv`; the kernel has the shape of a grouped `nn.Conv`."""

    features: int
    stride: Size3
    frames: int = 3

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t2 h2 w2 c"]:
        """Applies the convolution; a kernel of one frame is the middle of one of three."""
        kernel = self.param("kernel", NORMAL, (self.frames, 3, 3, 1, self.features))[:, :, :, 0]
        if self.frames == 1:
            kernel = jnp.pad(kernel, [(1, 1), (0, 0), (0, 0), (0, 0)])
        return depthwise_conv(x, kernel, self.stride)


def pooled_grid(grid: Size3, stride: int) -> Size3:
    """Tokens along time, height and width after pooling height and width with a stride."""
    frames, height, width = grid
    return frames, -(-height // stride), -(-width // stride)


def on_grid(pool: Any, x: Float[Array, "b n d"], grid: Size3) -> Float[Array, "b n2 d"]:
    """Applies a function of `b t h w d` to all tokens but the first, the class token."""
    b, _, d = x.shape
    if x.shape[1] != 1 + math.prod(grid):
        raise ValueError(f"{x.shape[1]} tokens are not a class token and a grid of {grid}")
    pooled = pool(x[:, 1:].reshape(b, *grid, d)).reshape(b, -1, d)
    return jnp.concatenate([x[:, :1], pooled], 1)
