"""Classification with a pre-trained encoder."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from maskfeat_jax.arrays import Array
from maskfeat_jax.models.layers import Dense, LayerNorm


class Classifier(nn.Module):
    """Mean of the grid's tokens (not the class token), layer norm, linear map.

    Attributes:
      encoder: gives the class token and the tokens of the grid.
      num_classes: numbers of the output.

    Source: MaskFeat (arXiv:2112.09133) section 4; the linear map starts a thousand times smaller
    than the others, as in PySlowFast's fine-tuning configs.
    """

    encoder: nn.Module
    num_classes: int

    @nn.compact
    def __call__(
        self, clips: Float[Array, "b t h w 3"], *, train: bool = False
    ) -> Float[Array, "b {self.num_classes}"]:
        """Logits in float32."""
        tokens = self.encoder(clips, train=train)[:, 1:]
        wide = jnp.promote_types(tokens.dtype, jnp.float32)
        pooled = LayerNorm(name="norm")(tokens.astype(wide).mean(1))
        return Dense(self.num_classes, wide, kernel_std=2e-5, name="projection")(pooled)
