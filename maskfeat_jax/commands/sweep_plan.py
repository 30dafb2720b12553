"""The recipe of a sweep -> its runs, each with a recipe and a work directory of its own."""

from __future__ import annotations

import dataclasses
import graphlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from maskfeat_jax.recipes import load
from maskfeat_jax.sections import (
    Problems,
    Reader,
    RecipeError,
    Section,
    call,
    member,
    nearest,
    shorten,
)
from maskfeat_jax.tasks import task_of
from maskfeat_jax.training.check import check

_NAME = re.compile(r"[\w.+-]*\w[\w.+-]*")  # a directory of this name can be made everywhere
_REFERENCE = re.compile(r"\{([^{}/]+)/([^{}/]+)\}")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage that every row goes through: a key of `stages`.

    Attributes:
      config: its recipe, as `--config` takes it.
      init_from: the stage whose run it starts from; in a row without that stage it starts from
        random parameters. Empty: it is the first.
      seeds: number of runs, with the seeds from 0; None for the `seeds` of the sweep. Seed k starts
        from seed k modulo their number of `init_from`.
      metrics: of the evaluation, for the tables; by default that which matters most to its task.
      changes: sections of its recipe that are other in the sweep.
    """

    config: str
    init_from: str = ""
    seeds: int | None = None
    metrics: tuple[str, ...] = ()
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.seeds is not None and self.seeds < 1:
            raise ValueError(f"seeds={self.seeds} must be 1 or more")


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A recipe of a sweep; each of its rows goes through each of its stages.

    A section in `common`, `changes` or a row changes the keys that it has of the section of the
    recipe; one with a key `name` replaces it.

    Attributes:
      stages: by name, see `Stage`.
      rows: in the order of the tables; each has a `name`, and by the name of a stage the sections
        that are other in this row. None leaves the stage out. The key `config` beside the sections
        is another recipe. A value `{row/stage}` stands for the work directory of that run.
      seeds: number of runs of a stage.
      common: sections that are other in all runs.
    """

    stages: dict[str, Any]
    rows: tuple[dict[str, Any], ...]
    seeds: int = 1
    common: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"seeds={self.seeds} must be 1 or more")
        if not self.rows or not self.stages:
            raise ValueError("stages and rows must not be empty")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
      row, stage, seed: which.
      order: of its stage among all.
      recipe: the complete recipe.
      workdir: its work directory.
      needs: work directories of the runs that must be complete before it starts.
      metrics: names of metrics of its evaluation, for the tables.
    """

    row: str
    stage: str
    seed: int
    order: int
    recipe: dict[str, Any]
    workdir: Path
    needs: tuple[Path, ...]
    metrics: tuple[str, ...]

    @property
    def name(self) -> str:
        """Row, stage and seed."""
        return f"{self.row}/{self.stage}_{self.seed}"


def plan(config: Section, workdir: Path) -> list[Run]:
    """The runs of a sweep: row by row, in each stage by stage.

    Args:
      config: see `Sweep`.
      workdir: directory of the sweep; nothing is read or written there.

    Raises:
      RecipeError: lists all problems of the sweep and of the recipes of its runs that show without
        data and devices.
    """
    problems = Problems()
    sweep = call("config", Sweep, config)
    stages = {}
    for name, section in sweep.stages.items():
        with problems.gather():
            _check_name("stages", name)
            stages[name] = call(f"stages.{name}", Stage, section)
    problems.stop()
    for name, stage in stages.items():
        if stage.init_from:
            problems.attempt(member, f"stages.{name}.init_from", stages, stage.init_from)
    rows: dict[str, dict[str, Any]] = {}
    for row in sweep.rows:
        with problems.gather():
            name, changes = _row(row, stages)
            if name in rows:
                raise RecipeError(f"rows: there are two of the name {name!r}")
            rows[name] = changes
    problems.stop()
    order = _sorted({name: [s.init_from] if s.init_from else [] for name, s in stages.items()})
    table = _Table(workdir, sweep, order, stages, rows)
    runs = [
        problems.attempt(table.run, row, stage, seed)
        for row in rows
        for stage in table.stages_of(row)
        for seed in range(table.seeds(stage))
    ]
    problems.stop()
    _check_order(runs)
    for run in runs:
        if run.seed == 0:  # the others differ in seeds only
            problems.attempt(_checked, run)
    problems.stop()
    return runs


@dataclasses.dataclass(frozen=True)
class _Table:
    """The parts of a sweep, from which its runs are made; `order` is that of the stages."""

    workdir: Path
    sweep: Sweep
    order: list[str]
    stages: Mapping[str, Stage]
    rows: Mapping[str, Mapping[str, Any]]

    def seeds(self, stage: str) -> int:
        return self.stages[stage].seeds or self.sweep.seeds

    def stages_of(self, row: str) -> list[str]:
        """Stages that the row has, each after the one that it starts from."""
        return [stage for stage in self.order if self.rows[row].get(stage, {}) is not None]

    def run(self, row: str, stage: str, seed: int) -> Run:
        """One run.

        Raises:
          RecipeError: there is no such recipe, or it has a wrong reference.
        """
        where, settings = f"rows.{row}.{stage}", self.stages[stage]
        changes = dict(self.rows[row].get(stage, {}))
        config = changes.pop("config", settings.config)
        if not isinstance(config, str):
            raise RecipeError(f"{where}.config={shorten(config)}: expected the name of a recipe")
        if "seed" in changes:
            raise RecipeError(f"{where}.seed: each run has its own; set `seeds`")
        try:
            recipe = load(config).to_dict()
        except LookupError as error:
            raise RecipeError(f"{where}: {error}") from error
        for change in (self.sweep.common, settings.changes, changes):
            recipe = _changed(recipe, change)
        recipe["seed"] = seed
        if settings.init_from in self.stages_of(row):
            start = f"{{{row}/{settings.init_from}}}"
            recipe = _changed(recipe, {"model": {"init_from": start}})
        needs: list[Path] = []

        def resolve(key: str, text: str) -> str:
            found = _REFERENCE.fullmatch(text)
            if found is None:
                return text
            path = self._directory(f"{where}.{key}={text!r}", found[1], found[2], seed)
            needs.append(path)
            return str(path)

        recipe = {key: _resolved(key, value, resolve) for key, value in recipe.items()}
        path = self._directory(where, row, stage, seed)
        return Run(
            row=row,
            stage=stage,
            seed=seed,
            order=self.order.index(stage),
            recipe=recipe,
            workdir=path,
            needs=tuple(needs),
            metrics=settings.metrics or (task_of(Reader(recipe)).metric,),
        )

    def _directory(self, where: str, row: str, stage: str, seed: int) -> Path:
        """Work directory of a run; that of a reference with fewer seeds is shared by some."""
        if row not in self.rows:
            raise RecipeError(f"{where}: there is no row {row!r}{nearest(row, self.rows)}")
        stages = self.stages_of(row)
        if stage not in stages:
            raise RecipeError(
                f"{where}: the row {row!r} has no stage {stage!r}{nearest(stage, stages)}"
            )
        return self.workdir / row / f"{stage}_{seed % self.seeds(stage)}"


def _row(row: Mapping[str, Any], stages: Mapping[str, Stage]) -> tuple[str, dict[str, Any]]:
    """Name of a row, and its changes by stage."""
    changes = dict(row)
    name = changes.pop("name", None)
    if name is None:
        raise RecipeError(f"rows: {shorten(row)} has no name")
    _check_name("rows", name)
    for stage, change in changes.items():
        if stage not in stages:
            raise RecipeError(f"rows.{name}.{stage}: no such stage{nearest(stage, stages)}")
        if change is not None and not isinstance(change, Mapping):
            raise RecipeError(
                f"rows.{name}.{stage}={shorten(change)}: expected sections, or None to leave the "
                "stage out"
            )
    return name, changes


def _check_name(where: str, name: Any) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RecipeError(
            f"{where}: {shorten(name)} names a directory, so it must be made of letters, digits, "
            "'_', '-', '+' and '.'"
        )


def _changed(recipe: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with other sections or keys of them, see `Sweep`."""
    result = dict(recipe)
    for key, value in changes.items():
        old = result.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping) and "name" not in value:
            value = {**old, **value}
        result[key] = value
    return result


def _resolved(key: str, value: Any, resolve: Callable[[str, str], str]) -> Any:
    """A value with each text in it replaced."""
    if isinstance(value, str):
        return resolve(key, value)
    if isinstance(value, Mapping):
        return {name: _resolved(f"{key}.{name}", each, resolve) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_resolved(key, each, resolve) for each in value)
    return value


def _check_order(runs: list[Run]) -> None:
    names = {run.workdir: run.name for run in runs}
    _sorted({run.name: [names[path] for path in run.needs] for run in runs})


def _sorted(graph: Mapping[str, list[str]]) -> list[str]:
    try:
        return list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        circle = " needs ".join(reversed(error.args[1]))
        raise RecipeError(f"these wait for each other: {circle}") from error


def _checked(run: Run) -> None:
    try:
        check(run.recipe, later={str(path) for path in run.needs})
    except RecipeError as error:
        raise RecipeError(f"rows.{run.row}.{run.stage}: {error}") from error
