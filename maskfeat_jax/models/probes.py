"""Features of a frozen encoder, and probes: small classifiers on them."""

from __future__ import annotations

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float

from maskfeat_jax.models.classifier import check_classes, check_pool, pooled
from maskfeat_jax.models.layers import NORMAL, Dense, LayerNorm, Mlp
from maskfeat_jax.ops.attention import attention
from maskfeat_jax.typing import Array

ENCODER = ("^encoder/", "^norm/")
RUNNING = "running"  # Flax collection for updated running statistics


class Features(nn.Module):
    """The class token of a frozen encoder, or the mean of the grid's tokens, after the layer norm.

    Attributes:
      encoder: outputs the class token, if it has one, and the tokens of the grid.
      pool: "class" or "mean".
    """

    encoder: nn.Module
    pool: str = "class"

    frozen: ClassVar[tuple[str, ...]] = ENCODER

    def __post_init__(self) -> None:
        check_pool(self.pool, self.encoder)
        super().__post_init__()

    @nn.compact
    def __call__(self, clips: Float[Array, "b t h w 3"]) -> Float[Array, "b d"]:
        """Features, at least in float32."""
        return pooled(frozen_tokens(self.encoder, clips), self.pool, self.encoder)


class LinearProbe(nn.Module):
    """Linear probe: batch norm and linear map of the features of a frozen encoder.

    Attributes:
      encoder: outputs the class token, if it has one, and the tokens of the grid.
      num_classes: number of classes.
      pool: "class" or "mean", see `Features`.

    Source: MAE (arXiv:2111.06377) appendix A.1, main_linprobe.py of facebookresearch/mae.
    """

    encoder: nn.Module
    num_classes: int
    pool: str = "class"

    frozen: ClassVar[tuple[str, ...]] = (*ENCODER, "^batch_norm/")

    def __post_init__(self) -> None:
        check_classes(self.num_classes)
        check_pool(self.pool, self.encoder)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        clips: Float[Array, "b t h w 3"],
        valid: Bool[Array, " b"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "b {self.num_classes}"]:
        """Logits in float32.

        Args:
          clips: normalised RGB.
          valid: clips that count in the statistics of the batch; None for all.
          train: use the statistics of the batch, and store updated running statistics in the
            collection `running`, with the paths of their parameters.
        """
        features = pooled(frozen_tokens(self.encoder, clips), self.pool, self.encoder)
        features = BatchNorm(name="batch_norm")(features, valid, train=train)
        init = nn.initializers.normal(0.01)
        return Dense(self.num_classes, features.dtype, init, name="projection")(features)


class AttentiveProbe(nn.Module):
    """Attentive probe: a learned query over the tokens of a frozen encoder, MLP, linear map.

    Attributes:
      encoder: outputs the class token, if it has one, and the tokens of the grid.
      num_classes: number of classes.
      heads: attention heads.

    After V-JEPA (arXiv:2404.08471), by its description; not compared with its code.
    """

    encoder: nn.Module
    num_classes: int
    heads: int = 12

    frozen: ClassVar[tuple[str, ...]] = ENCODER

    def __post_init__(self) -> None:
        check_classes(self.num_classes)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        clips: Float[Array, "b t h w 3"],
        valid: Bool[Array, " b"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "b {self.num_classes}"]:
        """Logits in float32; `valid` and `train` have no effect."""
        tokens = frozen_tokens(self.encoder, clips)[:, self.encoder.class_tokens :]
        b, _, d = tokens.shape
        if d % self.heads:
            raise ValueError(f"head.heads={self.heads} does not divide tokens of width {d}")
        normed = LayerNorm(name="probe_norm1")(tokens)
        query = self.param("query", NORMAL, (1, 1, d)).astype(tokens.dtype)
        key, value = jnp.split(Dense(2 * d, tokens.dtype, name="kv")(normed), 2, axis=-1)
        projected = jnp.broadcast_to(Dense(d, tokens.dtype, name="q")(query), (b, 1, d))
        q, k, v = (x.reshape(b, -1, self.heads, d // self.heads) for x in (projected, key, value))
        mixed = Dense(d, tokens.dtype, name="proj")(attention(q, k, v).reshape(b, 1, d))
        feature = query + mixed
        feature += Mlp(4 * d, d, tokens.dtype, name="mlp")(LayerNorm(name="probe_norm2")(feature))
        return Dense(self.num_classes, tokens.dtype, name="projection")(feature[:, 0])


class BatchNorm(nn.Module):
    """Batch norm without scale and bias, epsilon 1e-6, momentum 0.1 in PyTorch's convention.

    The running statistics are parameters without gradient. Statistics are those of the global
    batch, over all devices.
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "b d"], valid: Bool[Array, " b"] | None, *, train: bool
    ) -> Float[Array, "b d"]:
        """Applies the norm."""
        mean = self.param("mean", nn.initializers.zeros, x.shape[-1:])
        variance = self.param("var", nn.initializers.ones, x.shape[-1:])
        if train:
            weight = jnp.ones((len(x), 1)) if valid is None else valid[:, None].astype(x.dtype)
            count = jnp.maximum(weight.sum(), 1)
            batch_mean = jnp.sum(x * weight, 0) / count
            batch_variance = jnp.sum(jnp.square(x - batch_mean) * weight, 0) / count
            unbiased = batch_variance * count / jnp.maximum(count - 1, 1)
            self.put_variable(RUNNING, "mean", 0.9 * mean + 0.1 * batch_mean)
            self.put_variable(RUNNING, "var", 0.9 * variance + 0.1 * unbiased)
            mean, variance = batch_mean, batch_variance
        return (x - mean) * lax.rsqrt(variance + 1e-6)


def frozen_tokens(
    encoder: nn.Module, clips: Float[Array, "b t h w 3"]
) -> Float[Array, "b tokens d"]:
    """Tokens after a layer norm, at least in float32, without gradient to the encoder.

    Called in a compact method, it creates the submodule `norm`.
    """
    tokens = encoder(clips)
    wide = tokens.astype(jnp.promote_types(tokens.dtype, jnp.float32))
    return lax.stop_gradient(LayerNorm(encoder.epsilon, name="norm")(wide))
