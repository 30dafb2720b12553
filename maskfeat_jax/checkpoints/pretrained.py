"""Models and weights out of checkpoints of this package, and into them.

What is read is a run (a work directory with its recipe, or one of its steps), or weights that were
imported: one step with a description, `maskfeat_jax.json`, in the place of a recipe. Nothing is
moved or changed by reading.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from maskfeat_jax.augment import Normalise
from maskfeat_jax.checkpoints import manifest
from maskfeat_jax.checkpoints.checkpointer import Checkpoints, read, verified
from maskfeat_jax.checkpoints.description import model_of, sections_of
from maskfeat_jax.checkpoints.storage import CheckpointError, Storage
from maskfeat_jax.checkpoints.trees import nest
from maskfeat_jax.distributed.collectives import on_first_process
from maskfeat_jax.files import write_atomically
from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.sections import Problems, Section, call
from maskfeat_jax.tasks import task_of
from maskfeat_jax.workdir.workdir import read_recipe

FILE = "maskfeat_jax.json"
FORMAT = 1

Params = Any  # nested dict of arrays


class DescriptionError(ValueError):
    """The description of imported weights cannot be used; names the file."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """Parameters read from a checkpoint, as numpy arrays in nested dictionaries.

    Attributes:
      step: number of updates behind them.
      params: the parameters.
      ema: their moving average, or None if the run kept none.
      facts: what was stored with the step.
    """

    step: int
    params: dict[str, Any]
    ema: dict[str, Any] | None
    facts: dict[str, Any]

    @property
    def evaluated(self) -> dict[str, Any]:
        """The moving average where there is one, as in `TrainState`."""
        return self.params if self.ema is None else self.ema


@dataclasses.dataclass(frozen=True)
class Pretrained:
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


def is_ours(path: str | os.PathLike[str]) -> bool:
    """Whether it is a work directory, a directory of steps, or a step."""
    path = pathlib.Path(path)
    inside = (manifest.FILE, "checkpoints")
    steps = path.name == "checkpoints" and path.is_dir()
    return steps or any((path / name).exists() for name in inside)


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether it is a work directory, or one of its steps, of a run of this package."""
    return is_ours(path) and not (workdir_of(path) / FILE).exists()


def workdir_of(path: str | os.PathLike[str]) -> pathlib.Path:
    """The directory of a run: the path itself, or above its `checkpoints` or one of its steps."""
    path = pathlib.Path(path)
    if any((path / name).exists() for name in ("checkpoints", "config.json")):
        return path
    return path.parent if path.name == "checkpoints" else path.parent.parent


def load_params(path: str | os.PathLike[str]) -> Weights:
    """Reads the `params` and `ema` of a saved state and nothing else, on the host.

    Damaged steps that are passed over are warned of. All processes call it.

    Args:
      path: a work directory or its `checkpoints` (the newest good step is taken), or one step.

    Raises:
      CheckpointError: there is no checkpoint, it is damaged, or holds no `params`.
    """
    directory, level = pathlib.Path(path).absolute(), "full"
    if not (directory / manifest.FILE).exists():
        nested = directory / "checkpoints"
        storage = Storage(nested if nested.is_dir() else directory, level="full")
        newest = on_first_process(lambda: storage.newest_good(move=False) + 1) - 1
        for sentence in storage.messages:
            warnings.warn(sentence, stacklevel=2)
        if newest < 0:
            raise CheckpointError(
                f"{path} holds no checkpoint; expected a work directory with checkpoints/, or one "
                "of its steps"
            )
        directory, level = storage.directory / str(newest), "length"  # as it was just read
    body = verified(directory, None, level)
    named = {tuple(text.split("/")): leaf for text, leaf in body["leaves"].items()}
    wanted = {
        name: np.empty(leaf["shape"], jnp.dtype(leaf["dtype"]))
        for name, leaf in named.items()
        if name[0] in ("params", "ema")
    }
    if not any(name[0] == "params" for name in wanted):
        found = sorted({name[0] for name in named})
        raise CheckpointError(f"{directory} holds no params, only {', '.join(found)}")
    tree = nest(read(directory, wanted, partial=True))
    return Weights(body["step"], tree["params"], tree.get("ema"), body["facts"])


def load_pretrained(path: str | os.PathLike[str], *, ema: bool = True) -> Pretrained:
    """The model of a run or of imported weights.

    Args:
      path: that `is_ours`.
      ema: take the moving average of the parameters where there is one.

    Raises:
      CheckpointError, WorkdirError, RecipeError: see `load_run`.
      DescriptionError: that of imported weights cannot be used.
    """
    file = workdir_of(path) / FILE
    if not file.exists():
        return load_run(path, ema=ema)
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        return described(document, load_params(file.parent).evaluated, str(file.parent))
    except (KeyError, TypeError, ValueError) as error:
        raise DescriptionError(f"{file} cannot be used: {error!r}") from error


def load_run(path: str | os.PathLike[str], *, ema: bool = True) -> Pretrained:
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
    return Pretrained(
        model=task.model,
        params=weights.evaluated if ema else weights.params,
        clip=clip,
        normalise=call("normalise", Normalise, recipe["normalise"]),
        recipe=recipe,
        origin=f"{workdir}, step {weights.step}",
        class_names=_class_names(workdir / "per_class.csv", getattr(task, "classes", 0)),
    )


def save_params(folder: pathlib.Path, pretrained: Pretrained, layout: str) -> None:
    """Writes a checkpoint of this package: `checkpoints/0` and a description.

    Args:
      folder: an empty one.
      pretrained: the model.
      layout: of the file that it was read from.

    Raises:
      CheckpointError, OSError: it cannot be written.
    """
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(0, {"params": pretrained.params}, {"from": pretrained.origin})
    write_description(folder, pretrained, layout)


def write_description(
    folder: pathlib.Path,
    pretrained: Pretrained,
    layout: str,
    files: Sequence[pathlib.Path] = (),
    left_out: Sequence[str] = (),
) -> None:
    """Describes weights that have been written to a folder, in `maskfeat_jax.json`.

    Args:
      folder: of the files.
      pretrained: what they hold.
      layout: how they are named.
      files: whose SHA-256 is stored.
      left_out: what they do not hold of the original, a sentence each.
    """
    body = {
        "format": FORMAT,
        "layout": layout,
        "origin": pretrained.origin,
        **sections_of(pretrained.model),
        "clip": pretrained.clip,
        "normalise": dataclasses.asdict(pretrained.normalise),
        "class_names": pretrained.class_names,
        "recipe": pretrained.recipe,
        "left_out": list(left_out),
        "sha256": {path.relative_to(folder).as_posix(): manifest.sha256(path) for path in files},
    }
    write_atomically(folder / FILE, json.dumps(body, indent=2) + "\n")


def described(document: Mapping[str, Any], params: Params, origin: str) -> Pretrained:
    """A model as a document describes it.

    Raises:
      KeyError, TypeError, ValueError: the document is not one that `write_description` writes.
    """
    names = document["class_names"]
    frames, height, width = document["clip"]
    return Pretrained(
        model=model_of(document["model"], document["head"]),
        params=params,
        clip=(frames, height, width),
        normalise=Normalise(**{k: tuple(v) for k, v in document["normalise"].items()}),
        recipe=document["recipe"],
        origin=origin,
        class_names=names and tuple(names),
    )


def _class_names(path: pathlib.Path, classes: int) -> tuple[str, ...] | None:
    """Names in the table of an evaluation, if there is one of as many classes."""
    if not path.exists():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        names = tuple(row["class"] for row in csv.DictReader(file))
    return names if len(names) == classes else None
