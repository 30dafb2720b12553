"""What tasks have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import flax.linen as nn
import jax
import numpy as np

from maskfeat_jax import steps
from maskfeat_jax.augment import Augment, Normalise
from maskfeat_jax.models import MODELS, VARIANTS
from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.optim import Optimizer
from maskfeat_jax.sections import Problems, RecipeError, Section, call, member
from maskfeat_jax.state import TrainState
from maskfeat_jax.typing import Array

LEARNING = ("view", "augment", "optim")  # sections of the recipes of tasks that learn


@runtime_checkable
class Task(Protocol):
    """What the main program needs of a task.

    Attributes:
      heads: keys of `MODELS` that it works with.
      sections: of the recipe that it reads besides those that every task does.
      learns: whether it trains a model (see `Learner`), or only evaluates one.
      model: the encoder with its head.
    """

    heads: ClassVar[tuple[str, ...]]
    sections: ClassVar[tuple[str, ...]]
    learns: ClassVar[bool]

    @property
    def model(self) -> nn.Module:
        """See the class."""

    @property
    def clip(self) -> Size3:
        """Frames, height and width of the clips that the model sees."""

    @classmethod
    def from_recipe(cls, recipe: Section, clip: Size3, problems: Problems) -> Task | None:
        """The task, or None after noting what is wrong with the recipe."""

    def check_labels(self, class_names: tuple[str, ...] | None) -> None:
        """Raises RecipeError where the labels of the data do not fit; None: there are none."""

    def init(self, key: jax.Array) -> Any:
        """Fresh parameters."""

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


@runtime_checkable
class Learner(Task, Protocol):
    """A task that trains its model.

    Attributes:
      init_parts: what it takes of the checkpoint it starts from, where the recipe does not say.
      augment: of the clips it learns from.
    """

    init_parts: ClassVar[tuple[str, ...]]
    augment: Augment

    def check_batch(self, batch_size: int) -> None:
        """Raises RecipeError where batches of this size cannot be trained on."""

    def train_step(
        self, state: TrainState, batch: steps.Batch, *, optimizer: Optimizer, accumulate: int
    ) -> tuple[TrainState, steps.Metrics]:
        """One update."""


def encoder_of(recipe: Section) -> nn.Module:
    """The encoder of the section `model`: a variant with some fields changed."""
    fields = dict(recipe["model"])
    for key in ("init_from", "init_parts", "init_resize"):
        fields.pop(key, None)
    name = fields.pop("encoder", "")
    family, sizes = member("model.encoder", VARIANTS, name)
    return call("model", family, {**sizes, **fields})


def head_name(recipe: Section, heads: Sequence[str]) -> str:
    """The head of a recipe, which must be one of those that the task works with."""
    name = recipe["head"].get("name", "")
    member("head.name", MODELS, name)
    if name not in heads:
        raise RecipeError(
            f"head.name={name!r} is not for task={recipe['task']!r}, which takes "
            + " or ".join(heads)
        )
    return name


def on_device(recipe: Section) -> tuple[Normalise, Augment]:
    """What is done to clips before a model sees them in training."""
    normalise = call("normalise", Normalise, recipe["normalise"])
    return normalise, call("augment", Augment, recipe["augment"])
