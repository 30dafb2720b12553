"""Classification: with the whole network, or with a small one on a frozen encoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import numpy as np

from maskfeat_jax import pictures, steps
from maskfeat_jax.augment import Augment, Mix, Normalise
from maskfeat_jax.models import MODELS
from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.optim import Optimizer
from maskfeat_jax.sections import Problems, RecipeError, Section, call, choose
from maskfeat_jax.state import TrainState
from maskfeat_jax.tasks.base import LEARNING, encoder_of, head_name, on_device
from maskfeat_jax.typing import Array


@dataclasses.dataclass(frozen=True)
class Classify:
    """What the tasks that tell classes apart have in common."""

    model: nn.Module
    normalise: Normalise
    clip: Size3
    seed: int

    heads: ClassVar[tuple[str, ...]]

    @classmethod
    def build_model(cls, recipe: Section, clip: Size3, problems: Problems) -> nn.Module | None:
        """The encoder with its head, or None after noting what is wrong."""
        encoder = model = None
        with problems.gather():
            encoder = encoder_of(recipe)
            call("view, eval_view and model.tubelet", encoder.grid, {}, clip=clip)
        with problems.gather():
            head_name(recipe, cls.heads)
            model = encoder and choose("head", MODELS, recipe["head"], encoder=encoder)
        return model

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.model.num_classes

    def check_labels(self, class_names: tuple[str, ...] | None) -> None:
        """As many classes as are told apart."""
        if class_names is None:
            raise RecipeError("data: this task needs labels, and there are none")
        if len(class_names) != self.classes:
            raise RecipeError(f"num_classes={self.classes}, but the data has {len(class_names)}")

    def init(self, key: jax.Array) -> Any:
        """See `Task`."""
        return self.model.init(key, np.zeros((1, *self.clip, 3), np.float32))["params"]

    def eval_step(self, params: Any, batch: steps.Batch, *, views: int) -> steps.Metrics:
        """See `steps.eval_step`."""
        return steps.eval_step(
            params, batch, model=self.model, normalise=self.normalise, views=views
        )

    def summary(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """`loss`; `top1` and `top5` as fractions; `mean_class_top1` over the classes that occur."""
        means = [name for name in ("loss", "top1", "top5") if name in sums]
        metrics = {name: float(sums[name] / sums["examples"]) for name in means}
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


@dataclasses.dataclass(frozen=True)
class Finetune(Classify):
    """Classification with the whole network."""

    augment: Augment
    mix: Mix

    heads: ClassVar[tuple[str, ...]] = ("classifier",)
    sections: ClassVar[tuple[str, ...]] = (*LEARNING, "mix")
    learns: ClassVar[bool] = True
    init_parts: ClassVar[tuple[str, ...]] = ("encoder",)

    @classmethod
    def from_recipe(cls, recipe: Section, clip: Size3, problems: Problems) -> Finetune | None:
        """See `Task`."""
        on_clips = mix = None
        model = cls.build_model(recipe, clip, problems)
        with problems.gather():
            on_clips = on_device(recipe)
        with problems.gather():
            mix = call("mix", Mix, recipe["mix"])
        if problems or model is None or on_clips is None:
            return None
        normalise, augment = on_clips
        return cls(model, normalise, clip, recipe["seed"], augment, mix)

    def check_batch(self, batch_size: int) -> None:
        """A whole number of mixed groups."""
        if self.mix.probability and batch_size % self.mix.group:
            raise RecipeError(f"mix.group={self.mix.group} does not divide a batch of {batch_size}")

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
            classes=self.classes,
            optimizer=optimizer,
            seed=self.seed,
            accumulate=accumulate,
        )


@dataclasses.dataclass(frozen=True)
class Probe(Classify):
    """Classification with a small network on a frozen encoder."""

    augment: Augment

    heads: ClassVar[tuple[str, ...]] = ("attentive_probe", "linear_probe")
    sections: ClassVar[tuple[str, ...]] = LEARNING
    learns: ClassVar[bool] = True
    init_parts: ClassVar[tuple[str, ...]] = ("encoder", "norm")

    @classmethod
    def from_recipe(cls, recipe: Section, clip: Size3, problems: Problems) -> Probe | None:
        """See `Task`."""
        on_clips = None
        model = cls.build_model(recipe, clip, problems)
        with problems.gather():
            on_clips = on_device(recipe)
        with problems.gather():
            if recipe["run"].get("accumulate", 1) != 1:
                raise RecipeError("run.accumulate must be 1: a probe takes the batch as a whole")
        with problems.gather():
            if recipe["optim"].get("ema_decay"):
                raise RecipeError("optim.ema_decay must be 0: a probe has running statistics")
        if problems or model is None or on_clips is None:
            return None
        normalise, augment = on_clips
        return cls(model, normalise, clip, recipe["seed"], augment)

    def check_batch(self, batch_size: int) -> None:
        """Any do."""

    def train_step(
        self, state: TrainState, batch: steps.Batch, *, optimizer: Optimizer, accumulate: int
    ) -> tuple[TrainState, steps.Metrics]:
        """See `steps.probe_step`; `accumulate` is 1."""
        return steps.probe_step(
            state,
            batch,
            model=self.model,
            normalise=self.normalise,
            augment=self.augment,
            classes=self.classes,
            optimizer=optimizer,
            seed=self.seed,
        )
