"""Classification with a pre-trained encoder."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from maskfeat_jax.arrays import Array
from maskfeat_jax.models.layers import Dense, LayerNorm


class Classifier(nn.Module):
    """Mean of the grid's tokens (not the class token), layer norm, dropout, linear map.

    Attributes:
      encoder: gives the class token and the tokens of the grid.
      num_classes: numbers of the output.
      dropout: rate at which numbers are dropped before the linear map in training.

    Source: MaskFeat (arXiv:2112.09133) section 4, MAE for video (arXiv:2205.09113); the linear map
    starts a thousand times smaller than the others, as in PySlowFast's fine-tuning configs.
    """

    encoder: nn.Module
    num_classes: int
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_classes(self.num_classes)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} is not in [0, 1)")
        super().__post_init__()

    @property
    def frozen(self) -> tuple[str, ...]:
        """Regular expressions for the paths of parameters that are not learnt."""
        return self.encoder.frozen

    @nn.compact
    def __call__(
        self, clips: Float[Array, "b t h w 3"], *, train: bool = False
    ) -> Float[Array, "b {self.num_classes}"]:
        """Logits in float32; training with drop path or dropout needs the rng `dropout`."""
        tokens = self.encoder(clips, train=train)[:, 1:]
        wide = jnp.promote_types(tokens.dtype, jnp.float32)
        pooled = LayerNorm(name="norm")(tokens.astype(wide).mean(1))
        pooled = nn.Dropout(self.dropout, deterministic=not train)(pooled)
        init = nn.initializers.normal(2e-5)
        return Dense(self.num_classes, wide, init, name="projection")(pooled)


def check_classes(num_classes: int) -> None:
    """Raises ValueError where there is nothing to tell apart."""
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes}: a classifier needs 2 or more")
