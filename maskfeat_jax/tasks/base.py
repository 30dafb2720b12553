"""What tasks have in common."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from maskfeat_jax.augment import Augment, Normalise
from maskfeat_jax.models import MODELS, VARIANTS
from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.optim import Optimizer
from maskfeat_jax.sections import Reader, RecipeError, member
from maskfeat_jax.state import TrainState
from maskfeat_jax.steps import Batch, Metrics
from maskfeat_jax.typing import Array

LEARNING = ("view", "augment", "optim")  # sections of the recipes of tasks that learn


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(abc.ABC):
    """What is done with a model: its steps, its checks, the data it needs, its pictures.

    Attributes:
      heads: keys of `MODELS` that it works with.
      sections: of the recipe that it reads besides those that every task does.
      learns: whether it trains the model, or only evaluates one.
      needs_data: whether evaluation needs the training data, see `with_data`.
      init_parts: top-level parameters it takes of the checkpoint it starts from, where the recipe
        does not say.
      model: the encoder with its head.
      normalise: of pixels.
      clip: frames, height and width of the clips that the model sees.
      seed: of masks, augmentation and what is dropped.
      augment: of the clips that it learns from.
    """

    heads: ClassVar[tuple[str, ...]]
    sections: ClassVar[tuple[str, ...]]
    learns: ClassVar[bool] = True
    needs_data: ClassVar[bool] = False
    init_parts: ClassVar[tuple[str, ...]] = ("encoder",)

    model: nn.Module
    normalise: Normalise
    clip: Size3
    seed: int
    augment: Augment = dataclasses.field(default_factory=Augment)

    @classmethod
    @abc.abstractmethod
    def from_recipe(cls, reader: Reader, clip: Size3) -> Task | None:
        """The task, or None after noting what is wrong with the recipe."""

    @abc.abstractmethod
    def init(self, key: jax.Array) -> Any:
        """Fresh parameters."""

    def train_step(
        self, state: TrainState, batch: Batch, *, optimizer: Optimizer, accumulate: int = 1
    ) -> tuple[TrainState, Metrics]:
        """One update: a pure function. The batch is computed in `accumulate` equal parts."""
        raise NotImplementedError(f"{type(self).__name__} trains nothing")

    @abc.abstractmethod
    def eval_step(self, params: Any, batch: Batch, *, views: int = 1) -> Metrics:
        """Sums over a batch of examples with `views` rows each, `examples` among them."""

    @abc.abstractmethod
    def summary(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """Metrics from sums over a dataset."""

    def table(self, sums: Mapping[str, Any], class_names: Sequence[str]) -> list[Mapping[str, Any]]:
        """Rows of a table of details from sums over a dataset; none where there are no details."""
        return []

    @abc.abstractmethod
    def show_step(self, params: Any, video: Array) -> dict[str, Array]:
        """What `draw` needs of the model for uint8 clips `(b, t, h, w, 3)`."""

    @abc.abstractmethod
    def draw(
        self, video: np.ndarray, shown: Mapping[str, np.ndarray], class_names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Pictures of what the model does with some clips, by name.

        uint8 `(height, width, 3)`, or with a leading axis of frames what moves.
        """

    def check_labels(self, class_names: tuple[str, ...] | None) -> None:  # noqa: B027 (any do)
        """Raises RecipeError where the labels of the data do not fit; None: there are none."""

    def check_batch(self, batch_size: int) -> None:  # noqa: B027 (any do)
        """Raises RecipeError where batches of this size cannot be trained on."""

    def with_data(self, params: Any, batches: Iterator[Batch], *, views: int, mesh: Mesh) -> Any:
        """What is evaluated: parameters, and what the task needs to know of the training data.

        Args:
          params: on the devices.
          batches: one pass over the training data as evaluation sees it, on the devices.
          views: rows of each example.
          mesh: the devices.
        """
        return params


def encoder_of(reader: Reader) -> nn.Module:
    """The encoder of the section `model`: a variant with some fields changed."""
    fields = {k: v for k, v in reader["model"].items() if not k.startswith("init_")}
    name = fields.pop("encoder", "")
    family, sizes = member("model.encoder", VARIANTS, name)
    reader.note("model", {"encoder": name})
    return reader.call("model", family, {**sizes, **fields})


def head_name(reader: Reader, heads: Sequence[str]) -> str:
    """The head of a recipe, which must be one of those that the task works with."""
    name = reader["head"].get("name", "")
    member("head.name", MODELS, name)
    if name not in heads:
        raise RecipeError(
            f"head.name={name!r} is not for task={reader['task']!r}, which takes "
            + " or ".join(heads)
        )
    return name


def normalise_and_augment(reader: Reader) -> dict[str, Any]:
    """`normalise` and `augment`: what is done to clips before a model sees them in training."""
    return {
        "normalise": reader.call("normalise", Normalise),
        "augment": reader.call("augment", Augment),
    }
