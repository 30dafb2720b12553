"""A model with its parameters, whatever it was saved as."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn

from maskfeat_jax.augment import Normalise
from maskfeat_jax.checkpoints.checkpointer import load_params
from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.sections import Problems, Section, call
from maskfeat_jax.tasks import task_of
from maskfeat_jax.workdir.workdir import read_recipe

Params = Any  # nested dict of arrays


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model with its parameters.

    Attributes:
      model: a Flax module of `MODELS`.
      params: its parameters, numpy arrays in nested dictionaries.
      clip: frames, height and width of the clips it is meant for.
      normalise: of their pixels.
      recipe: the sections of a recipe that describe it: `model`, `head`, and for a run all others.
      origin: where it comes from, for people.
      class_names: of a classifier, where they are known.
      report: of the file that it was read from, if that was one of PyTorch.
    """

    model: nn.Module
    params: Params
    clip: Size3
    normalise: Normalise
    recipe: Mapping[str, Any]
    origin: str
    class_names: tuple[str, ...] | None = None
    report: Any = None


def workdir_of(path: str | os.PathLike[str]) -> Path:
    """The directory of a run: the path itself, or above its `checkpoints` or one of its steps."""
    path = Path(path)
    if any((path / name).exists() for name in ("checkpoints", "config.json")):
        return path
    return path.parent if path.name == "checkpoints" else path.parent.parent


def load_run(path: str | os.PathLike[str], *, ema: bool = True) -> Trained:
    """The newest good checkpoint of a work directory, or the one of its steps that is named.

    Args:
      path: of the work directory or the step.
      ema: take the moving average of the parameters where there is one.

    Raises:
      CheckpointError, WorkdirError: it cannot be read.
      RecipeError: its recipe does not describe a model.
    """
    workdir = workdir_of(path)
    recipe = read_recipe(workdir)
    view: Section = recipe["eval_view"]
    clip = (view.get("frames", 1), view["size"], view["size"])
    problems = Problems()
    task = task_of(recipe).from_recipe(recipe, clip, problems)
    problems.stop()
    assert task is not None
    weights = load_params(path)
    return Trained(
        model=task.model,
        params=weights.evaluated if ema else weights.params,
        clip=clip,
        normalise=call("normalise", Normalise, recipe["normalise"]),
        recipe=recipe,
        origin=f"{workdir}, step {weights.step}",
        class_names=_class_names(workdir / "per_class.csv", getattr(task, "classes", 0)),
    )


def _class_names(path: Path, classes: int) -> tuple[str, ...] | None:
    """Names in the table of an evaluation, if there is one of as many classes."""
    if not path.exists():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        names = tuple(row["class"] for row in csv.DictReader(file))
    return names if len(names) == classes else None
