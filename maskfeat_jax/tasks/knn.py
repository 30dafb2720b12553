"""k-nearest-neighbour classification with the features of a frozen encoder."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from maskfeat_jax import sharding, steps
from maskfeat_jax.augment import Normalise
from maskfeat_jax.ops.neighbours import nearest, unit, vote
from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.sections import Reader, RecipeError
from maskfeat_jax.steps import Batch, Metrics
from maskfeat_jax.tasks.base import model_of
from maskfeat_jax.tasks.classify import Classify, best_classes, class_sums
from maskfeat_jax.typing import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Vote:
    """The section `knn`.

    Attributes:
      num_classes: number of classes.
      k: number of neighbours that vote.
      temperature: the weight of a neighbour is exp(cosine / temperature).
    """

    num_classes: int
    k: int = 20
    temperature: float = 0.07

    def __post_init__(self) -> None:
        if self.num_classes < 2 or self.k < 1 or self.temperature <= 0:
            raise ValueError(f"{self}: expected 2 classes or more, k of 1 or more, temperature > 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Knn(Classify):
    """k nearest neighbours; nothing is trained.

    `with_data` returns the parameters of the model (`model`) with the features of the training data
    (`bank`, `(devices, m, d)`) and their classes (`labels`, `(devices, m)`, -1 for padding).

    Attributes:
      vote: the section `knn`.
    """

    vote: Vote

    heads: ClassVar[tuple[str, ...]] = ("features",)
    classes_key: ClassVar[str] = "knn.num_classes"
    sections: ClassVar[tuple[str, ...]] = ("knn",)
    learns: ClassVar[bool] = False
    needs_data: ClassVar[bool] = True

    @classmethod
    def from_recipe(cls, reader: Reader, clip: Size3) -> Knn | None:
        """See `Task`."""
        normalise, rule, problems = None, None, reader.problems
        model = model_of(reader, cls.heads, clip)
        with problems.gather():
            normalise = reader.call("normalise", Normalise)
        with problems.gather():
            rule = reader.call("knn", Vote)
        if problems or model is None or normalise is None or rule is None:
            return None
        return cls(model=model, normalise=normalise, clip=clip, seed=reader["seed"], vote=rule)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.vote.num_classes

    def features_step(self, params: Any, batch: Batch, *, views: int = 1) -> dict[str, Array]:
        """Unit-length features of each example, averaged over its views; labels; validity."""
        valid = jnp.asarray(batch["valid"]).reshape(-1, views).all(1)
        features = self._features(params, batch["video"], views)
        return {"features": features, "label": batch["label"][::views], "valid": valid}

    def with_data(self, params: Any, batches: Iterator[Batch], *, views: int, mesh: Mesh) -> Any:
        """The parameters with the bank, which is sharded over all devices.

        Raises:
          RecipeError: there are fewer than `k` readable examples.
        """
        step = jax.jit(
            sharding.on_mesh(mesh, functools.partial(self.features_step, views=views)),
            out_shardings=sharding.replicated(mesh),
        )
        found: list[dict[str, np.ndarray]] = []
        for batch in batches:
            rows = jax.device_get(step(params, batch))
            found.append({name: rows[name][rows["valid"]] for name in ("features", "label")})
        bank, labels = bank_of(found, jax.device_count(), self.vote.k)
        sharded = sharding.batch_sharding(mesh)
        return {
            "model": params,
            "bank": jax.make_array_from_callback(bank.shape, sharded, bank.__getitem__),
            "labels": jax.make_array_from_callback(labels.shape, sharded, labels.__getitem__),
        }

    def eval_step(
        self, state: TrainState, batch: Batch, *, views: int = 1
    ) -> tuple[Metrics, Metrics]:
        """See `class_sums`; and `best_classes`, by share of the votes."""
        queries = self.features_step(state.params["model"], batch, views=views)
        votes = self._votes(state.params, queries["features"])
        # A class without votes must not be in the top 5 only because few classes have any.
        scores = jnp.where(votes > 0, votes, -jnp.inf)
        sums = class_sums(scores, queries["label"], queries["valid"])
        return sums, best_classes(votes, batch, queries["valid"])

    def show_step(self, state: TrainState, batch: Batch) -> dict[str, PyTree]:
        """Share of the votes of each class."""
        features = self._features(state.params["model"], batch["video"], 1)
        return {"probabilities": self._votes(state.params, features)}

    def _features(self, params: Any, video: Array, views: int) -> Array:
        features = steps.forward(self.model, params, self.normalise(video))
        return unit(unit(features).reshape(-1, views, features.shape[-1]).mean(1))

    def _votes(self, params: Mapping[str, Any], features: Array) -> Array:
        similarity, labels = nearest(features, params["bank"], params["labels"], self.vote.k)
        return vote(similarity, labels, self.classes, self.vote.temperature)


def bank_of(
    found: Sequence[Mapping[str, np.ndarray]], shards: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels in equal shards, padded with examples of class -1.

    Args:
      found: batches of `features` `(n, d)` and `label` `(n,)`.
      shards: number of shards.
      k: number of neighbours that will vote.

    Raises:
      RecipeError: there are fewer than `k` examples.
    """
    n = sum(len(batch["label"]) for batch in found)
    if n < k:
        raise RecipeError(f"knn.k={k}, but only {n} examples of data are readable")
    total = n + -n % shards
    features = np.zeros((total, found[0]["features"].shape[1]), found[0]["features"].dtype)
    labels = np.full(total, -1, np.int32)
    start = 0
    for batch in found:
        rows = slice(start, start + len(batch["label"]))
        features[rows], labels[rows] = batch["features"], batch["label"]
        start = rows.stop
    return features.reshape(shards, -1, features.shape[1]), labels.reshape(shards, -1)
