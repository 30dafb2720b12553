"""The Python interface: `load` a model, `build` an experiment, `train` it."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict

from maskfeat_jax import convert, recipes
from maskfeat_jax.commands.train import train
from maskfeat_jax.convert import Pretrained
from maskfeat_jax.extract.features import Features
from maskfeat_jax.models import BoxClassifier
from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.sections import Reader
from maskfeat_jax.state import TrainState
from maskfeat_jax.tasks import task_of
from maskfeat_jax.training.build import build as build_experiment
from maskfeat_jax.training.experiment import Experiment
from maskfeat_jax.training.teachers import teacher_weights
from maskfeat_jax.typing import Array

__all__ = ["Model", "build", "load", "model", "train"]


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A trained model, see `load`.

    Attributes:
      pretrained: network, parameters, and how its clips are normalised.
    """

    pretrained: Pretrained

    @property
    def clip(self) -> Size3:
        """Frames, height and width of the clips that it takes; an image has one frame."""
        return self.pretrained.clip

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Of a classifier, where they are known."""
        return self.pretrained.class_names

    def features(
        self, video: UInt8[np.ndarray, "b t h w 3"], *, per: str = "clip", pool: str = "mean"
    ) -> Float[Array, "b ..."]:
        """Features of the encoder, nothing masked, after the layer norm that belongs to them.

        For files on disk, more than fit in memory, see `python -m maskfeat_jax.extract`.

        Args:
          video: RGB clips of the size `clip`.
          per: "clip", "frame" or "token", which gives `(b, d)`, `(b, time, d)` or
            `(b, time, row, column, d)`; time, rows and columns are those of the tokens.
          pool: of features per clip: "mean" of the tokens, or the "class" token.

        Returns:
          float32, or float64 of a model in float64.

        Raises:
          ValueError: clips of another size or dtype; `per` or `pool` do not exist.
        """
        self._check(video)
        features, step = self._features(per, pool)
        return step(features.params, video)

    def draw(
        self,
        video: UInt8[np.ndarray, "b t h w 3"],
        boxes: Float[np.ndarray, "b n 4"] | None = None,
        *,
        seed: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Pictures of what the model of a run makes of clips.

        Pre-training: input, masked input, predicted and true features. Fine-tuning: the clips, each
        under its most probable class, or the boxes with theirs.

        Args:
          video: RGB clips of the size `clip`.
          boxes: left, top, right, bottom in pixels, for a classifier of boxes.
          seed: of the masks; None for that of the run.

        Returns:
          By name, uint8 `(height, width, 3)`, and for a model of videos `(frames, height, width,
          3)`.

        Raises:
          ValueError: clips of another size or dtype; boxes are missing, or the model takes none; it
            is not one of a run, or was exported without its head.
        """
        self._check(video)
        recipe = self.pretrained.recipe
        if "task" not in recipe:
            raise ValueError(f"{self.pretrained.origin} is no run, so there is no task to draw")
        scan = self.pretrained.model.encoder.scan
        # The run's devices may be others, and its blocks stacked since.
        model = {**recipe["model"], "attention": "auto", "scan": scan}
        seeds = {} if seed is None else {"seed": seed}
        reader = Reader({**recipe, "model": model, **seeds})
        task = task_of(reader).from_recipe(reader, self.clip)
        reader.problems.stop()
        assert task is not None
        if type(task.model) is not type(self.pretrained.model):
            raise ValueError(f"{self.pretrained.origin} holds the encoder alone: nothing to draw")
        state = TrainState.frozen(self.pretrained.params, teacher_weights(task))
        batch = {"video": video, **self._boxes(video, boxes)}
        shown = jax.device_get(jax.jit(task.show_step)(state, batch))
        names = self.class_names or [f"class {number}" for number in range(task.classes)]
        return task.draw(video, shown, names)

    def to_torch(self, layout: str) -> dict[str, np.ndarray]:
        """Parameters under the names and in the shapes of a PyTorch project.

        `convert.write` writes them to a folder, with what the project needs beside them.

        Args:
          layout: key of `convert.LAYOUTS`, such as "timm".

        Raises:
          ConvertError: the layout has no names for this model; says what hinders.
        """
        return convert.export(self.pretrained, layout).state

    def _check(self, video: Any) -> None:
        shape: tuple[int, ...] = getattr(video, "shape", ())
        dtype = getattr(video, "dtype", None)
        if dtype != np.uint8 or (*shape[1:],) != (*self.clip, 3) or not shape[0]:
            raise ValueError(
                f"expected uint8 clips (b, {', '.join(map(str, self.clip))}, 3), that is batch, "
                f"frames, height, width, RGB; got {dtype or type(video).__name__} {shape}"
            )

    def _boxes(self, video: np.ndarray, boxes: np.ndarray | None) -> dict[str, np.ndarray]:
        """The columns of boxes of a batch, all of which exist and whose classes are not known."""
        model = self.pretrained.model
        if not isinstance(model, BoxClassifier):
            if boxes is not None:
                raise ValueError(f"{self.pretrained.origin} is no classifier of boxes")
            return {}
        shape = () if boxes is None else np.shape(boxes)
        if len(shape) != 3 or (shape[0], shape[2]) != (len(video), 4):
            raise ValueError(
                f"{self.pretrained.origin} classifies boxes: expected boxes ({len(video)}, n, 4), "
                f"left, top, right, bottom in pixels; got {shape or 'none'}"
            )
        return {
            "boxes": np.asarray(boxes, np.float32),
            "box_valid": np.ones(shape[:2], bool),
            "box_classes": np.zeros((*shape[:2], model.num_classes), bool),
        }

    @functools.cached_property
    def _features(self) -> Callable[[str, str], Any]:
        @functools.cache
        def compiled(per: str, pool: str) -> tuple[Features, Any]:
            features = Features(self.pretrained, per, pool)
            return features, jax.jit(features)

        return compiled


def load(
    path: str | os.PathLike[str],
    layout: str | None = None,
    *,
    sections: Mapping[str, Any] | None = None,
    **hints: Any,
) -> Model:
    """A model with its parameters.

    Args:
      path: work directory of a run, one of its checkpoints, or a PyTorch file of any layout of
        `convert.LAYOUTS`. No pickle is executed.
      layout: of a PyTorch file, if it cannot be recognised.
      sections: of a run that was given objects, such as `{"target": target}`: the same objects.
      **hints: see `convert.load`.

    Raises:
      ConvertError: it is nothing of these; says what was expected.
      CheckpointError, WorkdirError, RecipeError: a checkpoint cannot be read.
    """
    return Model(convert.load(path, layout, sections=sections, **hints))


def model(experiment: Experiment, state: TrainState) -> Model:
    """The model of an experiment with the parameters of a state: what `load` gives after a run."""
    task = experiment.task
    return Model(
        Pretrained(
            model=task.model,
            params=jax.device_get(state.evaluated),
            clip=task.clip,
            normalise=task.normalise,
            recipe=experiment.recipe,
            origin=f"experiment, step {int(state.step)}",
            class_names=experiment.class_names,
        )
    )


def build(
    recipe: str | os.PathLike[str] | Mapping[str, Any] | ConfigDict,
    overrides: Mapping[str, Any] | None = None,
) -> Experiment:
    """The experiment that a recipe describes.

    Args:
      recipe: file, with its size if it has any (`"configs/mae_vit_in1k.py:l16"`); name of a recipe
        of this package; or sections.
      overrides: values by dotted key, as `--config.` on the command line; `data`, `eval_data`,
        `target` and `mask` may be objects, see `input_pipeline.Source`, `targets.Target` and
        `masking.Masker`.

    Raises:
      RecipeNotFound: there is no such recipe.
      LookupError: the recipe has no such size.
      RecipeError: names everything that is wrong with the recipe or the data.
      BadInput: none of the first examples can be read.
    """
    if isinstance(recipe, ConfigDict):
        config = recipe.copy_and_resolve_references()
    elif isinstance(recipe, Mapping):
        config = ConfigDict(dict(recipe))
    elif Path(recipe).is_dir():
        raise recipes.RecipeNotFound(
            f"{recipe} is a directory; build takes a recipe, and load the work directory of a run"
        )
    else:
        config = recipes.load(os.fspath(recipe))
    return build_experiment(recipes.override(config, overrides or {}).to_dict())
