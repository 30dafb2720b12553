"""What can be trained: a task holds its parts and says what to initialise, step, sum up and draw.

To add one: a class with the members of `Task`, and its line in `TASKS` at the end of the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import flax.linen as nn
import jax
import numpy as np

from maskfeat_jax import pictures, steps
from maskfeat_jax.arrays import Array
from maskfeat_jax.augment import Augment, Mix, Normalise
from maskfeat_jax.build import Problems, RecipeError, Section, call, choose, member
from maskfeat_jax.masking import MASKERS, Masker
from maskfeat_jax.models import MODELS, VARIANTS
from maskfeat_jax.ops.patches import Size3, token_grid
from maskfeat_jax.optim import Optimizer
from maskfeat_jax.state import TrainState
from maskfeat_jax.targets import TARGETS, Target


@runtime_checkable
class Task(Protocol):
    """What the main program needs of a task.

    Attributes:
      sections: of the recipe that the task reads.
    """

    sections: ClassVar[tuple[str, ...]]

    @classmethod
    def from_recipe(cls, recipe: Section, clip: Size3, problems: Problems) -> Task | None:
        """The task, or None after noting what is wrong with the recipe."""

    def check_labels(self, class_names: tuple[str, ...] | None) -> None:
        """Raises RecipeError where the labels of the data do not fit; None: there are none."""

    def check_batch(self, batch_size: int) -> None:
        """Raises RecipeError where batches of this size cannot be trained on."""

    def init(self, key: jax.Array) -> Any:
        """Fresh parameters."""

    def train_step(
        self, state: TrainState, batch: steps.Batch, *, optimizer: Optimizer, accumulate: int
    ) -> tuple[TrainState, steps.Metrics]:
        """One update."""

    def eval_step(self, params: Any, batch: steps.Batch, *, views: int) -> steps.Metrics:
        """Sums over a batch of examples with so many views each, `examples` among them."""

    def summary(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """Metrics from sums over a dataset."""

    def table(self, sums: Mapping[str, Any], class_names: Sequence[str]) -> list[Mapping[str, Any]]:
        """Rows of a table of details from sums over a dataset; none if there are no details."""

    def show_step(self, params: Any, video: Array) -> dict[str, Array]:
        """What `draw` needs of the model for some clips."""

    def draw(
        self, video: np.ndarray, shown: Mapping[str, np.ndarray], class_names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Pictures of what the model does with some clips, by name.

        uint8 `(height, width, 3)`, or with a leading axis of frames what moves.
        """


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

    sections: ClassVar[tuple[str, ...]] = ("target", "mask")

    @classmethod
    def from_recipe(cls, recipe: Section, clip: Size3, problems: Problems) -> Pretrain | None:
        """See `Task`."""
        encoder = target = masker = normalise = augment = None
        with problems.gather():
            encoder = _encoder(recipe["model"])
            encoder.grid(clip)
        with problems.gather():
            if encoder is not None:
                target = choose("target", TARGETS, recipe["target"], tubelet=encoder.tubelet)
        with problems.gather():
            masker = choose("mask", MASKERS, recipe["mask"])
            if encoder is not None:
                masker.check(encoder.grid(clip))
        with problems.gather():
            normalise, augment = _on_device(recipe)
        if problems:
            return None
        model = MODELS["maskfeat"](encoder=encoder, dim=target.dim)
        return cls(model, normalise, augment, masker, target, clip, recipe["seed"])

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
        """Mask, predicted and wanted features."""
        clips = self.normalise(video)
        grid = token_grid(self.clip, self.target.tubelet)
        mask = self.masker(jax.random.key(self.seed), len(video), grid)
        predicted = steps.forward(self.model, params, clips, mask)
        return {"mask": mask, "predicted": predicted, "wanted": self.target(clips)}

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


@dataclasses.dataclass(frozen=True)
class Finetune:
    """Classification."""

    model: nn.Module
    normalise: Normalise
    augment: Augment
    mix: Mix
    clip: Size3
    seed: int

    sections: ClassVar[tuple[str, ...]] = ("mix",)

    @classmethod
    def from_recipe(cls, recipe: Section, clip: Size3, problems: Problems) -> Finetune | None:
        """See `Task`."""
        encoder = normalise = augment = mix = None
        section = dict(recipe["model"])
        classes = section.pop("num_classes", 0)
        with problems.gather():
            if classes < 2:
                raise RecipeError(f"model.num_classes={classes}: a classifier needs 2 or more")
        with problems.gather():
            encoder = _encoder(section)
            encoder.grid(clip)
        with problems.gather():
            normalise, augment = _on_device(recipe)
        with problems.gather():
            mix = call("mix", Mix, recipe["mix"])
        if problems:
            return None
        model = MODELS["classifier"](encoder=encoder, num_classes=classes)
        return cls(model, normalise, augment, mix, clip, recipe["seed"])

    def check_labels(self, class_names: tuple[str, ...] | None) -> None:
        """As many classes as the head has."""
        classes = self.model.num_classes
        if class_names is None:
            raise RecipeError("data: this task needs labels, and there are none")
        if len(class_names) != classes:
            raise RecipeError(f"model.num_classes={classes}, but the data has {len(class_names)}")

    def check_batch(self, batch_size: int) -> None:
        """A whole number of mixed groups."""
        if self.mix.probability and batch_size % self.mix.group:
            raise RecipeError(f"mix.group={self.mix.group} does not divide a batch of {batch_size}")

    def init(self, key: jax.Array) -> Any:
        """See `Task`."""
        return self.model.init(key, np.zeros((1, *self.clip, 3), np.float32))["params"]

    def train_step(
        self, state: TrainState, batch: steps.Batch, *, optimizer: Optimizer, accumulate: int
    ) -> tuple[TrainState, steps.Metrics]:
        """See `steps.finetune_step`."""
        return steps.finetune_step(
            state,
            batch,
            model=self.model,
            normalise=self.normalise,
            augment=self.augment,
            mix=self.mix,
            classes=self.model.num_classes,
            optimizer=optimizer,
            seed=self.seed,
            accumulate=accumulate,
        )

    def eval_step(self, params: Any, batch: steps.Batch, *, views: int) -> steps.Metrics:
        """See `steps.eval_step`."""
        return steps.eval_step(
            params, batch, model=self.model, normalise=self.normalise, views=views
        )

    def summary(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """`loss`; `top1` and `top5` as fractions; `mean_class_top1` over the classes that occur."""
        metrics = {name: float(sums[name] / sums["examples"]) for name in ("loss", "top1", "top5")}
        occurs = sums["class_examples"] > 0
        by_class = sums["class_top1"][occurs] / sums["class_examples"][occurs]
        return {**metrics, "mean_class_top1": float(by_class.mean())}

    def table(self, sums: Mapping[str, Any], class_names: Sequence[str]) -> list[Mapping[str, Any]]:
        """By class: examples, and the fraction that is right."""
        rows = zip(class_names, sums["class_examples"], sums["class_top1"], strict=True)
        return [
            {"class": name, "examples": int(n), "top1": float(hits / n) if n else None}
            for name, n, hits in rows
        ]

    def show_step(self, params: Any, video: Array) -> dict[str, Array]:
        """Probabilities of the classes."""
        logits = steps.forward(self.model, params, self.normalise(video))
        return {"probabilities": jax.nn.softmax(logits)}

    def draw(
        self, video: np.ndarray, shown: Mapping[str, np.ndarray], class_names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """The clips, each under its most probable class."""
        best = shown["probabilities"].argmax(-1)
        certain = shown["probabilities"].max(-1)
        titles = [f"{class_names[k]} {p:.0%}" for k, p in zip(best, certain, strict=True)]
        return pictures.draw_titled(video, titles)


def _encoder(section: Section) -> nn.Module:
    """The encoder of a `model` section: a variant with some fields changed."""
    fields = dict(section)
    fields.pop("init_from", None)
    name = fields.pop("encoder", "")
    family, sizes = member("model.encoder", VARIANTS, name)
    return call("model", family, {**sizes, **fields})


def _on_device(recipe: Section) -> tuple[Normalise, Augment]:
    normalise = call("normalise", Normalise, recipe["normalise"])
    return normalise, call("augment", Augment, recipe["augment"])


TASKS: dict[str, type[Task]] = {"finetune": Finetune, "pretrain": Pretrain}


def task_of(recipe: Section) -> Any:
    """The class of `TASKS` that a recipe describes; "evaluate" is that of the model it evaluates.

    Raises:
      RecipeError: there is no such task.
    """
    name = recipe["task"]
    if name == "evaluate":
        name = "finetune" if "num_classes" in recipe["model"] else "pretrain"
    return member("task", TASKS, name)
