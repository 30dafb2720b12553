"""Classification: fine-tuning of the whole network, or a probe on a frozen encoder."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from maskfeat_jax import losses, pictures, steps
from maskfeat_jax.augment import Mix
from maskfeat_jax.class_names import spelled
from maskfeat_jax.models.probes import RUNNING
from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.optim import Optimizer
from maskfeat_jax.sections import Reader, RecipeError
from maskfeat_jax.sharding import joined_ids
from maskfeat_jax.state import TrainState
from maskfeat_jax.steps import Batch, Metrics
from maskfeat_jax.tasks.base import (
    TRAINING_SECTIONS,
    Results,
    Task,
    model_of,
    normalise_and_augment,
)
from maskfeat_jax.typing import Array, PyTree

_BEST = 5  # classes of each example in `predictions.csv`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classify(Task):
    """Base class of classification tasks.

    Attributes:
      classes_key: key of the recipe for the number of classes.
    """

    classes_key: ClassVar[str] = "head.num_classes"
    metric: ClassVar[str] = "top1"

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.model.num_classes

    def check_labels(self, where: str, source: Any) -> None:
        """See `Task`: labels are required, with the number of classes of the model."""
        names = source.class_names
        if getattr(source, "boxes", None):
            raise RecipeError(
                f"{where}: its examples have boxes with classes, which need task='detect' and "
                "head.name='boxes'"
            )
        if names is None:
            raise RecipeError(
                f"{where}: this task needs labels, but its examples have none, such as "
                f"{source.name_of(0)}; expected a folder for each class, or a list with labels"
            )
        if len(names) != self.classes:
            raise RecipeError(
                f"{self.classes_key}={self.classes}, but {where} has {len(names)} classes: "
                f"{', '.join(map(spelled, names[:5]))}{', ...' if len(names) > 5 else ''}"
            )

    def init(self, key: jax.Array) -> Any:
        """See `Task`."""
        return self.model.init(key, np.zeros((1, *self.clip, 3), np.float32))["params"]

    def eval_step(
        self, state: TrainState, batch: Batch, *, views: int = 1
    ) -> tuple[Metrics, Metrics]:
        """Sums over the examples whose views are all valid, and the best classes of each.

        The score of an example is the mean of the probabilities of its views.

        Returns:
          `loss`, and see `class_sums`; see `best_classes`.
        """
        logits = steps.forward(self.model, state.evaluated, self.normalise(batch["video"]))
        by_view = jax.nn.log_softmax(logits).reshape(-1, views, logits.shape[-1])
        scores = jax.nn.logsumexp(by_view, axis=1) - math.log(views)
        valid = jnp.asarray(batch["valid"]).reshape(-1, views).all(1)
        labels = jnp.where(valid, batch["label"][::views], 0)
        targets = jax.nn.one_hot(labels, scores.shape[-1])
        loss = losses.soft_cross_entropy(scores, targets)
        sums = {"loss": jnp.sum(loss * valid), **class_sums(scores, labels, valid)}
        return sums, best_classes(jnp.exp(scores), batch, valid)

    def results(self, sums: Mapping[str, Any], examples: Mapping[str, Any], source: Any) -> Results:
        """`loss`, `top1`, `top5`, and `mean_class_top1` over classes with examples; two tables.

        `per_class.csv` has the number of examples and top-1 by class, `predictions.csv` the best
        classes by example, of an unreadable file the name only. All but the loss are fractions.
        """
        means = [name for name in ("loss", "top1", "top5") if name in sums]
        metrics = {name: float(sums[name] / sums["examples"]) for name in means}
        present = sums["class_examples"] > 0  # a subset may lack some classes
        by_class = sums["class_top1"][present] / sums["class_examples"][present]
        metrics["mean_class_top1"] = float(by_class.mean())
        names = source.class_names
        tables = {
            "per_class.csv": _by_class(sums, names),
            "predictions.csv": _by_example(examples, names, source.name_of),
        }
        return Results(metrics, tables)

    def show_step(self, state: TrainState, batch: Batch) -> dict[str, PyTree]:
        """Class probabilities."""
        logits = steps.forward(self.model, state.evaluated, self.normalise(batch["video"]))
        return {"probabilities": jax.nn.softmax(logits)}

    def draw(
        self, video: np.ndarray, outputs: Mapping[str, np.ndarray], class_names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """The clips, each with its most probable class as title."""
        best = outputs["probabilities"].argmax(-1)
        probability = outputs["probabilities"].max(-1)
        titles = [f"{class_names[k]} {p:.0%}" for k, p in zip(best, probability, strict=True)]
        return pictures.draw_titled(video, titles)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetune(Classify):
    """Fine-tuning of the whole network for classification.

    Attributes:
      mix: mixup and CutMix of clips and labels.
    """

    mix: Mix

    heads: ClassVar[tuple[str, ...]] = ("classifier",)
    sections: ClassVar[tuple[str, ...]] = (*TRAINING_SECTIONS, "mix")

    @classmethod
    def from_recipe(cls, reader: Reader, clip: Size3) -> Finetune | None:
        """See `Task`."""
        pixels, mix, problems = None, None, reader.problems
        model = model_of(reader, cls.heads, clip)
        with problems.gather():
            pixels = normalise_and_augment(reader)
        with problems.gather():
            mix = reader.call("mix", Mix)
        if problems or model is None or pixels is None or mix is None:
            return None
        return cls(model=model, clip=clip, seed=reader["seed"], mix=mix, **pixels)

    def check_batch(self, batch_size: int) -> None:
        """See `Task`: the batch must be divisible into groups of `mix`."""
        if self.mix.probability and batch_size % self.mix.group:
            raise RecipeError(
                f"mix.group={self.mix.group} does not divide run.batch_size={batch_size}"
            )

    def train_step(
        self, state: TrainState, batch: Batch, *, optimizer: Optimizer, accumulate: int = 1
    ) -> tuple[TrainState, Metrics]:
        """One update: mix clips and labels, classify, apply the gradient."""
        augment_key, mix_key, drop_key = steps.step_keys(self.seed, state.step)
        clips = self.augment(augment_key, self.normalise(batch["video"]))
        clips, targets = self.mix(mix_key, clips, batch["label"], self.classes)
        weight = batch["valid"].astype(jnp.float32)
        if self.mix.probability:  # a clip mixed with an unreadable one does not count
            weight = weight * self.mix.partner(weight)
        total = jnp.maximum(weight.sum(), 1)  # of the whole batch

        def loss_of(params: Any, key: Array, clips: Array, targets: Array, weight: Array):
            logits = steps.forward(self.model, params, clips, dropout=key)
            return jnp.sum(losses.soft_cross_entropy(logits, targets) * weight) / total, {}

        rows = (clips, targets, weight)
        (loss, _), grads = steps.accumulated_gradient(
            loss_of, state.params, drop_key, rows, accumulate
        )
        return steps.update(state, loss, grads, optimizer)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe(Classify):
    """Training of a probe, a small classifier on a frozen encoder."""

    heads: ClassVar[tuple[str, ...]] = ("attentive_probe", "linear_probe")
    sections: ClassVar[tuple[str, ...]] = TRAINING_SECTIONS
    init_parts: ClassVar[tuple[str, ...]] = ("encoder", "norm")

    @classmethod
    def from_recipe(cls, reader: Reader, clip: Size3) -> Probe | None:
        """See `Task`."""
        pixels, problems = None, reader.problems
        model = model_of(reader, cls.heads, clip)
        with problems.gather():
            pixels = normalise_and_augment(reader)
        with problems.gather():
            if reader["run"].get("accumulate", 1) != 1:
                raise RecipeError("run.accumulate must be 1: a probe computes the batch as a whole")
        with problems.gather():
            if reader["optim"].get("ema_decay"):
                raise RecipeError("optim.ema_decay must be 0: a probe has running statistics")
        if problems or model is None or pixels is None:
            return None
        return cls(model=model, clip=clip, seed=reader["seed"], **pixels)

    def train_step(
        self, state: TrainState, batch: Batch, *, optimizer: Optimizer, accumulate: int = 1
    ) -> tuple[TrainState, Metrics]:
        """One update of the probe and of its running statistics; `accumulate` is 1."""
        augment_key, _, _ = steps.step_keys(self.seed, state.step)
        clips = self.augment(augment_key, self.normalise(batch["video"]))
        targets = jax.nn.one_hot(batch["label"], self.classes)
        weight = batch["valid"].astype(jnp.float32)

        def loss_of(params: Any):
            logits, changed = self.model.apply(
                {"params": params}, clips, batch["valid"], train=True, mutable=[RUNNING]
            )
            loss = jnp.sum(losses.soft_cross_entropy(logits, targets) * weight)
            return loss / jnp.maximum(weight.sum(), 1), changed.get(RUNNING, {})

        (loss, running), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        new, metrics = steps.update(state, loss, grads, optimizer)
        keep = (new.skipped != state.skipped) | ~batch["valid"].any()
        return new.replace(params=_replace(new.params, running, keep)), metrics


def class_sums(
    scores: Float[Array, "b classes"], labels: Int[Array, " b"], valid: Bool[Array, " b"]
) -> Metrics:
    """Sums over the valid examples.

    Returns:
      `examples`, numbers of correct ones in the `top1` and `top5`, and by class, `(classes,)`,
      `class_examples` and `class_top1`. A label whose score is -inf is never correct.
    """
    labels = jnp.where(valid, labels, 0)
    one_hot = jax.nn.one_hot(labels, scores.shape[-1]) * valid[:, None]
    possible = valid & jnp.isfinite(jnp.take_along_axis(scores, labels[:, None], 1)[:, 0])
    top1, top5 = (jnp.asarray(losses.hits(scores, labels, k) & possible) for k in (1, 5))
    return {
        "examples": jnp.sum(valid.astype(jnp.float32)),
        "top1": jnp.sum(top1),
        "top5": jnp.sum(top5),
        "class_examples": one_hot.sum(0),
        "class_top1": (one_hot * top1[:, None]).sum(0),
    }


def best_classes(
    scores: Float[Array, "b classes"], batch: Batch, valid: Bool[Array, " b"]
) -> Metrics:
    """Of each example: `best`, its five best classes, and their scores as `probability`.

    And `index`, `label` and whether it is `valid`; the batch has the same number of rows for each.
    """
    views = len(batch["label"]) // len(scores)
    probability, best = jax.lax.top_k(scores, min(_BEST, scores.shape[-1]))
    return {
        "index": batch["index"][::views],
        "label": batch["label"][::views],
        "valid": valid,
        "best": best,
        "probability": probability,
    }


def _by_class(sums: Mapping[str, Any], class_names: Sequence[str]) -> list[dict[str, Any]]:
    rows = zip(class_names, sums["class_examples"], sums["class_top1"], strict=True)
    return [
        {"class": name, "examples": int(n), "top1": float(hits / n) if n else None}
        for name, n, hits in rows
    ]


def _by_example(
    examples: Mapping[str, Any], class_names: Sequence[str], name_of: Callable[[int], str]
) -> list[dict[str, Any]]:
    rows = []
    index = joined_ids(examples["index"])
    for i in np.flatnonzero(index >= 0):  # the others fill the last batch
        read = bool(examples["valid"][i])
        row = {
            "file": name_of(int(index[i])),
            "label": class_names[examples["label"][i]] if read else None,
        }
        best = zip(examples["best"][i], examples["probability"][i], strict=True)
        for rank, (number, probability) in enumerate(best, 1):
            row[f"class_{rank}"] = class_names[number] if read else None
            row[f"probability_{rank}"] = f"{probability:.6g}" if read else None
        rows.append(row)
    return rows


def _replace(params: Any, values: Any, keep: Array) -> Any:
    """Parameters, those that occur in `values` replaced by them, unless `keep`."""
    if not isinstance(values, dict):
        return jnp.where(keep, params, values)
    return {**params, **{name: _replace(params[name], x, keep) for name, x in values.items()}}
