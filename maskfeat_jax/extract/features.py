"""Computes features of clips: outputs of the encoder of a trained model, without masking."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Float, UInt8

from maskfeat_jax.convert import Pretrained
from maskfeat_jax.models import Classifier
from maskfeat_jax.models.classifier import check_pool
from maskfeat_jax.models.layers import LayerNorm
from maskfeat_jax.typing import Array

AXES = {
    "clip": ("width",),
    "frame": ("time", "width"),
    "token": ("time", "row", "column", "width"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """Pools the tokens of a model, with its layer norm.

    The norm is applied as in the head: after pooling for a classifier, to the tokens for any other
    head. So features per clip with the pooling of a classifier are the input of its linear layer.
    """

    trained: Pretrained
    per: str = "clip"  # key of `AXES`
    pool: str = "mean"  # per clip: "mean" of the tokens of the grid, or the "class" token

    def __post_init__(self) -> None:
        if self.per not in AXES:
            raise ValueError(f"per={self.per!r}: expected one of {', '.join(AXES)}")
        if self.per != "clip" and self.pool != "mean":
            raise ValueError(f"pool={self.pool!r} is only for per='clip', not per={self.per!r}")
        check_pool(self.pool, self.trained.model.encoder)

    @property
    def params(self) -> dict[str, Any]:
        """The parameters that `__call__` needs."""
        params = self.trained.params
        return {name: params[name] for name in ("encoder", "norm") if name in params}

    @property
    def norm(self) -> str | None:
        """When the layer norm is applied: "after pooling", "before pooling", None without one."""
        if "norm" not in self.trained.params:
            return None
        model = self.trained.model
        after = isinstance(model, Classifier) and model.norm_of == "pooled"
        return f"{'after' if after else 'before'} pooling"

    def __call__(
        self, params: Mapping[str, Any], video: UInt8[Array, "b t h w 3"]
    ) -> Float[Array, "b ..."]:
        """Features of clips, at least in float32."""
        # The run's devices may be others.
        encoder = self.trained.model.encoder.clone(attention="auto")
        clips = self.trained.normalise(video)
        tokens: Any = encoder.apply({"params": params["encoder"]}, clips)
        tokens = tokens.astype(jnp.promote_types(tokens.dtype, jnp.float32))
        if self.norm is None:
            return self._taken(tokens)
        norm: Any = functools.partial(LayerNorm(self._epsilon).apply, {"params": params["norm"]})
        after = self.norm == "after pooling"
        return norm(self._taken(tokens)) if after else self._taken(norm(tokens))

    @property
    def _epsilon(self) -> float:
        model = self.trained.model
        last = model.last_epsilon if isinstance(model, Classifier) else None
        return last or model.encoder.epsilon

    def _taken(self, tokens: Float[Array, "b tokens d"]) -> Float[Array, "b ..."]:
        encoder = self.trained.model.encoder
        if self.pool == "class":
            return tokens[:, 0]
        grid = encoder.grid(self.trained.clip)
        tokens = tokens[:, encoder.class_tokens :].reshape(len(tokens), *grid, -1)
        return tokens.mean({"clip": (1, 2, 3), "frame": (2, 3), "token": ()}[self.per])
