"""From a recipe to the parts of a run. The one place that knows package, recipes and input."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

import input_pipeline
from maskfeat_jax import sharding
from maskfeat_jax.models.probes import ENCODER
from maskfeat_jax.optim import OPTIMIZERS, Optimizer
from maskfeat_jax.sections import (
    Problems,
    RecipeError,
    Section,
    call,
    check_sections,
    choose,
    require_sections,
)
from maskfeat_jax.tasks import Task, task_of
from maskfeat_jax.train.experiment import SHOWN_CLIPS, Experiment
from maskfeat_jax.train.run import Run
from maskfeat_jax.workdir.workdir import check_workdir

# Of every recipe; a task adds its own.
SECTIONS: tuple[str, ...] = (
    "seed",
    "task",
    "data",
    "eval_data",
    "eval_view",
    "input",
    "bad_inputs",
)
SECTIONS += ("normalise", "model", "head", "mesh", "run")
# May change when a run goes on: nothing of what is learnt depends on them.
HARMLESS: tuple[str, ...] = (
    "data.path",
    "data.root",
    "eval_data.path",
    "eval_data.root",
    "input",
    "bad_inputs",
)
HARMLESS += ("mesh",)
HARMLESS += tuple(
    f"run.{name}"
    for name in (
        "log_every_steps",
        "keep_checkpoints",
        "verify_checkpoints",
        "allow_fresh_start",
        "checkpoint_every_epochs",
        "evaluate_every_epochs",
        "pictures_every_epochs",
        "max_nonfinite",
        "max_nonfinite_fraction",
        "grace_seconds",
        "hang_seconds",
        "hang_start_seconds",
    )
)


@dataclasses.dataclass(frozen=True)
class Input:
    """The section `input`: how the host works.

    Attributes:
      workers: threads that decode; 0 for one per core.
      on_bad_in_evaluation: "fail" stops at a file that cannot be read, "skip" leaves it out and
        the result shows how many were used.
    """

    workers: int = 0
    on_bad_in_evaluation: str = "fail"

    def __post_init__(self) -> None:
        if self.on_bad_in_evaluation not in ("fail", "skip"):
            raise ValueError("on_bad_in_evaluation must be 'fail' or 'skip'")


def build(recipe: Section, workdir: Path) -> Experiment:
    """The parts of a recipe.

    Raises:
      RecipeError: names everything that is wrong with the recipe, the data or the directory.
    """
    problems = Problems()
    task_class, learning = kind_of(recipe)
    with problems.gather():
        check_sections(recipe, (*SECTIONS, *task_class.sections))
    with problems.gather():
        check_workdir(workdir, recipe, HARMLESS)
    parts = settings(recipe, learning, problems)
    for where in ("data", "eval_data"):
        with problems.gather():
            unused = where == "data" and task_class.learns and not learning
            wanted = recipe[where]["name"] and not unused
            parts[where] = choose(where, input_pipeline.DATASETS, recipe[where]) if wanted else None
    add_task(recipe, parts, learning, problems)
    with problems.gather():
        limits = {**recipe["bad_inputs"], "path": str(workdir / "bad_inputs.jsonl")}
        parts["bad_inputs"] = call("bad_inputs", input_pipeline.BadInputs, limits)
    problems.stop()
    return assemble(recipe, parts, learning, problems)


def build_learner(recipe: Section) -> dict[str, Any]:
    """Of a recipe that learns `mesh`, `run`, `task` and `optimizer`; no data is looked for.

    The length of an epoch is not known then: learning rates are those of another run.

    Raises:
      RecipeError: names everything that is wrong with the recipe.
    """
    problems = Problems()
    _, learning = kind_of(recipe)
    if not learning:
        raise RecipeError(f"task={recipe['task']!r} trains nothing; there is no step to look at")
    parts = settings(recipe, learning, problems)
    add_task(recipe, parts, learning, problems)
    problems.stop()
    run = parts["run"]
    with problems.gather():
        parts["task"].check_batch(run.batch_size)
        params = jax.eval_shape(parts["task"].init, jax.random.key(0))
        sharding.state_sharding(parts["mesh"], params)
        parts["optimizer"] = optimizer_of(parts, params, steps_per_epoch=100)
    problems.stop()
    return parts


def build_data(recipe: Section) -> dict[str, Any]:
    """Loaders of the sections `data` and `eval_data`, None for what a recipe does not have.

    Also `on_bad`, see `Input`.

    Raises:
      RecipeError: names everything that is wrong with these sections.
    """
    problems = Problems()
    parts = settings(recipe, "view" in recipe, problems)
    loaders: dict[str, Any] = {}
    with problems.gather():
        parts["bad_inputs"] = call("bad_inputs", input_pipeline.BadInputs, recipe["bad_inputs"])
    for where in ("data", "eval_data"):
        with problems.gather():
            if recipe[where]["name"]:
                parts[where] = choose(where, input_pipeline.DATASETS, recipe[where])
                loaders[where] = loader(where, recipe, parts)
    problems.stop()
    return {**loaders, "on_bad": parts["input"].on_bad_in_evaluation}


def kind_of(recipe: Section) -> tuple[type[Task], bool]:
    """The task of a recipe that has all its sections, and whether it is to learn something."""
    require_sections(recipe, SECTIONS)
    task_class = task_of(recipe)
    require_sections(recipe, task_class.sections)
    return task_class, task_class.learns and recipe["task"] != "evaluate"


def settings(recipe: Section, learning: bool, problems: Problems) -> dict[str, Any]:
    """The parts that need no other."""
    calls: dict[str, Any] = {
        "mesh": sharding.create_mesh,
        "run": Run,
        "input": Input,
        "eval_view": input_pipeline.EvalView,
    }
    if learning:
        calls["view"] = input_pipeline.TrainView
    parts = {}
    for where, part in calls.items():
        with problems.gather():
            parts[where] = call(where, part, recipe[where])
    return parts


def add_task(recipe: Section, parts: dict[str, Any], learning: bool, problems: Problems) -> None:
    """Adds the task, and the rule of its optimiser if it learns."""
    with problems.gather():
        if learning:
            parts["optim"] = choose("optim", OPTIMIZERS, recipe["optim"])
    with problems.gather():
        if "eval_view" in parts:
            clip = parts["eval_view"].shape[:3]
            parts["task"] = task_of(recipe).from_recipe(recipe, clip, problems)


def optimizer_of(parts: dict[str, Any], params: Any, steps_per_epoch: float) -> Optimizer:
    """The optimiser for some parameters and the length of the run."""
    run = parts["run"]
    return call(
        "optim",
        parts["optim"].optimizer,
        {},
        params=params,
        steps_per_epoch=steps_per_epoch,
        epochs=run.epochs,
        batch_size=run.batch_size,
        frozen=parts["task"].model.frozen,
    )


def assemble(
    recipe: Section, parts: dict[str, Any], learning: bool, problems: Problems
) -> Experiment:
    """The second half of `build`: what needs several parts at once."""
    run, task = parts["run"], parts["task"]
    training = testing = optimizer = None
    init_from = recipe["model"].get("init_from", "")
    if not init_from and (not learning or set(ENCODER) <= set(task.model.frozen)):
        problems.append("model.init_from: name the run or checkpoint to evaluate or probe")
    if init_from and not Path(init_from).exists():
        problems.append(f"model.init_from={init_from!r}: no such file or directory")
    if not learning and parts["eval_data"] is None:
        problems.append("eval_data.name: nothing to evaluate on")
    if parts["data"] is None and (learning or not task.learns):
        problems.append("data.name: nothing to learn from, or to compare with")
    problems.stop()
    rows = sharding.row_shards(parts["mesh"])
    if run.batch_size % (rows * run.accumulate):
        problems.append(
            f"run.batch_size={run.batch_size} is not divisible by {rows} devices "
            f"x {run.accumulate} parts (run.accumulate)"
        )
    if learning and parts["view"].shape != parts["eval_view"].shape:
        problems.append(f"view gives {parts['view'].shape}, eval_view {parts['eval_view'].shape}")
    with problems.gather():
        if parts["eval_data"] is not None:
            testing = loader("eval_data", recipe, parts)
            task.check_labels(testing.source.class_names)
    with problems.gather():
        params = jax.eval_shape(task.init, jax.random.key(0))
        sharding.state_sharding(parts["mesh"], params)
    with problems.gather():
        if learning or not task.learns:
            training = loader("data", recipe, parts)
            task.check_labels(training.source.class_names)
            check_same_classes(training, testing)
    with problems.gather():
        if learning and training is not None:
            task.check_batch(run.batch_size)
            if task.augment.flip and not getattr(training.source, "flippable", True):
                raise RecipeError("augment.flip must be 0: mirroring changes the classes of data")
            if not training.steps_per_epoch:
                examples = training.source.num_examples
                raise RecipeError(
                    f"run.batch_size={run.batch_size} clips, but data has only {examples} examples"
                )
            optimizer = optimizer_of(parts, params, training.steps_per_epoch)
    problems.stop()
    shown = testing or loader("data", recipe, {**parts, "view": parts["eval_view"]})
    return Experiment(
        mesh=parts["mesh"],
        task=task,
        run=run,
        seed=recipe["seed"],
        training=training,
        testing=testing,
        shown=first_clips(shown),
        optimizer=optimizer,
        init_from=init_from,
        init_parts=parts_of(recipe, task) if learning else None,
        init_resize=recipe["model"].get("init_resize", False),
        on_bad=parts["input"].on_bad_in_evaluation,
    )


def check_same_classes(training: Any, testing: Any) -> None:
    """Raises RecipeError where the same number stands for different classes."""
    names = [data.source.class_names for data in (training, testing) if data is not None]
    if len(names) == 2 and None not in names and tuple(names[0]) != tuple(names[1]):
        differ = next((a, b) for a, b in zip(*names, strict=False) if a != b)
        raise RecipeError(
            f"data and eval_data have different classes: {differ[0]!r} and {differ[1]!r}"
        )


def parts_of(recipe: Section, task: Any) -> tuple[str, ...]:
    """Top-level names of the parameters that are taken from `model.init_from`."""
    parts = recipe["model"].get("init_parts")
    if isinstance(parts, str):
        raise RecipeError(f"model.init_parts={parts!r} must be a tuple of names")
    return task.init_parts if parts is None else tuple(parts)


def loader(where: str, recipe: Section, parts: dict[str, Any]) -> Any:
    """Batches of the source of a section, the part of this process."""
    view, rows = parts.get("view"), parts["run"].batch_size
    if where == "eval_data" or view is None:
        # Whole examples, all views of each, on each device the same number of rows.
        view = parts["eval_view"]
        views, clips = view.parts * view.clips_per_part, view.clips_per_part
        unit = math.lcm(views, sharding.row_shards(parts["mesh"]) * clips)
        rows = max(1, rows // unit) * unit
    share, shares = sharding.batch_share(parts["mesh"])
    return input_pipeline.Loader(
        parts[where],
        view,
        batch_size=rows,
        seed=recipe["seed"],
        process_index=share,
        process_count=shares,
        workers=parts["input"].workers or None,
        bad_inputs=parts["bad_inputs"],
    )


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
    """SHA-256 of all of a recipe that matters to what is learnt."""
    matters = {
        section: {
            key: value
            for key, value in (values.items() if isinstance(values, dict) else [("", values)])
            if f"{section}.{key}" not in HARMLESS
        }
        for section, values in recipe.items()
        if section not in HARMLESS
    }
    return hashlib.sha256(json.dumps(matters, sort_keys=True).encode()).hexdigest()
