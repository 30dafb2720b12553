"""An encoder with a classifier of boxes: what the people in a clip do."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from maskfeat_jax.models.classifier import check_classes, check_dropout
from maskfeat_jax.models.layers import NORMAL, Dense, LayerNorm
from maskfeat_jax.models.vit import ViT
from maskfeat_jax.ops.roi_align import roi_align
from maskfeat_jax.typing import Array


class BoxClassifier(nn.Module):
    """Encoder, layer norm, mean over time, RoIAlign of each box, dropout, linear map.

    The classes of a box are independent of each other: probabilities are sigmoids of the logits.
    A cell of the map is a token, of as many pixels as `encoder.tubelet` says: 16 of a ViT, 32 of an
    MViT. (The default of PySlowFast is 16 for all, with which boxes miss the map of an MViT.)

    Attributes:
      encoder: outputs the class token, if it has one, and the tokens of the grid.
      num_classes: number of classes.
      dropout: rate of dropout before the linear map in training.
      bins: rows and columns that RoIAlign divides a box into; the largest value counts.

    Source: PySlowFast `ResNetRoIHead` of slowfast/models/head_helper.py, with which MaskFeat
    (arXiv:2112.09133) and MAE for video (arXiv:2205.09113) are evaluated on AVA.
    """

    encoder: nn.Module
    num_classes: int
    dropout: float = 0.5
    bins: int = 7

    def __post_init__(self) -> None:
        check_classes(self.num_classes)
        check_dropout(self.dropout)
        if self.bins < 1:
            raise ValueError(f"bins={self.bins} is not positive")
        super().__post_init__()

    @property
    def frozen(self) -> tuple[str, ...]:
        """Regular expressions for the paths of parameters that are not trained."""
        return self.encoder.frozen

    @nn.compact
    def __call__(
        self, clips: Float[Array, "b t h w 3"], boxes: Float[Array, "b n 4"], *, train: bool = False
    ) -> Float[Array, "b n {self.num_classes}"]:
        """Logits in float32; training with drop path or dropout needs the rng `dropout`.

        Args:
          clips: normalised RGB.
          boxes: left, top, right, bottom, in pixels of the clips.
          train: whether drop path and dropout are active.
        """
        encoder = self.encoder
        clips = encoder.fitted(clips)
        # An MViT interpolates its tables whenever they do not fit.
        of_frame = {"any_frame": True} if isinstance(encoder, ViT) else {}
        tokens = encoder(clips, train=train, **of_frame)
        tokens = LayerNorm(encoder.epsilon, name="norm")(tokens)
        wide = jnp.promote_types(tokens.dtype, jnp.float32)
        tokens = tokens[:, encoder.class_tokens :].astype(wide)
        grid = encoder.grid(clips.shape[1:4])
        cells = tokens.reshape(len(tokens), *grid, -1).mean(1)
        _, height, width = encoder.tubelet
        pixels = jnp.asarray([width, height, width, height], wide)  # of a cell
        features = roi_align(cells, boxes / pixels, (self.bins, self.bins)).max((2, 3))
        features = nn.Dropout(self.dropout, deterministic=not train)(features)
        return Dense(self.num_classes, features.dtype, NORMAL, name="projection")(features)
