"""Builds an experiment from a recipe: model, task, optimiser, mesh and input pipeline."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

import input_pipeline
from input_pipeline.texts import printable
from maskfeat_jax import sharding
from maskfeat_jax.class_names import Aligned
from maskfeat_jax.models.probes import ENCODER
from maskfeat_jax.optim import OPTIMIZERS, Optimizer, Rule
from maskfeat_jax.sections import Reader, RecipeError, Section, call, choose, flatten, is_object
from maskfeat_jax.tasks import Task, task_of
from maskfeat_jax.tasks.base import INIT_KEYS
from maskfeat_jax.training.experiment import Experiment, abstract_params
from maskfeat_jax.training.initial import InitFrom
from maskfeat_jax.training.settings import Input, Run
from maskfeat_jax.training.teachers import check_files, with_teachers
from maskfeat_jax.workdir.workdir import is_harmless

# Sections of every recipe; a task adds its own. Any may be missing.
SECTIONS = (
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
CLIP = (  # keys that both views have
    "size",
    "frames",
    "stride",
    "sampling",
    "max_pixels",
    "max_frames",
    "timeout_seconds",
)
INIT = "model, head and eval_view"  # sections that decide the shapes of the parameters
PICTURED_CLIPS = 6  # clips in pictures
# Keys and sections that may change when a run is resumed: the trained parameters do not depend on
# them.
HARMLESS = (
    "data.path",
    "data.root",
    "data.frames",
    "data.frame_lists",
    "data.index",
    "data.label_maps",
    "data.videos",
    "eval_data.path",
    "eval_data.root",
    "eval_data.frames",
    "eval_data.frame_lists",
    "eval_data.index",
    "eval_data.label_maps",
    "eval_data.videos",
    "view.timeout_seconds",
    "eval_view.timeout_seconds",
    "input",
    "bad_inputs",
    "target.file",  # the same contents: `target.sha256` may not change
    "target.parts.*.file",
    "target.decoder",  # for pictures
    "target.parts.*.decoder",
    "model.attention",
    "model.scan",
    "target.model.scan",
    "target.parts.*.model.scan",
    "score",
    "mesh",
    "run.log_every_steps",
    "run.keep_checkpoints",
    "run.verify_checkpoints",
    "run.allow_fresh_start",
    "run.checkpoint_every_epochs",
    "run.evaluate_every_epochs",
    "run.pictures_every_epochs",
    "run.max_nonfinite",
    "run.profile",
    "run.max_nonfinite_fraction",
    "run.grace_seconds",
    "run.hang_seconds",
    "run.hang_start_seconds",
)


def build(recipe: Section) -> Experiment:
    """Builds the experiment of a recipe.

    Args:
      recipe: sections of keys and values, see `configs/`; any may be missing. In Python `data`,
        `eval_data`, `target` and `mask` may also be objects.

    Raises:
      RecipeError: lists all problems of the recipe and the data.
      BadInput: none of the first examples can be read.
    """
    reader = Reader(with_teachers(recipe))
    problems = reader.problems
    task_class, trains = read_task(reader)

    sections = read_sections(reader, task_class, trains)
    common, task, data, eval_data, rule, init_from = sections
    mesh, run = common.mesh, common.run

    # Build what depends on several sections.
    if run.batch_size % (sharding.row_shards(mesh) * run.accumulate):
        problems.append(
            f"run.batch_size={run.batch_size} is not divisible by {sharding.row_shards(mesh)} "
            f"devices x {run.accumulate} slices (run.accumulate)"
        )
    problems.attempt(check_files, task)
    params = optimizer = None
    training, testing = read_loaders(reader, common, task, data, eval_data)
    with problems.gather():
        check_heads(task, mesh)
        params = call(INIT, abstract_params, {}, task=task, mesh=mesh)
    with problems.gather():
        if rule and params is not None and training is not None and training.steps_per_epoch:
            optimizer = optimizer_of(rule, run, task, params, training.steps_per_epoch)
    problems.stop()

    return Experiment(
        mesh=mesh,
        task=task,
        run=run,
        seed=reader["seed"],
        training=training,
        testing=testing,
        samples=first_clips(
            testing or loaders_of(reader, common).evaluation(data, common.eval_view)
        ),
        optimizer=optimizer,
        init_from=init_from,
        on_bad=common.host.on_bad_in_evaluation,
        bad_inputs=common.bad_inputs,
        recipe=reader.resolved,
        fixed_recipe=fixed_recipe(reader.resolved),
    )


class Computation(NamedTuple):
    """The computation of a run, without its data.

    Attributes:
      mesh: the devices.
      rows: clips of a step, over all devices.
      accumulate: number of slices of a batch.
      task: the model and its steps.
      optimizer: its learning rates are not those of the run, as the length of an epoch is unknown;
        None if nothing is trained.
      views: rows of each example in evaluation.
    """

    mesh: Mesh
    rows: int
    accumulate: int
    task: Task
    optimizer: Optimizer | None
    views: int


def build_computation(recipe: Section, devices: Sequence[Any] | None = None) -> Computation:
    """Builds the computation of a recipe without opening its data.

    Args:
      recipe: see `build`.
      devices: of the mesh; all of this process by default.

    Raises:
      RecipeError: lists all problems of the recipe.
    """
    reader = Reader(with_teachers(recipe))
    problems = reader.problems
    task_class, trains = read_task(reader)
    mesh, run, _, _, eval_view, _ = read_common(reader, trains, devices)
    task = task_for(task_class, reader, eval_view)
    rule = problems.attempt(read_rule, reader, trains)
    problems.stop()
    if task.needs_data:
        raise RecipeError(f"task={reader['task']!r}: its step depends on the number of examples")
    optimizer = None
    rows = run.batch_size if trains else evaluation_rows(mesh, eval_view, run.batch_size)
    with problems.gather():
        check_heads(task, mesh)
        params = call(INIT, abstract_params, {}, task=task, mesh=mesh)
        if rule is not None:
            task.check_batch(rows)
            optimizer = optimizer_of(rule, run, task, params, steps_per_epoch=100)
    problems.stop()
    views = eval_view.reads * eval_view.clips_per_read
    return Computation(mesh, rows, run.accumulate, task, optimizer, views)


def build_data(recipe: Section) -> tuple[dict[str, input_pipeline.Loader], str]:
    """Loaders of `data` and `eval_data` as a run has them, and `input.on_bad_in_evaluation`.

    Raises:
      RecipeError: lists all problems of these sections, and with the classes of the task.
    """
    reader = Reader(with_teachers(recipe))
    problems = reader.problems
    task_class, trains = read_task(reader)
    common = read_common(reader, trains)
    reads_data = trains or task_class.needs_data
    data = problems.attempt(read_data, reader) if reads_data else None
    eval_data = problems.attempt(read_eval_data, reader)
    task = task_for(task_class, reader, common.eval_view)
    init_from = problems.attempt(read_init_from, reader, task_class, trains)
    problems.stop()
    training, testing = read_loaders(reader, common, task, data, eval_data)
    problems.stop()
    used = training or testing
    if hasattr(task.model, "num_classes") and used and used.source.class_names:
        init_from.check_classes(used.source.class_names)
    loaders = {"data": training, "eval_data": testing}
    on_bad = common.host.on_bad_in_evaluation
    return {where: loader for where, loader in loaders.items() if loader is not None}, on_bad


def read_task(reader: Reader) -> tuple[type[Task], bool]:
    """The task class of a recipe, and whether it trains; records unknown sections.

    Raises:
      RecipeError: there is no such task.
    """
    task_class = task_of(reader)
    reader.check_sections((*SECTIONS, *task_class.sections))
    return task_class, task_class.learns and reader["task"] != "evaluate"


class Common(NamedTuple):
    """Objects of the sections of every recipe; `view` is None if nothing is trained."""

    mesh: Mesh
    run: Run
    host: Input
    view: input_pipeline.TrainView | None
    eval_view: Any  # EvalView
    bad_inputs: input_pipeline.BadInputs


def read_common(reader: Reader, trains: bool, devices: Sequence[Any] | None = None) -> Common:
    """Reads the sections of `Common`; a section with problems, which are recorded, gives None.

    The mesh is that of all devices if none are given. Keys of `CLIP` that `eval_view` lacks are
    taken from `view`.
    """
    attempt = reader.problems.attempt
    view = eval_view = None
    with reader.problems.gather():
        if trains:
            view = reader.call("view", input_pipeline.TrainView)
        elif "view" in reader:  # of a recipe for training, that is evaluated
            call("view", input_pipeline.TrainView, reader["view"])
    with reader.problems.gather():
        own, followed = reader["eval_view"], reader["view"]
        inherited = {key: followed[key] for key in CLIP if key in followed and key not in own}
        call("view", input_pipeline.EvalView, inherited)  # its mistakes are those of `view`
        eval_view = reader.call("eval_view", input_pipeline.EvalView, {**inherited, **own})
    if view is not None and eval_view is not None and view.shape != eval_view.shape:
        reader.problems.append(
            f"view makes clips of {view.shape}, eval_view of {eval_view.shape}; they must be equal"
        )

    def mesh_of_these(parameters: int = 1, tensor: int = 1) -> Mesh:
        return sharding.mesh_of(devices or (), parameters, tensor)

    return Common(
        mesh=attempt(reader.call, "mesh", mesh_of_these if devices else sharding.create_mesh),
        run=attempt(reader.call, "run", Run),
        host=attempt(reader.call, "input", Input),
        view=view,
        eval_view=eval_view,
        bad_inputs=attempt(reader.call, "bad_inputs", input_pipeline.BadInputs),
    )


class Sections(NamedTuple):
    """What the sections of a recipe describe, each by itself."""

    common: Common
    task: Any
    data: Any
    eval_data: Any
    rule: Rule | None
    init_from: InitFrom


def read_sections(
    reader: Reader, task_class: type[Task], trains: bool, later: Collection[str] = ()
) -> Sections:
    """Reads the sections, and checks that none is missing.

    Args:
      reader: of the recipe.
      task_class: see `read_task`.
      trains: see `read_task`.
      later: paths that `model.init_from` may name before they exist.

    Raises:
      RecipeError: lists all problems.
    """
    problems = reader.problems

    # Read each section.
    common = read_common(reader, trains)
    reads_data = trains or task_class.needs_data
    data = problems.attempt(read_data, reader) if reads_data else None
    eval_data = problems.attempt(read_eval_data, reader)
    task = task_for(task_class, reader, common.eval_view)
    rule = problems.attempt(read_rule, reader, trains)
    init_from = problems.attempt(read_init_from, reader, task_class, trains)
    problems.stop()

    # Check that nothing is missing.
    if common.eval_view.full_frame and not task_class.any_frame:
        problems.append(f"eval_view.full_frame must be False for task={reader['task']!r}")
    if not init_from.path and (not trains or set(ENCODER) <= set(task.model.frozen)):
        problems.append(
            "model.init_from: missing; set it to the run or checkpoint to evaluate or probe"
        )
    expected = init_from.path and init_from.path not in later
    if expected and not Path(init_from.path).exists():
        problems.append(f"model.init_from={init_from.path!r}: no such file or directory")
    if not trains and eval_data is None:
        problems.append("eval_data.name: missing; set the dataset to evaluate on")
    if reads_data and data is None:
        problems.append(
            "data.name: missing; set the dataset to train on (for knn: to take neighbours from)"
        )
    problems.stop()
    return Sections(common, task, data, eval_data, rule, init_from)


def task_for(task_class: type[Task], reader: Reader, eval_view: Any) -> Any:
    """The task on clips of a view; None after recording problems of either."""
    if eval_view is None:
        return None
    return reader.problems.attempt(task_class.from_recipe, reader, eval_view.shape[:3])


def read_data(reader: Reader) -> Any:
    """The dataset of the section `data`; None if the section has no name."""
    return _dataset("data", reader, reader["data"])


def read_eval_data(reader: Reader) -> Any:
    """The dataset of the section `eval_data`; None if the section is missing or has no name.

    Keys that it lacks, except `split`, are taken from `data` if both have the same name.
    """
    section, data = reader["eval_data"], reader["data"]
    if "eval_data" in reader and not is_object(section):
        if is_object(data):
            if section.get("name") is None:
                raise RecipeError("eval_data.name: missing; it cannot follow `data`, an object")
        elif section.get("name", data.get("name")) == data.get("name") is not None:
            if section.get("split") is None:
                raise RecipeError("eval_data.split: missing; set the split to evaluate on")
            try:
                return _dataset("eval_data", reader, {**data, **section})
            except RecipeError as error:
                if str(error).removeprefix("eval_") in reader.problems:
                    return None  # a mistake of `data`
                raise
    return _dataset("eval_data", reader, section)


def _dataset(where: str, reader: Reader, section: Any) -> Any:
    if not is_object(section) and not section.get("name"):
        return None
    return reader.choose(where, input_pipeline.DATASETS, input_pipeline.Source, section)


def read_init_from(reader: Reader, task_class: type[Task], trains: bool) -> InitFrom:
    """The keys `init_…` of the section `model`; evaluation takes all parts, whatever they say."""
    keys = {key: value for key, value in reader["model"].items() if key in INIT_KEYS}
    init_from = reader.call("model", InitFrom.of, keys)
    if not trains or init_from.parts is None:
        init_from = init_from._replace(parts=task_class.init_parts if trains else None)
        reader.note("model", {"init_parts": init_from.parts})
    return init_from


def read_rule(reader: Reader, trains: bool) -> Rule | None:
    """The rule of the section `optim`; where nothing is trained it is only checked, as `view`."""
    if trains:
        return reader.choose("optim", OPTIMIZERS)
    if "optim" in reader:
        choose("optim", OPTIMIZERS, reader["optim"])
    return None


def optimizer_of(
    rule: Rule, run: Run, task: Task, params: Any, steps_per_epoch: float
) -> Optimizer:
    """The optimiser for the parameters of a task and the length of a run."""
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


def read_loaders(
    reader: Reader, common: Common, task: Task, data: Any, eval_data: Any
) -> tuple[input_pipeline.Loader | None, input_pipeline.Loader | None]:
    """Loaders of `data` and `eval_data`; None for one that is missing, or wrong and recorded."""
    loaders, training, testing = loaders_of(reader, common), None, None
    with reader.problems.gather():
        if data is not None:
            if common.view is None:  # nothing is trained, but evaluation needs the training data
                training = loaders.evaluation(data, common.eval_view)
            else:
                training = loaders.training(data, common.view)
            task.check_labels("data", data)
    with reader.problems.gather():
        if training is not None and common.view is not None:
            check_training(task, common.run, training)
    with reader.problems.gather():
        if eval_data is not None:
            if task.classes and data is not None:  # before their number, which follows
                eval_data = with_classes_of(data, eval_data)
            testing = loaders.evaluation(eval_data, common.eval_view)
            task.check_labels("eval_data", eval_data)
    return training, testing


def loaders_of(reader: Reader, common: Common) -> Loaders:
    """See `Loaders`."""
    workers = common.host.workers or None
    return Loaders(common.mesh, common.run.batch_size, reader["seed"], workers, common.bad_inputs)


class Loaders(NamedTuple):
    """Makes loaders of the share of each batch that belongs to this process."""

    mesh: Mesh
    batch_size: int
    seed: int
    workers: int | None
    bad_inputs: input_pipeline.BadInputs

    def training(self, source: Any, view: Any) -> input_pipeline.Loader:
        """A loader of batches to train on."""
        return self._loader(source, view, self.batch_size)

    def evaluation(self, source: Any, view: Any) -> input_pipeline.Loader:
        """A loader of batches that hold all views of each example, equally many on each device."""
        return self._loader(source, view, evaluation_rows(self.mesh, view, self.batch_size))

    def _loader(self, source: Any, view: Any, rows: int) -> input_pipeline.Loader:
        share, shares = sharding.batch_share(self.mesh)
        full = getattr(view, "full_frame", False)
        return call(
            "run.batch_size and view",
            input_pipeline.FullFrameLoader if full else input_pipeline.Loader,
            {},
            source=source,
            view=view,
            batch_size=rows,
            seed=self.seed,
            process_index=share,
            process_count=shares,
            workers=self.workers,
            bad_inputs=self.bad_inputs,
        )


def check_heads(task: Task, mesh: Mesh) -> None:
    """Raises RecipeError if `mesh.tensor` divides the heads of no block of the encoder."""
    encoder = task.model.encoder
    heads = encoder.heads * 2 ** len(getattr(encoder, "stages", ()))  # of the last block
    if heads % mesh.shape["tensor"]:
        raise RecipeError(
            f"mesh.tensor={mesh.shape['tensor']} does not divide the attention heads of "
            f"model.encoder, {heads}: each device would compute all of them; choose a divisor"
        )


def evaluation_rows(mesh: Mesh, view: Any, batch_size: int) -> int:
    """Rows of a batch in evaluation: about `batch_size`, see `Loaders.evaluation`."""
    unit = math.lcm(
        view.reads * view.clips_per_read, sharding.row_shards(mesh) * view.clips_per_read
    )
    return max(1, batch_size // unit) * unit


def check_training(task: Task, run: Run, training: Any) -> None:
    """Raises RecipeError if the task cannot be trained on this data."""
    task.check_batch(run.batch_size)
    if task.augment.flip and not getattr(training.source, "flippable", True):
        raise RecipeError("augment.flip must be 0: a horizontal flip changes the classes of data")
    for name in ("label_maps", "boxes"):
        if getattr(training.source, name, None) and training.view.rand_augment != "none":
            raise RecipeError(f'view.rand_augment must be "none": data.{name} do not follow it')
    if not training.steps_per_epoch:
        raise RecipeError(
            f"run.batch_size={run.batch_size} clips, but data has only "
            f"{training.source.num_examples} examples; use a smaller run.batch_size or more data"
        )


def with_classes_of(data: Any, eval_data: Any) -> Any:
    """`eval_data` with the class numbers of `data`; ClassesDiffer if the classes are others."""
    names = data.class_names, eval_data.class_names
    if None in names or tuple(names[0]) == tuple(names[1]):
        return eval_data
    if getattr(eval_data, "boxes", None):
        raise RecipeError("data and eval_data have different classes of boxes")
    return Aligned(eval_data, names[0], owner="data", wanted_by="eval_data")


def first_clips(data: Any) -> dict[str, np.ndarray]:
    """A batch of the first readable clips, for pictures; the same in each process.

    Raises:
      BadInput: none of the first hundred examples can be read.
    """
    rows = [data.load(0, index) for index in range(min(PICTURED_CLIPS, data.source.num_examples))]
    if not any(map(_is_readable, rows)):
        rows = [data.load(0, index) for index in range(min(100, data.source.num_examples))]
    readable = [row for row in rows if _is_readable(row)][:PICTURED_CLIPS]
    if not readable:
        name, problem = printable(data.source.name_of(0)), rows[0].problem
        raise input_pipeline.BadInput(
            f"none of the first {len(rows)} examples can be read; {name}: {problem.reason}"
        )
    rows = [{"video": row.video, **row.columns} for row in readable]
    return {name: np.stack([row[name][0] for row in rows]) for name in rows[0]}


def _is_readable(row: Any) -> bool:
    """Whether a row has clips; stale files are read, without their index."""
    return not row.problem or row.problem.kind == "stale"


def fixed_recipe(recipe: Section) -> dict[str, str]:
    """The keys of a resolved recipe that may not change on resuming, see `sections.flatten`."""
    return {k: v for k, v in flatten(recipe).items() if not is_harmless(k, HARMLESS)}
