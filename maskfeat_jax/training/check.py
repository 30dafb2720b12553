"""Checks a recipe without its data, and without the devices that it will run on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import input_pipeline
from maskfeat_jax import sharding
from maskfeat_jax.models.probes import ENCODER
from maskfeat_jax.sections import Reader, Section, arguments, flatten, named
from maskfeat_jax.targets import TARGETS
from maskfeat_jax.training.build import (
    read_common,
    read_data,
    read_eval_data,
    read_init_from,
    read_rule,
    read_task,
    task_for,
)


def check(recipe: Section, later: Collection[str] = ()) -> None:
    """Finds the problems of a recipe that show before its data is there.

    Args:
      recipe: see `build`.
      later: work directories of runs that will be made before this one starts.

    Raises:
      RecipeError: lists all problems that were found.
    """
    later = {f'"{path}"' for path in later}  # as `flatten` writes them
    target = recipe.get("target")
    teacher_comes_later = bool(later & set(flatten(target).values()))
    reader = _WithoutData(
        {**recipe, "mesh": {}, **({"target": {"name": "pixels"}} if teacher_comes_later else {})}
    )
    problems = reader.problems
    task_class, trains = read_task(reader)
    reads_data = trains or task_class.needs_data
    common = read_common(reader, trains)
    problems.attempt(arguments, "mesh", sharding.create_mesh, recipe.get("mesh") or {}, {})
    if teacher_comes_later:
        with problems.gather():
            name, rest = named("target", TARGETS, target)
            arguments("target", TARGETS[name], rest, {"tubelet": None})
    data = problems.attempt(read_data, reader) if reads_data else None
    eval_data = problems.attempt(read_eval_data, reader)
    task = task_for(task_class, reader, common.eval_view)
    problems.attempt(read_rule, reader, trains)
    init_from = problems.attempt(read_init_from, reader, task_class, trains)
    problems.stop()

    if not init_from.path and (not trains or set(ENCODER) <= set(task.model.frozen)):
        problems.append(
            "model.init_from: missing; set it to the run or checkpoint to evaluate or probe"
        )
    comes_later = f'"{init_from.path}"' in later
    if init_from.path and not comes_later and not Path(init_from.path).exists():
        problems.append(f"model.init_from={init_from.path!r}: no such file or directory")
    if not trains and eval_data is None:
        problems.append("eval_data.name: missing; set the dataset to evaluate on")
    if reads_data and data is None:
        problems.append("data.name: missing; set the dataset to train on")
    problems.stop()


class _WithoutData(Reader):
    """Checks the keys of a dataset, but does not open it."""

    def choose(
        self,
        where: str,
        table: Mapping[str, Callable],
        kind: type = object,
        section: Any = None,
        **given: Any,
    ) -> Any:
        """As `Reader.choose`; of a dataset the class."""
        if kind is not input_pipeline.Source:
            return super().choose(where, table, kind, section, **given)
        name, rest = named(where, table, self[where] if section is None else section)
        arguments(where, table[name], rest, given)
        return table[name]
