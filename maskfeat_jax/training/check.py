"""Checks a recipe without its data, and without the devices that it will run on."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from maskfeat_jax import sharding
from maskfeat_jax.sections import Reader, Section, arguments, flatten, named
from maskfeat_jax.targets import TARGETS
from maskfeat_jax.training.build import read_sections, read_task
from maskfeat_jax.training.teachers import check_files, with_teachers

_ANY_TARGET = {"name": "pixels"}


def check(recipe: Section, later: Collection[str] = ()) -> None:
    """Finds the problems of a recipe that show before its data is there.

    Args:
      recipe: see `build`.
      later: work directories that it names, and that other runs make before it starts.

    Raises:
      RecipeError: lists all problems that were found.
    """
    target = recipe.get("target", {})
    # The shape of a target may depend on the file of its teacher.
    known = set(map(json.dumps, later)).isdisjoint(flatten(target).values())
    read = with_teachers(recipe) if known else {**recipe, "target": _ANY_TARGET}
    reader = _WithoutData({**read, "mesh": {}})  # the mesh is that of other devices
    task_class, trains = read_task(reader)
    problems = reader.problems
    problems.attempt(arguments, "mesh", sharding.create_mesh, recipe.get("mesh") or {}, {})
    if not known:
        with problems.gather():
            name, rest = named("target", TARGETS, target)
            arguments("target", TARGETS[name], rest, {"tubelet": None})
    check_files(read_sections(reader, task_class, trains, later).task)


class _WithoutData(Reader):
    """Checks the keys of datasets, but does not open them."""

    def choose(
        self,
        where: str,
        table: Mapping[str, Callable],
        kind: type = object,
        section: Any = None,
        **given: Any,
    ) -> Any:
        """As `Reader.choose`; of a dataset the class."""
        if where not in ("data", "eval_data"):
            return super().choose(where, table, kind, section, **given)
        name, rest = named(where, table, self[where] if section is None else section)
        arguments(where, table[name], rest, given)
        return table[name]
