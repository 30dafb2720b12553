"""MaskFeat: predicts features of masked tokens."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Bool, Float

from maskfeat_jax.models.layers import Dense, LayerNorm
from maskfeat_jax.typing import Array


class MaskFeat(nn.Module):
    """Encoder, layer norm and one linear map from each token to its features.

    Attributes:
      encoder: outputs the class token, if it has one, and the tokens of the grid.
      dim: values per token of the target.

    Source: MaskFeat (arXiv:2112.09133) section 3; PySlowFast slowfast/models/head_helper.py.
    """

    encoder: nn.Module
    dim: int

    @property
    def frozen(self) -> tuple[str, ...]:
        """Regular expressions for the paths of parameters that are not trained."""
        return self.encoder.frozen

    @nn.compact
    def __call__(
        self,
        clips: Float[Array, "b t h w 3"],
        mask: Bool[Array, "b gt gh gw"],
        *,
        train: bool = False,
    ) -> Float[Array, "b gt gh gw {self.dim}"]:
        """Predicts the features of every token, masked or not, in float32."""
        tokens = self.encoder(clips, mask, train=train)
        tokens = tokens[:, self.encoder.class_tokens :]
        tokens = LayerNorm(self.encoder.epsilon, name="norm")(tokens)
        predicted = Dense(self.dim, tokens.dtype, name="projection")(tokens)
        wide = jnp.promote_types(predicted.dtype, jnp.float32)
        return predicted.reshape(*mask.shape, self.dim).astype(wide)
