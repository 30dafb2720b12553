"""Masked feature prediction."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from maskfeat_jax import losses, pictures, steps
from maskfeat_jax.masking import MASKERS, Masker
from maskfeat_jax.models import MODELS
from maskfeat_jax.ops.patches import Size3, token_grid
from maskfeat_jax.ops.rows import on_own_rows
from maskfeat_jax.optim import Optimizer
from maskfeat_jax.sections import Reader, RecipeError, call
from maskfeat_jax.state import TrainState
from maskfeat_jax.steps import Batch, Metrics
from maskfeat_jax.targets import TARGETS, Target
from maskfeat_jax.tasks.base import (
    TRAINING_SECTIONS,
    Task,
    encoder_of,
    head_name,
    normalise_and_augment,
)
from maskfeat_jax.typing import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrain(Task):
    """Masked feature prediction: MaskFeat (arXiv:2112.09133) and masked autoencoders.

    Attributes:
      masker: draws the masks.
      target: computes the features to predict at masked tokens.
    """

    masker: Masker
    target: Target

    heads: ClassVar[tuple[str, ...]] = ("mae", "maskfeat")
    sections: ClassVar[tuple[str, ...]] = (*TRAINING_SECTIONS, "target", "mask")

    @classmethod
    def from_recipe(cls, reader: Reader, clip: Size3) -> Pretrain | None:
        """See `Task`."""
        encoder = grid = target = masker = model = pixels = None
        problems = reader.problems
        with problems.gather():
            encoder = encoder_of(reader)
            grid = call("view, eval_view and model.tubelet", encoder.grid, {}, clip=clip)
        with problems.gather():
            if encoder is not None:
                target = reader.choose("target", TARGETS, Target, tubelet=encoder.tubelet)
                if target.tubelet != encoder.tubelet:
                    raise RecipeError(
                        f"target: tubelet {target.tubelet} differs from {encoder.tubelet}, "
                        "that of the model"
                    )
            if grid is not None:
                clips = jax.ShapeDtypeStruct((1, *clip, 3), np.float32)
                where = "target, view and eval_view"
                call(where, lambda clips: jax.eval_shape(target, clips), {}, clips=clips)
        with problems.gather():
            masker = reader.choose("mask", MASKERS, Masker)
            if grid is not None:
                masker.check(grid)
        with problems.gather():
            if grid is not None and target is not None and masker is not None:
                model = cls._model(reader, encoder, target, masker, clip)
        with problems.gather():
            pixels = normalise_and_augment(reader)
        if problems or model is None or pixels is None or masker is None or target is None:
            return None
        given = {"model": model, "clip": clip, "seed": reader["seed"], **pixels}
        return cls(masker=masker, target=target, **given)

    @classmethod
    def _model(
        cls, reader: Reader, encoder: nn.Module, target: Target, masker: Masker, clip: Size3
    ) -> nn.Module:
        name = head_name(reader, cls.heads)
        given: dict[str, Any] = {"encoder": encoder, "dim": target.dim}
        if name == "mae":  # computes the visible tokens only, and shapes are static
            if not masker.exact:
                raise RecipeError(
                    f"mask: {type(masker).__name__} masks a varying number of tokens, but "
                    "head.name='mae' needs the same number in each clip; set mask.exact=True"
                )
            grid = encoder.grid(clip)
            given["visible"] = math.prod(grid) - masker.masked(grid)
        return reader.choose("head", MODELS, **given)

    @property
    def grid(self) -> Size3:
        """Tokens along time, height and width of a clip."""
        return token_grid(self.clip, self.target.tubelet)

    def init(self, key: jax.Array) -> Any:
        """See `Task`."""
        clips, mask = np.zeros((1, *self.clip, 3), np.float32), np.zeros((1, *self.grid), bool)
        return self.model.init(key, clips, mask)["params"]

    def train_step(
        self, state: TrainState, batch: Batch, *, optimizer: Optimizer, accumulate: int = 1
    ) -> tuple[TrainState, Metrics]:
        """One update: mask tokens, predict their targets, apply the gradient."""
        augment_key, mask_key, drop_key = steps.step_keys(self.seed, state.step)
        clips = self.augment(augment_key, self.normalise(batch["video"]))
        targets = jax.lax.stop_gradient(on_own_rows(self.target, clips))
        mask = self.masker(mask_key, len(clips), self.grid)  # True = masked
        counted = mask & batch["valid"][:, None, None, None]  # masked, in a readable clip
        total = jnp.maximum(counted.sum() * self.target.dim, 1)  # values in the whole batch

        def loss_of(
            params: Any, key: Array, clips: Array, targets: Array, mask: Array, counted: Array
        ):
            predicted = steps.forward(self.model, params, clips, mask, dropout=key)
            return losses.masked_mse(predicted, targets, counted) / total

        rows = (clips, targets, mask, counted)
        loss, grads = steps.accumulated_gradient(loss_of, state.params, drop_key, rows, accumulate)
        return steps.update(state, loss, grads, optimizer)

    def eval_step(self, params: Any, batch: Batch, *, views: int = 1) -> tuple[Metrics, Metrics]:
        """Sums over the masked tokens of the examples whose views are all valid.

        Masks depend on `seed` and the row in the batch only.

        Returns:
          `examples`; masked `tokens`; `loss`, the squared error averaged over the values of a
          token; sum and sum of squares of the targets, `(d,)`, for the loss of the best constant.
          Nothing by example.
        """
        complete = batch["valid"].reshape(-1, views).all(1)
        clips = self.normalise(batch["video"])
        targets = on_own_rows(self.target, clips)
        mask = self.masker(jax.random.key(self.seed), len(clips), self.grid)
        predicted = steps.forward(self.model, params, clips, mask)
        counted = mask & jnp.repeat(complete, views)[:, None, None, None]
        weight = counted[..., None].astype(jnp.float32)
        sums = {
            "examples": jnp.sum(complete),
            "tokens": jnp.sum(weight),
            "loss": losses.masked_mse(predicted, targets, counted) / self.target.dim,
            "targets": jnp.sum(targets * weight, (0, 1, 2, 3)),
            "targets_squared": jnp.sum(jnp.square(targets) * weight, (0, 1, 2, 3)),
        }
        return sums, {}

    def summary(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """`loss`, and the loss of the best constant prediction for the same tokens."""
        mean, square = (sums[name] / sums["tokens"] for name in ("targets", "targets_squared"))
        constant = float(np.mean(square - mean**2))
        return {"loss": float(sums["loss"] / sums["tokens"]), "loss_of_best_constant": constant}

    def show_step(self, params: Any, video: Array) -> dict[str, Array]:
        """Mask, predicted features and targets, restored for drawing."""
        clips = self.normalise(video)
        mask = self.masker(jax.random.key(self.seed), len(video), self.grid)
        predicted = steps.forward(self.model, params, clips, mask)
        restored = {"predicted": predicted, "targets": self.target(clips)}
        restored = {name: self.target.restore(x, clips) for name, x in restored.items()}
        return {"mask": mask, **restored}

    def draw(
        self, video: np.ndarray, outputs: Mapping[str, np.ndarray], class_names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Input, masked input, predicted features, targets."""
        mean, std = self.normalise.mean, self.normalise.std
        return pictures.draw_features(
            video,
            outputs["mask"],
            outputs["predicted"],
            outputs["targets"],
            self.target.tubelet,
            lambda features: self.target.draw(features, mean, std),
        )
