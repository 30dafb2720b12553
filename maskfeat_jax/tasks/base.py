"""The base class of tasks."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from maskfeat_jax.augment import Augment, Normalise
from maskfeat_jax.models import MODELS, VARIANTS
from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.optim import Optimizer
from maskfeat_jax.sections import Reader, RecipeError, call, member
from maskfeat_jax.state import TrainState
from maskfeat_jax.steps import Batch, Metrics
from maskfeat_jax.typing import PyTree

# Of the section `model`, not of its encoder.
INIT_KEYS = ("init_from", "init_parts", "init_resize", "init_classes")
Columns = Mapping[str, tuple[tuple[int, ...], Any]]  # shape and dtype of each row, by name
TRAINING_SECTIONS = ("view", "augment", "optim")  # of the recipes of tasks that train


class Results(NamedTuple):
    """What an evaluation found."""

    metrics: dict[str, float]
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = {}  # rows of detailed tables, by file name
    texts: Mapping[str, Iterable[str]] = {}  # lines of other files, by file name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(abc.ABC):
    """What is done with a model: steps, checks, data needs, pictures.

    Attributes:
      heads: keys of `MODELS` that the task supports.
      sections: sections of the recipe that it reads in addition to those of every task.
      learns: whether it trains the model, or only evaluates it.
      needs_data: whether evaluation needs the training data, see `with_data`.
      any_frame: whether it evaluates frames of any height and width.
      metric: the metric that matters most.
      init_parts: top-level keys of the parameters to take from the checkpoint of
        `model.init_from`, if the recipe has no `model.init_parts`.
      model: the encoder with its head.
      normalise: normalisation of pixels.
      clip: frames, height and width of the model's clips.
      seed: of masks, augmentation, drop path and dropout.
      augment: augmentation of training clips.
    """

    heads: ClassVar[tuple[str, ...]]
    sections: ClassVar[tuple[str, ...]]
    learns: ClassVar[bool] = True
    needs_data: ClassVar[bool] = False
    any_frame: ClassVar[bool] = False
    metric: ClassVar[str]
    init_parts: ClassVar[tuple[str, ...]] = ("encoder",)

    model: nn.Module
    normalise: Normalise
    clip: Size3
    seed: int
    augment: Augment = dataclasses.field(default_factory=Augment)

    @property
    def classes(self) -> int:
        """Number of classes that the model predicts; 0 if it predicts something else."""
        return 0

    @property
    def columns(self) -> Columns:
        """Arrays of a batch that only this task needs."""
        return {}

    @property
    def teacher(self) -> PyTree:
        """Shapes and dtypes of the frozen weights in the state, see `targets.Target.teacher`."""
        return ()

    @property
    def teacher_products(self) -> int:
        """Multiply-adds per clip of the networks of `teacher`."""
        return 0

    @classmethod
    @abc.abstractmethod
    def from_recipe(cls, reader: Reader, clip: Size3) -> Task | None:
        """The task; None after recording the problems of the recipe."""

    @abc.abstractmethod
    def init(self, key: jax.Array) -> Any:
        """Fresh parameters."""

    def train_step(
        self, state: TrainState, batch: Batch, *, optimizer: Optimizer, accumulate: int = 1
    ) -> tuple[TrainState, Metrics]:
        """One update: a pure function. The batch is computed in `accumulate` equal slices."""
        raise NotImplementedError(f"{type(self).__name__} trains nothing")

    @abc.abstractmethod
    def eval_step(
        self, state: TrainState, batch: Batch, *, views: int = 1
    ) -> tuple[Metrics, Metrics]:
        """Evaluates a batch of examples with `views` rows each.

        Returns:
          Sums over the examples, with their number as `examples`; and arrays by example, if
          `results` needs them.
        """

    def kept(self, by_example: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """What `results` needs of the arrays by example of a batch, on the host."""
        return by_example

    @abc.abstractmethod
    def results(self, sums: Mapping[str, Any], examples: Mapping[str, Any], source: Any) -> Results:
        """Metrics and tables of a dataset.

        Args:
          sums: over the dataset, see `eval_step`.
          examples: what `kept` returned of its batches, joined, in its order.
          source: the dataset.
        """

    @abc.abstractmethod
    def show_step(self, state: TrainState, batch: Batch) -> dict[str, PyTree]:
        """Outputs of the model that `draw` needs, for the clips `video` of a batch."""

    @abc.abstractmethod
    def draw(
        self, video: np.ndarray, outputs: Mapping[str, PyTree], class_names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Pictures of clips and the outputs of `show_step` for them, by name.

        uint8 `(height, width, 3)`, or `(frames, height, width, 3)` for an animation.
        """

    def check_labels(self, where: str, source: Any) -> None:  # noqa: B027 (any do)
        """Raises RecipeError if the labels of the dataset of the section `where` do not fit."""

    def check_batch(self, batch_size: int) -> None:  # noqa: B027 (any do)
        """Raises RecipeError if the task cannot be trained with batches of this size."""

    def with_data(self, params: Any, batches: Iterator[Batch], *, views: int, mesh: Mesh) -> Any:
        """Parameters of the state to evaluate: those of the model, and data of the training set.

        Args:
          params: on the devices.
          batches: one pass over the training data, with the views of evaluation, on the devices.
          views: rows of each example.
          mesh: the devices.
        """
        return params


def encoder_of(reader: Reader) -> nn.Module:
    """The encoder of the section `model`: a variant with fields overridden."""
    fields = {k: v for k, v in reader["model"].items() if k not in INIT_KEYS}
    name = fields.pop("encoder", "")
    family, sizes = member("model.encoder", VARIANTS, name)
    reader.note("model", {"encoder": name})
    return reader.call("model", family, {**sizes, **fields}, more=("encoder", *INIT_KEYS))


def model_of(reader: Reader, heads: Sequence[str], clip: Size3) -> nn.Module | None:
    """An encoder with a head that needs no more; None after recording the problems."""
    encoder = model = None
    with reader.problems.gather():
        encoder = encoder_of(reader)
        call("view, eval_view and model.tubelet", encoder.grid, {}, clip=clip)
    with reader.problems.gather():
        head_name(reader, heads)
        model = encoder and reader.choose("head", MODELS, encoder=encoder)
    return model


def head_name(reader: Reader, heads: Sequence[str]) -> str:
    """The head of a recipe, checked to be one of those that the task supports."""
    name = reader["head"].get("name", "")
    member("head.name", MODELS, name)
    if name not in heads:
        raise RecipeError(
            f"head.name={name!r} does not fit task={reader['task']!r}, which takes "
            + " or ".join(heads)
        )
    return name


def normalise_and_augment(reader: Reader) -> dict[str, Any]:
    """The arguments `normalise` and `augment` of a task."""
    return {
        "normalise": reader.call("normalise", Normalise),
        "augment": reader.call("augment", Augment),
    }
