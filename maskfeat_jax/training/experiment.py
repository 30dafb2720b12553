"""An experiment: state, batches, step, evaluation and pictures of a run, without its files.

state = experiment.init()
for batch in experiment.batches(state):
    state, metrics = experiment.step(state, batch)
experiment.evaluate(state)
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from maskfeat_jax import sharding
from maskfeat_jax.optim import Optimizer
from maskfeat_jax.state import TrainState
from maskfeat_jax.tasks import Task
from maskfeat_jax.training.evaluate import Interrupt, evaluate, never
from maskfeat_jax.training.initial import InitFrom, initial_params
from maskfeat_jax.training.prefetch import Batch, Prefetcher
from maskfeat_jax.training.settings import Run
from maskfeat_jax.training.teachers import teacher_weights
from maskfeat_jax.typing import PyTree
from maskfeat_jax.workdir.workdir import write_table, write_text


@runtime_checkable
class Source(Protocol):
    """A dataset, with what training needs of it."""

    @property
    def num_examples(self) -> int:
        """Number of examples."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the labels; None for data without labels."""

    @property
    def fingerprint(self) -> str:
        """Hash of the list of examples."""

    def name_of(self, index: int) -> str:
        """The file of an example."""


@runtime_checkable
class Data(Protocol):
    """Batches of a dataset, e.g. `input_pipeline.Loader`."""

    @property
    def source(self) -> Source:
        """The dataset."""

    @property
    def fingerprint(self) -> str:
        """Hash of the examples and of how they are batched, the same in all processes."""

    @property
    def steps_per_epoch(self) -> float:
        """Batches in an epoch of training; may be a fraction."""

    @property
    def views(self) -> int:
        """Rows per example in evaluation."""

    def train_batches(self, start_step: int) -> Generator[Batch]:
        """Infinite batches, starting with that of a step."""

    def eval_batches(self, on_bad: str) -> Generator[Batch]:
        """One pass over all examples."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a recipe describes, see `training.build.build`.

    Attributes:
      mesh: the devices.
      task: the model and its steps.
      run: batch size, length and intervals.
      seed: of the initial parameters.
      training: training data (a task that only evaluates may need it); None if not needed.
      testing: evaluation data; None for no evaluation.
      samples: clips for pictures, a batch for `Task.show_step`.
      optimizer: None if nothing is trained.
      init_from: source of the initial parameters.
      on_bad: what evaluation does with unreadable files, "fail" or "skip".
      bad_inputs: counts and lists unreadable files, see `input_pipeline.BadInputs`.
      recipe: the resolved recipe, with all defaults filled in.
      fixed_recipe: its values that may not change on resuming, by dotted key.
    """

    mesh: Mesh
    task: Task
    run: Run
    seed: int
    training: Data | None
    testing: Data | None
    samples: Mapping[str, np.ndarray]
    optimizer: Optimizer | None
    init_from: InitFrom
    on_bad: str
    bad_inputs: Any
    recipe: Mapping[str, Any]
    fixed_recipe: Mapping[str, str]

    @property
    def sample_clips(self) -> np.ndarray:
        """Clips for pictures, uint8 `(b, t, h, w, 3)`."""
        return self.samples["video"]

    @property
    def data(self) -> Data:
        """Training data; evaluation data if there is none."""
        data = self.training or self.testing
        assert data is not None
        return data

    @property
    def total_steps(self) -> int:
        """Number of updates of the whole run."""
        return round(self.run.epochs * self.data.steps_per_epoch)

    def load_teacher(self) -> PyTree:
        """Weights of the target's frozen networks, on the devices; empty if it has none.

        A state needs its own, as the step donates it.
        """
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state.teacher)
        return jax.device_put(teacher_weights(self.task), shardings)

    @functools.cached_property
    def abstract_state(self) -> TrainState:
        """Shape, dtype and sharding of each array of the state to train, or else to evaluate."""
        return abstract_state(self.task, self.optimizer, self.mesh)

    def init(self) -> TrainState:
        """The state before the first step, on the devices.

        If nothing is trained, the state to evaluate: parameters, and what the task needs of the
        training data.

        Raises:
          TransferError, CheckpointError, ConvertError: `model.init_from` cannot be used.
        """
        params = initial_params(self.task, self.seed, self.init_from, self.class_names)
        if self.optimizer is not None:
            create = functools.partial(TrainState.create, optimizer=self.optimizer)
            shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state.stored)
            state = jax.jit(create, out_shardings=shardings)(params)
            return state.replace(teacher=self.load_teacher())
        params = jax.device_put(params, sharding.state_sharding(self.mesh, params))
        if self.training is not None:
            with self._one_pass(self.training) as batches:
                views = self.training.views
                params = self.task.with_data(params, batches, views=views, mesh=self.mesh)
        return TrainState.frozen(params, self.load_teacher())

    def batches(self, state: TrainState) -> Generator[Batch]:
        """Batches on the devices, from the state's step to the last step of the run."""
        with contextlib.closing(self.prefetched(state)) as batches:
            for _ in range(int(state.step), self.total_steps):
                yield next(batches)

    def prefetched(self, state: TrainState) -> Prefetcher:
        """Infinite batches on the devices, starting at the state's step; the caller closes it."""
        assert self.training is not None
        return Prefetcher(self.training.train_batches(int(state.step)), self.to_devices)

    @functools.cached_property
    def step(self) -> Any:
        """The jitted step `(state, batch) -> (state, metrics)`; donates the state."""
        assert self.optimizer is not None
        return jitted_step(
            self.task, self.optimizer, self.abstract_state, self.mesh, self.run.accumulate
        )

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes that the model predicts; None if it predicts something else."""
        return self.data.source.class_names if self.task.classes else None

    def evaluate(
        self, state: TrainState, *, interrupted: Interrupt = never, tables: Path | None = None
    ) -> dict[str, float]:
        """Metrics on the evaluation data; empty if there is none.

        Args:
          state: its moving average is evaluated if it has one.
          interrupted: see `evaluate`.
          tables: directory to write the tables of the task to, see `Task.results`.

        Raises:
          Interrupted: `interrupted` returned True.
        """
        if self.testing is None:
            return {}
        source = self.testing.source
        with self._one_pass(self.testing) as batches:
            sums, examples = evaluate(
                state,
                batches,
                step=self._eval_step,
                kept=self.task.kept,
                expected=source.num_examples,
                interrupted=interrupted,
            )
        results = self.task.results(sums, examples, source)
        if tables is not None:
            for name, rows in results.tables.items():
                write_table(tables / name, rows)
            for name, lines in results.texts.items():
                write_text(tables / name, lines)
        counts = {"used": float(sums["examples"]), "expected": float(source.num_examples)}
        return {**results.metrics, **counts}

    def draw(self, state: TrainState) -> dict[str, np.ndarray]:
        """Pictures of `sample_clips` and the outputs of the model, by name."""
        outputs = self._show_step(state, dict(self.samples))
        on_host = jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), outputs)
        return self.task.draw(self.sample_clips, on_host, self.data.source.class_names or ())

    def to_devices(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """The global batch on the devices, from the rows that this process loads."""
        return sharding.to_device(self.mesh, batch)

    @functools.cached_property
    def _eval_step(self) -> Any:
        assert self.testing is not None
        return jitted_eval_step(self.task, self.mesh, self.testing.views)

    @functools.cached_property
    def _show_step(self) -> Any:
        return jitted_show_step(self.task, self.mesh)

    def _one_pass(self, data: Data) -> contextlib.closing[Prefetcher]:
        return contextlib.closing(Prefetcher(data.eval_batches(self.on_bad), self.to_devices))


def abstract_params(task: Task, mesh: Mesh) -> Any:
    """Shape, dtype and sharding of each parameter.

    Raises:
      ValueError: the model does not fit the clips, or see `sharding.state_sharding`.
    """
    one = sharding.mesh_of([mesh.devices.flat[0]])  # `init` has one clip
    return _sharded(mesh, jax.eval_shape(sharding.on_mesh(one, task.init), jax.random.key(0)))


def abstract_state(task: Task, optimizer: Optimizer | None, mesh: Mesh) -> TrainState:
    """Shape, dtype and sharding of each array of the state to train, or else to evaluate."""
    create: Callable[..., TrainState] = TrainState.frozen
    if optimizer is not None:
        create = functools.partial(TrainState.create, optimizer=optimizer)
    params = abstract_params(task, mesh)
    return _sharded(mesh, jax.eval_shape(create, params, teacher=task.teacher))


def _sharded(mesh: Mesh, shapes: Any) -> Any:
    return jax.tree.map(
        lambda leaf, layout: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout),
        shapes,
        sharding.state_sharding(mesh, shapes),
    )


def jitted_step(
    task: Task, optimizer: Optimizer, state: TrainState, mesh: Mesh, accumulate: int = 1
) -> Any:
    """See `Experiment.step`; `state` is that of `abstract_state`."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(
        sharding.on_mesh(
            mesh, functools.partial(task.train_step, optimizer=optimizer, accumulate=accumulate)
        ),
        in_shardings=(shardings, sharding.batch_sharding(mesh)),
        out_shardings=(shardings, sharding.replicated(mesh)),
        donate_argnums=0,
    )


def jitted_eval_step(task: Task, mesh: Mesh, views: int) -> Any:
    """The jitted `Task.eval_step` of examples with `views` rows each."""
    step = functools.partial(task.eval_step, views=views)
    return jax.jit(sharding.on_mesh(mesh, step), out_shardings=sharding.replicated(mesh))


def jitted_show_step(task: Task, mesh: Mesh) -> Any:
    """The jitted `Task.show_step` of any number of clips."""
    step = sharding.on_mesh(mesh, task.show_step)
    return jax.jit(step, out_shardings=sharding.replicated(mesh))
