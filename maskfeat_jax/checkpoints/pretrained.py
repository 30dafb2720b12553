"""Loads models and weights from checkpoints of this package, and saves imported weights.

A checkpoint is a run (a work directory with its recipe, or one of its steps), or imported weights:
one step with a description, `maskfeat_jax.json`, instead of a recipe. Loading moves and changes
nothing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn

from maskfeat_jax.augment import Normalise
from maskfeat_jax.checkpoints import manifest
from maskfeat_jax.checkpoints.checkpointer import Checkpoints, read, verified
from maskfeat_jax.checkpoints.description import model_of, sections_of
from maskfeat_jax.checkpoints.storage import CheckpointError, Storage
from maskfeat_jax.checkpoints.trees import empty, nest
from maskfeat_jax.distributed.collectives import on_first_process
from maskfeat_jax.files import write_atomically
from maskfeat_jax.models.layers import is_stacked
from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.sections import Reader, RecipeError, Section
from maskfeat_jax.tasks import task_of
from maskfeat_jax.workdir.workdir import read_recipe

FILE = "maskfeat_jax.json"
FORMAT = 1

Params = Any  # nested dictionaries of numpy arrays


class DescriptionError(ValueError):
    """The description of imported weights cannot be used; names the file."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """Parameters of a step, and their moving average if the run kept one."""

    step: int
    params: Params
    ema: Params | None
    class_names: tuple[str, ...] | None  # of a classifier

    @property
    def evaluated(self) -> Params:
        """The moving average if there is one, as in `TrainState`."""
        return self.params if self.ema is None else self.ema


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model with its parameters."""

    model: nn.Module  # of `MODELS`
    params: Params
    clip: Size3  # frames, height and width of its clips
    normalise: Normalise  # of their pixels
    recipe: Mapping[str, Any]  # sections that describe it: `model`, `head`, for a run all others
    origin: str  # its source, for messages
    class_names: tuple[str, ...] | None = None  # of a classifier, if known
    report: Any = None  # of the PyTorch file that it was read from, if it was one


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
    """Reads only the `params` and `ema` of a saved state, on the host.

    Warns of damaged steps that are skipped. All processes call it.

    Args:
      path: a work directory or its `checkpoints` (the newest good step is taken), or one step.

    Raises:
      CheckpointError: there is no checkpoint, it is damaged, or holds no `params`.
    """
    directory, level = _step_of(path, "full")
    body = verified(directory, None, level)
    kinds = {name: name.partition("/")[0] for name in body["leaves"]}
    if "params" not in kinds.values():
        found = sorted(set(kinds.values()))
        raise CheckpointError(f"{directory} holds no params, only {', '.join(found)}")
    expected = {n: x for n, x in body["leaves"].items() if kinds[n] in ("params", "ema")}
    tree = nest(read(directory, empty(expected), partial=True))
    return Weights(body["step"], tree["params"], tree.get("ema"), _class_names(body["facts"]))


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of the manifest of the step that `load_params` reads, without reading its arrays.

    See `load_params` for the path and the errors.
    """
    directory, _ = _step_of(path, "length")
    return manifest.sha256(directory / manifest.FILE)


def class_names_of(path: str | os.PathLike[str]) -> tuple[str, ...] | None:
    """Names of the classes of a saved classifier, without reading its arrays; None if unknown.

    See `load_params` for the path and the errors.
    """
    directory, level = _step_of(path, "length")
    return _class_names(verified(directory, None, level)["facts"])


def load_pretrained(
    path: str | os.PathLike[str], *, ema: bool = True, sections: Section | None = None
) -> Pretrained:
    """The model of a run or of imported weights.

    Args:
      path: that `is_ours`.
      ema: take the moving average of the parameters if there is one.
      sections: of the recipe of a run, in place of those in `config.json`: objects such as a target
        that the run was given in Python, since the file has only their names.

    Raises:
      CheckpointError, WorkdirError: it cannot be read.
      RecipeError: its recipe does not describe a model.
      DescriptionError: the description of imported weights cannot be used.
    """
    file = workdir_of(path) / FILE
    if not file.exists():
        return _load_run(path, ema, sections or {})
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        return described(document, load_params(file.parent).evaluated, str(file.parent))
    except (KeyError, TypeError, ValueError) as error:
        raise DescriptionError(f"{file} cannot be used: {error!r}") from error


def _step_of(path: str | os.PathLike[str], level: str) -> tuple[pathlib.Path, str]:
    """The directory of a step, the newest good one below a path, and what is left to verify."""
    directory = pathlib.Path(path).absolute()
    if (directory / manifest.FILE).exists():
        return directory, level
    nested = directory / "checkpoints"
    storage = Storage(nested if nested.is_dir() else directory, level=level)
    newest = on_first_process(lambda: storage.newest_good(move=False) + 1) - 1
    for sentence in storage.messages:
        warnings.warn(sentence, stacklevel=3)
    if newest < 0:
        raise CheckpointError(
            f"{path} holds no checkpoint; expected a work directory with checkpoints/, or one "
            "of its steps"
        )
    return storage.directory / str(newest), "length"  # as it was just read


def _load_run(path: str | os.PathLike[str], ema: bool, sections: Section) -> Pretrained:
    workdir = workdir_of(path)
    recipe = {**read_recipe(workdir), **sections}
    for where in ("mask", "target"):
        if isinstance(recipe.get(where), str):
            raise RecipeError(
                f"{workdir} was trained with an object, {where}={recipe[where]}; load it with "
                f"sections={{{where!r}: the same object}}"
            )
    reader = Reader(recipe)
    view = reader["eval_view"]
    if "size" not in view:
        raise RecipeError(f"{workdir / 'config.json'}: eval_view.size: missing")
    clip = (view.get("frames", 1), view["size"], view["size"])
    task = task_of(reader).from_recipe(reader, clip)
    reader.problems.stop()
    assert task is not None
    weights = load_params(path)
    params = weights.evaluated if ema else weights.params
    return Pretrained(
        model=_scanned_as(params, task.model),
        params=params,
        clip=clip,
        normalise=task.normalise,
        recipe=recipe,
        origin=f"{workdir}, step {weights.step}",
        class_names=weights.class_names,
    )


def save_params(folder: pathlib.Path, pretrained: Pretrained, layout: str) -> None:
    """Writes `checkpoints/0` and a description, with the layout it was read from, to a folder."""
    with Checkpoints(folder / "checkpoints") as checkpoints:
        facts = {"from": pretrained.origin, "class_names": pretrained.class_names}
        checkpoints.save(0, {"params": pretrained.params}, facts)
    write_description(folder, pretrained, layout)


def write_description(
    folder: pathlib.Path,
    pretrained: Pretrained,
    layout: str,
    files: Sequence[pathlib.Path] = (),
    left_out: Sequence[str] = (),
) -> None:
    """Describes files of weights in a folder, in `maskfeat_jax.json`, with their SHA-256.

    `left_out` has a sentence for each module or tensor that they do not contain.
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
    """The model of a description; KeyError, TypeError or ValueError if it is invalid."""
    frames, height, width = document["clip"]
    return Pretrained(
        model=_scanned_as(params, model_of(document["model"], document["head"])),
        params=params,
        clip=(frames, height, width),
        normalise=Normalise(**{k: tuple(v) for k, v in document["normalise"].items()}),
        recipe=document["recipe"],
        origin=origin,
        class_names=_class_names(document),
    )


def _scanned_as(params: Params, model: nn.Module) -> nn.Module:
    """The model, with blocks scanned if those of the parameters are stacked."""
    return model.clone(encoder=model.encoder.clone(scan=is_stacked(params)))


def _class_names(stored: Mapping[str, Any]) -> tuple[str, ...] | None:
    """`class_names` of the facts of a step, or of a description."""
    names = stored.get("class_names")
    return None if names is None else tuple(names)
