"""Recipe -> experiment: joins the package and its input."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

import input_pipeline
from maskfeat_jax import sharding
from maskfeat_jax.models.probes import ENCODER
from maskfeat_jax.optim import OPTIMIZERS, Optimizer, Rule
from maskfeat_jax.sections import (
    Problems,
    RecipeError,
    Section,
    call,
    check_sections,
    choose,
    flatten,
    require_sections,
)
from maskfeat_jax.tasks import Task, task_of
from maskfeat_jax.train.experiment import Experiment
from maskfeat_jax.train.initial import InitFrom
from maskfeat_jax.train.settings import Input, Run
from maskfeat_jax.workdir.workdir import check_workdir, is_harmless

# Of every recipe; a task adds its own.
SECTIONS = (
    "seed",
    "task",
    "data",
    "eval_data",
    "eval_view",
    "input",
    "bad_inputs",
    "normalise",
    "model",
    "head",
    "mesh",
    "run",
)
SHOWN_CLIPS = 6  # in pictures
# Keys and sections that may change when a run is resumed: what is learned does not depend on them.
HARMLESS = (
    "data.path",
    "data.root",
    "eval_data.path",
    "eval_data.root",
    "input",
    "bad_inputs",
    "mesh",
    "run.log_every_steps",
    "run.keep_checkpoints",
    "run.verify_checkpoints",
    "run.allow_fresh_start",
    "run.checkpoint_every_epochs",
    "run.evaluate_every_epochs",
    "run.pictures_every_epochs",
    "run.max_nonfinite",
    "run.max_nonfinite_fraction",
    "run.grace_seconds",
    "run.hang_seconds",
    "run.hang_start_seconds",
)


def build(recipe: Section, workdir: Path) -> Experiment:
    """What a recipe describes.

    Raises:
      RecipeError: names everything that is wrong with the recipe, the data or the directory.
      BadInput: none of the first examples can be read.
    """
    problems = Problems()
    task_class, trains = kind_of(recipe, problems)
    problems.attempt(check_workdir, workdir, recipe, HARMLESS)

    # Each section by itself.
    listed = str(workdir / "bad_inputs.jsonl")
    mesh, run, host, view, eval_view, bad_inputs = sections_of(recipe, problems, listed)
    reads_data = trains or task_class.needs_data
    data = source_of("data", recipe, problems) if reads_data else None
    eval_data = source_of("eval_data", recipe, problems)
    task = task_for(task_class, recipe, eval_view, problems)
    rule = problems.attempt(choose, "optim", OPTIMIZERS, recipe["optim"]) if trains else None
    problems.stop()

    # What is missing.
    init_from = recipe["model"].get("init_from") or ""
    if not init_from and (not trains or set(ENCODER) <= set(task.model.frozen)):
        problems.append("model.init_from: name the run or checkpoint to evaluate or probe")
    if init_from and not Path(init_from).exists():
        problems.append(f"model.init_from={init_from!r}: no such file or directory")
    if not trains and eval_data is None:
        problems.append("eval_data.name: nothing to evaluate on")
    if reads_data and data is None:
        problems.append("data.name: nothing to learn from, or to compare with")
    problems.stop()

    # What does not go together.
    if run.batch_size % (sharding.row_shards(mesh) * run.accumulate):
        problems.append(
            f"run.batch_size={run.batch_size} is not divisible by {sharding.row_shards(mesh)} "
            f"devices x {run.accumulate} parts (run.accumulate)"
        )
    load = Loading(mesh, run.batch_size, recipe["seed"], host.workers or None, bad_inputs)
    training = testing = params = optimizer = None
    with problems.gather():
        if eval_data is not None:
            testing = load.whole_examples(eval_data, eval_view)
            task.check_labels(eval_data.class_names)
    with problems.gather():
        params = jax.eval_shape(task.init, jax.random.key(0))
        sharding.state_sharding(mesh, params)
    with problems.gather():
        if data is not None:
            training = load.whole_examples(data, eval_view) if view is None else load(data, view)
            task.check_labels(data.class_names)
            check_same_classes(data, eval_data)
    with problems.gather():
        if rule is not None and training is not None and params is not None:
            check_training(task, run, training)
            optimizer = optimizer_of(rule, run, task, params, training.steps_per_epoch)
    problems.stop()

    return Experiment(
        mesh=mesh,
        task=task,
        run=run,
        seed=recipe["seed"],
        training=training,
        testing=testing,
        shown=first_clips(testing or load.whole_examples(data, eval_view)),
        optimizer=optimizer,
        init_from=InitFrom(
            init_from,
            init_parts_of(recipe, task) if trains else None,
            bool(recipe["model"].get("init_resize")),
        ),
        on_bad=host.on_bad_in_evaluation,
        identity=identity_of(recipe),
    )


class Computation(NamedTuple):
    """What a training computes, without its data."""

    mesh: Mesh
    run: Run
    task: Task
    optimizer: Optimizer


def build_training(recipe: Section) -> Computation:
    """What a recipe computes; no data is looked for.

    The length of an epoch is not known then: learning rates are those of another run.

    Raises:
      RecipeError: names everything that is wrong with the recipe.
    """
    problems = Problems()
    task_class, trains = kind_of(recipe, problems)
    if not trains:
        raise RecipeError(f"task={recipe['task']!r} trains nothing; there is no step to look at")
    mesh, run, _, _, eval_view, _ = sections_of(recipe, problems)
    task = task_for(task_class, recipe, eval_view, problems)
    rule = problems.attempt(choose, "optim", OPTIMIZERS, recipe["optim"])
    problems.stop()
    with problems.gather():
        task.check_batch(run.batch_size)
        params = jax.eval_shape(task.init, jax.random.key(0))
        sharding.state_sharding(mesh, params)
        optimizer = optimizer_of(rule, run, task, params, steps_per_epoch=100)
    problems.stop()
    return Computation(mesh, run, task, optimizer)


def build_data(recipe: Section) -> tuple[dict[str, input_pipeline.Loader], str]:
    """Loaders of the sections `data` and `eval_data` that a recipe has, and `input.on_bad_…`.

    Raises:
      RecipeError: names everything that is wrong with these sections.
    """
    problems = Problems()
    kind_of(recipe, problems)
    mesh, run, host, view, eval_view, bad_inputs = sections_of(recipe, problems)
    data, eval_data = (source_of(where, recipe, problems) for where in ("data", "eval_data"))
    problems.stop()
    load = Loading(mesh, run.batch_size, recipe["seed"], host.workers or None, bad_inputs)
    loaders = {}
    with problems.gather():
        if data is not None:
            loaders["data"] = load(data, view) if view else load.whole_examples(data, eval_view)
    with problems.gather():
        if eval_data is not None:
            loaders["eval_data"] = load.whole_examples(eval_data, eval_view)
    problems.stop()
    return loaders, host.on_bad_in_evaluation


def kind_of(recipe: Section, problems: Problems) -> tuple[type[Task], bool]:
    """The task of a recipe, and whether something is to be trained; notes unknown sections.

    Raises:
      RecipeError: a section is missing, or there is no such task.
    """
    require_sections(recipe, SECTIONS)
    task_class = task_of(recipe)
    require_sections(recipe, task_class.sections)
    problems.attempt(check_sections, recipe, (*SECTIONS, *task_class.sections))
    return task_class, task_class.learns and recipe["task"] != "evaluate"


class Sections(NamedTuple):
    """What sections describe that need no other; `view` is None where nothing is trained."""

    mesh: Mesh
    run: Run
    host: Input
    view: input_pipeline.TrainView | None
    eval_view: input_pipeline.EvalView
    bad_inputs: input_pipeline.BadInputs


def sections_of(recipe: Section, problems: Problems, bad_list: str | None = None) -> Sections:
    """See `Sections`; None in the place of what is wrong, after noting it.

    Args:
      recipe: has all sections of its task.
      problems: takes what is wrong.
      bad_list: file that lists bad inputs.
    """
    view = None
    if "view" in recipe and recipe["task"] != "evaluate":
        view = problems.attempt(call, "view", input_pipeline.TrainView, recipe["view"])
    eval_view = problems.attempt(call, "eval_view", input_pipeline.EvalView, recipe["eval_view"])
    if view is not None and eval_view is not None and view.shape != eval_view.shape:
        problems.append(f"view gives {view.shape}, eval_view {eval_view.shape}")
    limits = {**recipe["bad_inputs"], **({"path": bad_list} if bad_list else {})}
    return Sections(
        mesh=problems.attempt(call, "mesh", sharding.create_mesh, recipe["mesh"]),
        run=problems.attempt(call, "run", Run, recipe["run"]),
        host=problems.attempt(call, "input", Input, recipe["input"]),
        view=view,
        eval_view=eval_view,
        bad_inputs=problems.attempt(call, "bad_inputs", input_pipeline.BadInputs, limits),
    )


def task_for(task_class: type[Task], recipe: Section, eval_view: Any, problems: Problems) -> Any:
    """The task on clips of a view; None after noting what is wrong with either."""
    if eval_view is None:
        return None
    return problems.attempt(task_class.from_recipe, recipe, eval_view.shape[:3], problems)


def source_of(where: str, recipe: Section, problems: Problems) -> Any:
    """The dataset of a section; None if it names none, or after noting what is wrong."""
    if not recipe[where]["name"]:
        return None
    return problems.attempt(choose, where, input_pipeline.DATASETS, recipe[where])


def optimizer_of(
    rule: Rule, run: Run, task: Task, params: Any, steps_per_epoch: float
) -> Optimizer:
    """The optimiser for some parameters and the length of the run."""
    return call(
        "optim",
        rule.optimizer,
        {},
        params=params,
        steps_per_epoch=steps_per_epoch,
        epochs=run.epochs,
        batch_size=run.batch_size,
        frozen=task.model.frozen,
    )


class Loading(NamedTuple):
    """How this process loads its share of each batch."""

    mesh: Mesh
    batch_size: int
    seed: int
    workers: int | None
    bad_inputs: input_pipeline.BadInputs

    def __call__(self, source: Any, view: Any) -> input_pipeline.Loader:
        """Batches to train on."""
        return self._loader(source, view, self.batch_size)

    def whole_examples(self, source: Any, view: Any) -> input_pipeline.Loader:
        """Batches of all views of each example, with the same number of rows on each device."""
        views = view.reads * view.clips_per_read
        unit = math.lcm(views, sharding.row_shards(self.mesh) * view.clips_per_read)
        return self._loader(source, view, max(1, self.batch_size // unit) * unit)

    def _loader(self, source: Any, view: Any, rows: int) -> input_pipeline.Loader:
        share, shares = sharding.batch_share(self.mesh)
        return input_pipeline.Loader(
            source,
            view,
            batch_size=rows,
            seed=self.seed,
            process_index=share,
            process_count=shares,
            workers=self.workers,
            bad_inputs=self.bad_inputs,
        )


def check_training(task: Task, run: Run, training: Any) -> None:
    """Raises RecipeError where a task cannot be trained on such batches of some data."""
    task.check_batch(run.batch_size)
    if task.augment.flip and not getattr(training.source, "flippable", True):
        raise RecipeError("augment.flip must be 0: mirroring changes the classes of data")
    if not training.steps_per_epoch:
        raise RecipeError(
            f"run.batch_size={run.batch_size} clips, but data has only "
            f"{training.source.num_examples} examples"
        )


def check_same_classes(data: Any, eval_data: Any) -> None:
    """Raises RecipeError where the same number stands for different classes."""
    names = [source.class_names for source in (data, eval_data) if source is not None]
    if len(names) == 2 and None not in names and tuple(names[0]) != tuple(names[1]):
        differ = next((a, b) for a, b in zip(*names, strict=False) if a != b)
        raise RecipeError(
            f"data and eval_data have different classes: {differ[0]!r} and {differ[1]!r}"
        )


def init_parts_of(recipe: Section, task: Task) -> tuple[str, ...]:
    """Top-level names of the parameters that are taken from `model.init_from`."""
    parts = recipe["model"].get("init_parts")
    if isinstance(parts, str):
        raise RecipeError(f"model.init_parts={parts!r} must be a tuple of names")
    return task.init_parts if parts is None else tuple(parts)


def first_clips(data: Any) -> np.ndarray:
    """The first readable clips, for pictures; the same in each process.

    Raises:
      BadInput: none of the first hundred examples can be read.
    """
    rows = [data.load(0, index) for index in range(min(SHOWN_CLIPS, data.source.num_examples))]
    if all(row.problem for row in rows):
        rows = [data.load(0, index) for index in range(min(100, data.source.num_examples))]
    readable = [row.video[0] for row in rows if not row.problem]
    if not readable:
        name, problem = data.source.name_of(0), rows[0].problem
        raise input_pipeline.BadInput(
            f"none of the first {len(rows)} examples can be read; {name}: {problem.reason}"
        )
    return np.stack(readable[:SHOWN_CLIPS])


def identity_of(recipe: Section) -> str:
    """SHA-256 of all of a recipe that matters to what is learned."""
    matters = {k: v for k, v in flatten(recipe).items() if not is_harmless(k, HARMLESS)}
    return hashlib.sha256(json.dumps(matters, sort_keys=True).encode()).hexdigest()
