"""An encoder with a linear classifier."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from maskfeat_jax.models.layers import Dense, LayerNorm, check_choice, check_epsilon
from maskfeat_jax.typing import Array

POOLS = ("class", "mean")
NORM_OF = ("pooled", "tokens")


class Classifier(nn.Module):
    """Encoder, pooling and layer norm in either order, dropout, linear map.

    Attributes:
      encoder: outputs the class token, if it has one, and the tokens of the grid.
      num_classes: number of classes.
      dropout: rate of dropout before the linear map in training.
      pool: "mean" of the grid's tokens, without the class token, or the "class" token.
      norm_of: what the layer norm is applied to: the "pooled" tokens, or the "tokens" before the
        mean (timm with `global_pool="avg", fc_norm=False`).
      last_epsilon: of this layer norm; None for the encoder's epsilon.

    Source: MaskFeat (arXiv:2112.09133) section 4, MAE for video (arXiv:2205.09113), both with the
    mean; ViT (arXiv:2010.11929) and MViTv2 (arXiv:2112.01526) with the class token. The linear map
    is initialised a thousand times smaller than the others, as in PySlowFast's fine-tuning configs.
    """

    encoder: nn.Module
    num_classes: int
    dropout: float = 0.0
    pool: str = "mean"
    norm_of: str = "pooled"
    last_epsilon: float | None = None

    def __post_init__(self) -> None:
        check_classes(self.num_classes)
        check_pool(self.pool, self.encoder)
        check_choice("norm_of", self.norm_of, NORM_OF)
        check_epsilon(self.last_epsilon)
        check_dropout(self.dropout)
        super().__post_init__()

    @property
    def frozen(self) -> tuple[str, ...]:
        """Regular expressions for the paths of parameters that are not trained."""
        return self.encoder.frozen

    @nn.compact
    def __call__(
        self, clips: Float[Array, "b t h w 3"], *, train: bool = False
    ) -> Float[Array, "b {self.num_classes}"]:
        """Logits in float32; training with drop path or dropout needs the rng `dropout`."""
        norm = LayerNorm(self.last_epsilon or self.encoder.epsilon, name="norm")
        tokens = self.encoder(clips, train=train)
        if self.norm_of == "tokens":
            features = pooled(norm(tokens), self.pool, self.encoder)
        else:
            features = norm(pooled(tokens, self.pool, self.encoder))
        features = nn.Dropout(self.dropout, deterministic=not train)(features)
        init = nn.initializers.normal(2e-5)
        return Dense(self.num_classes, features.dtype, init, name="projection")(features)


def check_classes(num_classes: int) -> None:
    """Raises ValueError for fewer than two classes."""
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes}: a classifier needs 2 or more")


def check_dropout(rate: float) -> None:
    """Raises ValueError for a rate below 0, or of 1 or more."""
    if not 0 <= rate < 1:
        raise ValueError(f"dropout={rate} is not in [0, 1)")


def pooled(
    tokens: Float[Array, "b tokens d"], pool: str, encoder: nn.Module
) -> Float[Array, "b d"]:
    """The class token, or the mean of the tokens of the grid; at least in float32."""
    wide = jnp.promote_types(tokens.dtype, jnp.float32)
    if pool == "class":
        return tokens[:, 0].astype(wide)
    return tokens[:, encoder.class_tokens :].astype(wide).mean(1)


def check_pool(pool: str, encoder: nn.Module) -> None:
    """Raises ValueError for an unknown pool, or "class" without a class token."""
    check_choice("pool", pool, POOLS)
    if pool == "class" and not encoder.class_tokens:
        raise ValueError("pool='class' needs an encoder with a class token; this one has none")
