"""Classification by the nearest neighbours in the space of a frozen encoder's features."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from maskfeat_jax import steps
from maskfeat_jax.augment import Normalise
from maskfeat_jax.ops.neighbours import nearest, unit, vote
from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.sections import Problems, RecipeError, Section, call
from maskfeat_jax.tasks.classify import Classify
from maskfeat_jax.typing import Array


@dataclasses.dataclass(frozen=True)
class Vote:
    """The section `knn`.

    Attributes:
      num_classes: number of classes.
      k: neighbours that vote.
      temperature: a neighbour votes with exp(cosine / temperature).
    """

    num_classes: int
    k: int = 20
    temperature: float = 0.07

    def __post_init__(self) -> None:
        if self.num_classes < 2 or self.k < 1 or self.temperature <= 0:
            raise ValueError(f"{self}: expected 2 classes or more, k of 1 or more, temperature > 0")


@dataclasses.dataclass(frozen=True)
class Knn(Classify):
    """k nearest neighbours; nothing is learnt.

    What is evaluated are parameters of the model (`model`) with the features of the training data
    (`bank`, `(parts, m, d)`) and their classes (`labels`, `(parts, m)`, -1 where there is none).
    """

    vote: Vote

    heads: ClassVar[tuple[str, ...]] = ("features",)
    sections: ClassVar[tuple[str, ...]] = ("knn",)
    learns: ClassVar[bool] = False

    @classmethod
    def from_recipe(cls, recipe: Section, clip: Size3, problems: Problems) -> Knn | None:
        """See `Task`."""
        normalise = rule = None
        model = cls.build_model(recipe, clip, problems)
        with problems.gather():
            normalise = call("normalise", Normalise, recipe["normalise"])
        with problems.gather():
            rule = call("knn", Vote, recipe["knn"])
        if problems or model is None:
            return None
        return cls(model, normalise, clip, recipe["seed"], rule)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.vote.num_classes

    def features_step(self, params: Any, batch: steps.Batch, *, views: int) -> dict[str, Array]:
        """Features of length 1, means over the views of each example; labels; which are valid."""
        valid = jnp.asarray(batch["valid"]).reshape(-1, views).all(1)
        labels = batch["label"][::views]
        return {"features": self._features(params, batch["video"], views), "label": labels} | {
            "valid": valid
        }

    def eval_step(self, params: Any, batch: steps.Batch, *, views: int) -> steps.Metrics:
        """See `Task`."""
        described = self.features_step(params["model"], batch, views=views)
        votes = self._votes(params, described["features"])
        # A class without a vote must not be a hit only because few classes have any.
        scores = jnp.where(votes > 0, votes, -jnp.inf)
        return steps.class_sums(scores, described["label"], described["valid"])

    def show_step(self, params: Any, video: Array) -> dict[str, Array]:
        """Votes for the classes."""
        return {"probabilities": self._votes(params, self._features(params["model"], video, 1))}

    def _features(self, params: Any, video: Array, views: int) -> Array:
        features = steps.forward(self.model, params, self.normalise(video))
        return unit(unit(features).reshape(-1, views, features.shape[-1]).mean(1))

    def _votes(self, params: Mapping[str, Any], features: Array) -> Array:
        likeness, labels = nearest(features, params["bank"], params["labels"], self.vote.k)
        return vote(likeness, labels, self.classes, self.vote.temperature)


def bank_of(
    found: Sequence[Mapping[str, np.ndarray]], parts: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels in equal parts, filled up with examples of class -1.

    Args:
      found: batches of `features` `(n, d)` and `label` `(n,)`.
      parts: number of parts.
      k: neighbours that will be asked for.

    Raises:
      RecipeError: there are fewer examples than that.
    """
    n = sum(len(batch["label"]) for batch in found)
    if n < k:
        raise RecipeError(f"knn.k={k}, but only {n} examples of data can be read")
    total = n + -n % parts
    features = np.zeros((total, found[0]["features"].shape[1]), found[0]["features"].dtype)
    labels = np.full(total, -1, np.int32)
    start = 0
    for batch in found:
        rows = slice(start, start + len(batch["label"]))
        features[rows], labels[rows] = batch["features"], batch["label"]
        start = rows.stop
    return features.reshape(parts, -1, features.shape[1]), labels.reshape(parts, -1)
