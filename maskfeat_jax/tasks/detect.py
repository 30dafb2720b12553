"""Detection of actions: classes of given boxes of people in a video."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from maskfeat_jax import detection, losses, pictures, steps
from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.optim import Optimizer
from maskfeat_jax.sections import Reader, RecipeError
from maskfeat_jax.sharding import joined_ids
from maskfeat_jax.state import TrainState
from maskfeat_jax.steps import Batch, Metrics
from maskfeat_jax.tasks.base import (
    TRAINING_SECTIONS,
    Columns,
    Results,
    Task,
    model_of,
    normalise_and_augment,
)
from maskfeat_jax.typing import Array, PyTree

_BOXES = 16  # of a clip, where the data is not known


@dataclasses.dataclass(frozen=True)
class Score:
    """The section `score`.

    Attributes:
      scorer: "slowfast" or "activitynet", see `detection.average_precisions`.
    """

    scorer: str = "slowfast"

    def __post_init__(self) -> None:
        if self.scorer not in detection.SCORERS:
            raise ValueError(f"scorer={self.scorer!r}: expected {' or '.join(detection.SCORERS)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detect(Task):
    """Fine-tuning of the whole network on the classes of boxes, as on AVA.

    Attributes:
      score: of evaluation.
    """

    score: Score

    heads: ClassVar[tuple[str, ...]] = ("boxes",)
    sections: ClassVar[tuple[str, ...]] = (*TRAINING_SECTIONS, "score")
    any_frame: ClassVar[bool] = True
    metric: ClassVar[str] = "mAP"

    @classmethod
    def from_recipe(cls, reader: Reader, clip: Size3) -> Detect | None:
        """See `Task`."""
        pixels, score, problems = None, None, reader.problems
        model = model_of(reader, cls.heads, clip)
        with problems.gather():
            pixels = normalise_and_augment(reader)
        with problems.gather():
            score = reader.call("score", Score)
        if problems or model is None or pixels is None or score is None:
            return None
        return cls(model=model, clip=clip, seed=reader["seed"], score=score, **pixels)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.model.num_classes

    @property
    def columns(self) -> Columns:
        """See `Task`."""
        return {
            "boxes": ((_BOXES, 4), jnp.float32),
            "box_classes": ((_BOXES, self.classes), jnp.bool_),
            "box_valid": ((_BOXES,), jnp.bool_),
        }

    def check_labels(self, where: str, source: Any) -> None:
        """See `Task`: examples need boxes, with the classes of the model, and a truth to score."""
        boxes = getattr(source, "boxes", None)
        if boxes is None:
            raise RecipeError(
                f"{where}: head.name='boxes' needs examples with boxes, as of the datasets ava and "
                f"acting_shapes; {source.name_of(0)} has none"
            )
        if boxes.classes.shape[1] != self.classes:
            raise RecipeError(
                f"head.num_classes={self.classes}, but the boxes of {where} have "
                f"{boxes.classes.shape[1]} classes"
            )
        if where == "eval_data" and boxes.truth is None:
            raise RecipeError(f"{where}: it has no ground truth to score detections with")

    def init(self, key: jax.Array) -> Any:
        """See `Task`."""
        clips, boxes = np.zeros((1, *self.clip, 3), np.float32), np.zeros((1, 1, 4), np.float32)
        return self.model.init(key, clips, boxes)["params"]

    def train_step(
        self, state: TrainState, batch: Batch, *, optimizer: Optimizer, accumulate: int = 1
    ) -> tuple[TrainState, Metrics]:
        """One update: classify the boxes, apply the gradient.

        The loss is the mean over all boxes of the batch: a clip with more boxes has more weight.
        """
        augment_key, _, drop_key = steps.step_keys(self.seed, state.step)
        clips = self.augment(augment_key, self.normalise(batch["video"]))
        flipped = self.augment.flipped(augment_key, len(clips))
        boxes = batch["boxes"]
        boxes = jnp.where(flipped[:, None, None], mirrored(boxes, self.clip[2]), boxes)
        counted = batch["box_valid"] & batch["valid"][:, None]
        total = jnp.maximum(counted.sum(), 1)  # of the whole batch

        def loss_of(
            params: Any, key: Array, clips: Array, boxes: Array, classes: Array, counted: Array
        ):
            logits = steps.forward(self.model, params, clips, boxes, dropout=key)
            return jnp.sum(losses.binary_cross_entropy(logits, classes) * counted) / total, {}

        rows = (clips, boxes, batch["box_classes"], counted)
        (loss, _), grads = steps.accumulated_gradient(
            loss_of, state.params, drop_key, rows, accumulate
        )
        return steps.update(state, loss, grads, optimizer)

    def eval_step(
        self, state: TrainState, batch: Batch, *, views: int = 1
    ) -> tuple[Metrics, Metrics]:
        """The number of valid `examples`, and the probability of each class of each box.

        There is no loss, as boxes that a detector found have no classes.
        """
        assert views == 1, "views of one example have boxes in other places"
        by_example = {
            **{name: batch[name] for name in ("index", "valid", "box_valid")},
            "probabilities": jax.nn.sigmoid(self._logits(state, batch)),
        }
        return {"examples": jnp.sum(batch["valid"].astype(jnp.float32))}, by_example

    def kept(self, by_example: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """See `Task`: a row for each box, with the index of its example, and unread examples."""
        index = joined_ids(by_example["index"])
        exists = by_example["box_valid"] & by_example["valid"][:, None]
        row, number = np.nonzero(exists)
        return {
            "index": index[row],
            "number": number,
            "probabilities": by_example["probabilities"][exists],
            "unread": index[~by_example["valid"] & (index >= 0)],
        }

    def results(self, sums: Mapping[str, Any], examples: Mapping[str, Any], source: Any) -> Results:
        """Mean average precision of all classes and of each group; tables by class and of boxes.

        Examples that could not be read are not scored.
        """
        boxes, keys = source.boxes, np.array(source.boxes.keys)
        order = np.lexsort((examples["number"], examples["index"]))  # frames come by their shape
        index = examples["index"][order]
        found = detection.Detections(
            keys[index],
            boxes.sides[boxes.first[index] + examples["number"][order]],
            examples["probabilities"][order],
        )
        read = ~np.isin(boxes.truth.keys, keys[examples["unread"]])
        rows = {name: getattr(boxes.truth, name)[read] for name in ("keys", "sides", "classes")}
        truth = boxes.truth._replace(**rows)
        precisions = detection.average_precisions(truth, found, self.score.scorer)
        per_class = [
            {"class": name, "average_precision": None if math.isnan(ap) else float(ap)}
            for name, ap in zip(source.class_names, precisions, strict=True)
        ]
        classes = range(self.classes) if truth.scored is None else truth.scored
        return Results(
            detection.mean_ap(precisions, truth.groups),
            {"per_class.csv": per_class},
            {"detections.csv": detection.detections_csv(found, classes)},
        )

    def show_step(self, state: TrainState, batch: Batch) -> dict[str, PyTree]:
        """Boxes, their classes and the probability of each class."""
        names = ("boxes", "box_valid", "box_classes")
        probabilities = jax.nn.sigmoid(self._logits(state, batch))
        return {"probabilities": probabilities, **{name: batch[name] for name in names}}

    def draw(
        self, video: np.ndarray, outputs: Mapping[str, PyTree], class_names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """The key frames with their boxes, the likeliest classes of each, and the true ones."""
        return pictures.draw_boxes(
            video,
            outputs["boxes"],
            outputs["box_valid"],
            outputs["probabilities"],
            outputs["box_classes"],
            class_names,
        )

    def _logits(self, state: TrainState, batch: Batch) -> Float[Array, "b n classes"]:
        clips = self.normalise(batch["video"])
        return steps.forward(self.model, state.evaluated, clips, batch["boxes"])


def mirrored(boxes: Float[Array, "b n 4"], width: int) -> Float[Array, "b n 4"]:
    """Boxes of a frame of `width` pixels that is flipped from left to right."""
    left, top, right, bottom = jnp.moveaxis(boxes, -1, 0)
    return jnp.stack([width - 1 - right, top, width - 1 - left, bottom], -1)
