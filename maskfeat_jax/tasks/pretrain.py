"""Masked feature prediction."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import numpy as np

from maskfeat_jax import pictures, steps
from maskfeat_jax.augment import Augment, Normalise
from maskfeat_jax.masking import MASKERS, Masker
from maskfeat_jax.models import MODELS
from maskfeat_jax.ops.patches import Size3, token_grid
from maskfeat_jax.optim import Optimizer
from maskfeat_jax.sections import Problems, RecipeError, Section, call, choose
from maskfeat_jax.state import TrainState
from maskfeat_jax.targets import TARGETS, Target
from maskfeat_jax.tasks.base import LEARNING, encoder_of, head_name, on_device
from maskfeat_jax.typing import Array


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """Masked feature prediction."""

    model: nn.Module
    normalise: Normalise
    augment: Augment
    masker: Masker
    target: Target
    clip: Size3
    seed: int

    heads: ClassVar[tuple[str, ...]] = ("mae", "maskfeat")
    sections: ClassVar[tuple[str, ...]] = (*LEARNING, "target", "mask")
    learns: ClassVar[bool] = True
    init_parts: ClassVar[tuple[str, ...]] = ("encoder",)

    @classmethod
    def from_recipe(cls, recipe: Section, clip: Size3, problems: Problems) -> Pretrain | None:
        """See `Task`."""
        encoder = grid = target = masker = model = on_clips = None
        with problems.gather():
            encoder = encoder_of(recipe)
            grid = call("view, eval_view and model.tubelet", encoder.grid, {}, clip=clip)
        with problems.gather():
            if encoder is not None:
                target = choose("target", TARGETS, recipe["target"], tubelet=encoder.tubelet)
        with problems.gather():
            masker = choose("mask", MASKERS, recipe["mask"])
            if grid is not None:
                masker.check(grid)
        with problems.gather():
            if grid is not None and target is not None and masker is not None:
                model = cls._model(recipe, encoder, target, masker, clip)
        with problems.gather():
            on_clips = on_device(recipe)
        if problems or model is None:
            return None
        return cls(model, *on_clips, masker, target, clip, recipe["seed"])

    @classmethod
    def _model(
        cls, recipe: Section, encoder: nn.Module, target: Target, masker: Masker, clip: Size3
    ) -> nn.Module:
        name = head_name(recipe, cls.heads)
        given: dict[str, Any] = {"encoder": encoder, "dim": target.dim}
        if name == "mae":  # leaves masked tokens out, and shapes are static
            if not masker.exact:
                raise RecipeError(
                    f"mask.name={recipe['mask']['name']!r} hides more tokens in some clips than in "
                    "others, and head.name='mae' needs the same number in each: set mask.exact=True"
                )
            grid = encoder.grid(clip)
            given["visible"] = math.prod(grid) - masker.masked(grid)
        return choose("head", MODELS, recipe["head"], **given)

    def check_labels(self, class_names: tuple[str, ...] | None) -> None:
        """Any do, or none."""

    def check_batch(self, batch_size: int) -> None:
        """Any do."""

    def init(self, key: jax.Array) -> Any:
        """See `Task`."""
        clips = np.zeros((1, *self.clip, 3), np.float32)
        mask = np.zeros((1, *token_grid(self.clip, self.target.tubelet)), bool)
        return self.model.init(key, clips, mask)["params"]

    def train_step(
        self, state: TrainState, batch: steps.Batch, *, optimizer: Optimizer, accumulate: int
    ) -> tuple[TrainState, steps.Metrics]:
        """See `steps.pretrain_step`."""
        return steps.pretrain_step(
            state,
            batch,
            model=self.model,
            normalise=self.normalise,
            augment=self.augment,
            masker=self.masker,
            target=self.target,
            optimizer=optimizer,
            seed=self.seed,
            accumulate=accumulate,
        )

    def eval_step(self, params: Any, batch: steps.Batch, *, views: int) -> steps.Metrics:
        """See `steps.pretrain_eval_step`."""
        return steps.pretrain_eval_step(
            params,
            batch,
            model=self.model,
            normalise=self.normalise,
            masker=self.masker,
            target=self.target,
            seed=self.seed,
            views=views,
        )

    def summary(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """`loss`, and that of the best constant prediction of the same tokens."""
        mean, square = sums["wanted"] / sums["tokens"], sums["wanted_squared"] / sums["tokens"]
        constant = float(np.mean(square - mean**2))
        return {"loss": float(sums["loss"] / sums["tokens"]), "loss_of_best_constant": constant}

    def table(self, sums: Mapping[str, Any], class_names: Sequence[str]) -> list[Mapping[str, Any]]:
        """None."""
        return []

    def show_step(self, params: Any, video: Array) -> dict[str, Array]:
        """Mask, predicted and wanted features, as they can be drawn."""
        clips = self.normalise(video)
        grid = token_grid(self.clip, self.target.tubelet)
        mask = self.masker(jax.random.key(self.seed), len(video), grid)
        predicted = steps.forward(self.model, params, clips, mask)
        restored = {"predicted": predicted, "wanted": self.target(clips)}
        restored = {name: self.target.restore(x, clips) for name, x in restored.items()}
        return {"mask": mask, **restored}

    def draw(
        self, video: np.ndarray, shown: Mapping[str, np.ndarray], class_names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Input, what the model sees of it, predicted and wanted features."""
        mean, std = self.normalise.mean, self.normalise.std
        return pictures.draw_features(
            video,
            shown["mask"],
            shown["predicted"],
            shown["wanted"],
            self.target.tubelet,
            lambda features: self.target.draw(features, mean, std),
        )
