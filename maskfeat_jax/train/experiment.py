"""The parts of a run, and evaluation with them. The parts come from `parts.py`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from maskfeat_jax import sharding
from maskfeat_jax.checkpoints.checkpointer import load_params
from maskfeat_jax.convert import is_run, load, resized
from maskfeat_jax.optim import Optimizer
from maskfeat_jax.tasks import Knn, Task
from maskfeat_jax.tasks.knn import bank_of
from maskfeat_jax.train.evaluate import evaluate
from maskfeat_jax.train.run import Run
from maskfeat_jax.transfer import TransferError, transfer
from maskfeat_jax.workdir.report import Report
from maskfeat_jax.workdir.workdir import write_table

SHOWN_CLIPS = 6

Batch = dict[str, Any]


@runtime_checkable
class Source(Protocol):
    """A dataset, as far as training looks at it."""

    num_examples: int
    class_names: tuple[str, ...] | None
    fingerprint: str


@runtime_checkable
class Data(Protocol):
    """Batches of a dataset, e.g. `input_pipeline.Loader`."""

    source: Source
    steps_per_epoch: float
    views: int

    def train_batches(self, start_step: int) -> Generator[Batch]:
        """Batches without end, from that of a step on."""

    def eval_batches(self, on_bad: str) -> Generator[Batch]:
        """Each example once."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The parts of a run.

    Attributes:
      mesh: the devices.
      task: what is learnt.
      run: how long and how often.
      seed: of the initial parameters.
      training: the data to learn from, or to compare with; None in a task that needs none.
      testing: the data to evaluate on; None for no evaluation.
      shown: clips for pictures, uint8 `(b, t, h, w, 3)`.
      optimizer: None where nothing is trained.
      init_from: work directory, checkpoint or PyTorch file to start from; empty for fresh
        parameters.
      init_parts: top-level names of the parameters to take of it; None for all.
      init_resize: interpolate tables of positions that were made for another size of clips.
      on_bad: what evaluation does with unreadable files, "fail" or "skip".
    """

    mesh: Mesh
    task: Task
    run: Run
    seed: int
    training: Data | None
    testing: Data | None
    shown: np.ndarray
    optimizer: Optimizer | None
    init_from: str
    init_parts: tuple[str, ...] | None
    init_resize: bool
    on_bad: str

    @property
    def data(self) -> Data:
        """Training data, or where there is none the data to evaluate on."""
        data = self.training or self.testing
        assert data is not None
        return data


def run_evaluation(experiment: Experiment, workdir: Path) -> dict[str, float]:
    """Evaluates the parameters of `init_from`, all of them."""
    mesh = experiment.mesh
    params = initial_params(experiment)
    params = jax.device_put(params, sharding.state_sharding(mesh, params))
    if isinstance(experiment.task, Knn):
        params = with_neighbours(experiment, experiment.task, params)
    places = jax.tree.map(lambda leaf: leaf.sharding, params)
    with Report(
        workdir,
        total_steps=1,
        steps_per_epoch=1,
        devices=jax.device_count(),
        clips_per_step=experiment.run.batch_size,
    ) as report:
        results = evaluator(experiment, workdir, places)(params)
        report.evaluation(0, results)
        for name, picture in drawer(experiment)(params).items():
            report.pictures(0, name, picture)
    return results


def with_neighbours(experiment: Experiment, task: Knn, params: Any) -> dict[str, Any]:
    """The parameters of a model, with features and classes of all training data, over all devices.

    See `Knn`.
    """
    training, mesh = experiment.training, experiment.mesh
    assert training is not None
    step = jax.jit(
        functools.partial(task.features_step, views=training.views),
        out_shardings=sharding.replicated(mesh),
    )
    place = functools.partial(sharding.to_device, mesh)
    found: list[dict[str, np.ndarray]] = []
    for batch in sharding.prefetch(training.eval_batches(experiment.on_bad), place):
        rows = jax.device_get(step(params, batch))
        found.append({name: rows[name][rows["valid"]] for name in ("features", "label")})
    bank, labels = bank_of(found, jax.device_count(), task.vote.k)
    spread = sharding.batch_sharding(mesh)
    return {
        "model": params,
        "bank": jax.make_array_from_callback(bank.shape, spread, bank.__getitem__),
        "labels": jax.make_array_from_callback(labels.shape, spread, labels.__getitem__),
    }


def initial_params(experiment: Experiment) -> Any:
    """Fresh parameters on the host, with the parts of `init_from` in their place."""
    fresh = jax.device_get(jax.jit(experiment.task.init)(jax.random.key(experiment.seed)))
    if not experiment.init_from:
        return fresh
    parts = tuple(fresh) if experiment.init_parts is None else experiment.init_parts
    if is_run(experiment.init_from) and not experiment.init_resize:
        return transfer(fresh, load_params(experiment.init_from).evaluated, parts=parts)
    source, task = load(experiment.init_from), experiment.task
    check_same_network(source.model, task.model, parts)
    if experiment.init_resize:
        source = resized(source, task.clip)
    return transfer(fresh, source.params, parts=parts)


def check_same_network(source: Any, wanted: Any, parts: tuple[str, ...]) -> None:
    """Raises TransferError where parameters fit, but would be computed with in another way."""
    fields = [("model", name) for name in ("heads", "kv_stride", "widen_in")]
    fields += [("head", "pool")] if "projection" in parts else []
    for section, name in fields:
        models = (m.encoder if section == "model" else m for m in (source, wanted))
        found, asked = (getattr(model, name, None) for model in models)
        if None not in (found, asked) and found != asked:
            raise TransferError(
                f"{section}.{name}={asked!r}, but what model.init_from names has {found!r}"
            )


def evaluator(experiment: Experiment, workdir: Path, places: Any):
    """A function of parameters: metrics on the data to evaluate on, nothing if there is none.

    Its second argument is `interrupted` of `evaluate`. Details by class go to `per_class.csv` of
    the work directory.
    """
    testing, task, mesh = experiment.testing, experiment.task, experiment.mesh
    if testing is None:
        return lambda params, interrupted=None: {}
    expected = testing.source.num_examples
    step = jax.jit(
        functools.partial(task.eval_step, views=testing.views),
        in_shardings=(places, sharding.batch_sharding(mesh)),
        out_shardings=sharding.replicated(mesh),
    )

    def metrics(
        params: Any, interrupted: Callable[[bool], bool] = lambda waiting: False
    ) -> dict[str, float]:
        sums = evaluate(
            params,
            testing.eval_batches(experiment.on_bad),
            step=step,
            place=functools.partial(sharding.to_device, mesh),
            expected=expected,
            interrupted=interrupted,
        )
        write_table(workdir / "per_class.csv", task.table(sums, testing.source.class_names or ()))
        return {**task.summary(sums), "used": float(sums["examples"]), "expected": float(expected)}

    return metrics


def drawer(experiment: Experiment):
    """A function of parameters: pictures by name."""
    task, video, mesh = experiment.task, experiment.shown, experiment.mesh
    step = jax.jit(task.show_step, out_shardings=sharding.replicated(mesh))
    names = experiment.data.source.class_names or ()

    def draw(params: Any) -> dict[str, np.ndarray]:
        shown = {k: np.asarray(v.addressable_data(0)) for k, v in step(params, video).items()}
        return task.draw(video, shown, names)

    return draw
