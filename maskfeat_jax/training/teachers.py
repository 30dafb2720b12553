"""Teachers, the frozen networks of targets: what their files say, and their weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from maskfeat_jax import convert
from maskfeat_jax.checkpoints.storage import CheckpointError
from maskfeat_jax.sections import RecipeError, Section, arguments, named
from maskfeat_jax.targets import TARGETS, Dvae, Features, PseudoLabel, Sum, Target
from maskfeat_jax.tasks import Task
from maskfeat_jax.tasks.pretrain import Pretrain
from maskfeat_jax.training import dvae_files, encoder_files
from maskfeat_jax.typing import PyTree


class Files(NamedTuple):
    """How the teacher's file of a kind of target is read.

    Attributes:
      describe: keys of the target's section that `file` decides, from that section; raises
        ValueError or OSError for a file that does not fit.
      load: weights as numpy arrays, in the shapes of `Target.teacher`.
    """

    describe: Callable[[Section], Section]
    load: Callable[[Any], PyTree]


FILES: dict[type[Target], Files] = {
    Dvae: Files(dvae_files.describe, dvae_files.load),
    Features: Files(encoder_files.describe, encoder_files.load),
    PseudoLabel: Files(encoder_files.describe_classifier, encoder_files.load),
}


def with_teachers(recipe: Section) -> Section:
    """A recipe whose section `target` has what its teacher's file says.

    Raises:
      RecipeError: the file does not exist or does not fit.
    """
    if not isinstance(recipe.get("target"), Mapping):
        return recipe
    return {**recipe, "target": _described("target", recipe["target"])}


def check_files(task: Task) -> None:
    """Raises RecipeError if the target of a task needs a teacher, but has no file."""
    if isinstance(task, Pretrain):
        _check("target", task.target)


def teacher_weights(task: Task) -> PyTree:
    """Weights as numpy arrays, in the shapes of `Task.teacher`.

    Raises:
      RecipeError: a file has gone, or has other contents.
    """
    return _weights("target", task.target) if isinstance(task, Pretrain) else ()


def _check(where: str, target: Target) -> None:
    for name, part in _parts(target).items():
        _check(f"{where}.parts.{name}", part)
    if type(target) in FILES and target.teacher and not getattr(target, "file", ""):
        raise RecipeError(f"{where}.file: missing; set it to the weights of the teacher")


def _weights(where: str, target: Any) -> PyTree:
    if parts := _parts(target):
        return {name: _weights(f"{where}.parts.{name}", part) for name, part in parts.items()}
    if not target.teacher:
        return ()
    with _naming(where, target.file):
        _check_contents(target.file, target.sha256)
        return FILES[type(target)].load(target)


@contextlib.contextmanager
def _naming(where: str, file: str) -> Iterator[None]:
    """Errors in this context name the file."""
    try:
        yield
    except (CheckpointError, ValueError, OSError) as error:
        raise RecipeError(f"{where}.file={file!r}: {error}") from error


def _check_contents(file: str, expected: str) -> str:
    """The SHA-256 of a file; ValueError if another one is expected."""
    found = convert.sha256(file)
    if expected not in ("", found):
        raise ValueError(
            f"it has the SHA-256 {found}, but sha256 is {expected}; give the file that has it, or "
            "remove sha256"
        )
    return found


def _described(where: str, section: Section) -> Section:
    parts = section.get("parts")
    if isinstance(parts, Mapping):
        own = {name: _part(f"{where}.parts.{name}", name, part) for name, part in parts.items()}
        return {**section, "parts": own}
    name, rest = named(where, TARGETS, section)
    if TARGETS[name] not in FILES or not rest.get("file"):
        return section
    given = arguments(where, TARGETS[name], rest, {"tubelet": None})  # of the right types
    with _naming(where, given["file"]):
        digits = _check_contents(given["file"], given["sha256"])
        return {**section, **FILES[TARGETS[name]].describe(section), "sha256": digits}


def _part(where: str, name: str, part: Any) -> Any:
    return _described(where, {"name": name, **part}) if isinstance(part, Mapping) else part


def _parts(target: Target) -> Mapping[str, Target]:
    return target.parts if isinstance(target, Sum) else {}
