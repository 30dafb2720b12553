"""From parts to a trained model: state, restore, compilation, loop."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from maskfeat_jax import sharding
from maskfeat_jax.checkpoints.checkpointer import Checkpoints
from maskfeat_jax.distributed.collectives import Agreement, gather, on_first_process
from maskfeat_jax.distributed.preemption import Signals
from maskfeat_jax.distributed.watchdog import Watchdog
from maskfeat_jax.faults import fault_point
from maskfeat_jax.optim import Optimizer
from maskfeat_jax.sections import RecipeError
from maskfeat_jax.state import TrainState
from maskfeat_jax.tasks import Learner
from maskfeat_jax.train.experiment import Experiment, drawer, evaluator, initial_params
from maskfeat_jax.train.loop import Training
from maskfeat_jax.train.metrics import TooManyBad
from maskfeat_jax.train.nonfinite import keep_evidence
from maskfeat_jax.train.prefetch import Feed
from maskfeat_jax.workdir.report import Report

Batch = dict[str, Any]
Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]
NOTHING_UNFINISHED = {"window": {}, "evaluation": False}


def run_training(
    experiment: Experiment, workdir: Path, *, identity: str = "", signals: Signals | None = None
) -> dict[str, float]:
    """Trains to the end, from the newest good checkpoint of the work directory if there is one.

    Args:
      experiment: the parts.
      workdir: of the run; checkpoints, metrics and pictures go there.
      identity: of the recipe, stored with each checkpoint and compared with it.
      signals: what asks to stop; None: nothing does.

    Returns:
      The metrics of the last evaluation.

    Raises:
      Stopped: a signal came, and what was learnt is saved.
      Diverged: too many updates were not finite; what is known of it lies in `nonfinite/`.
      CheckpointError: a state cannot be saved, or none can be trusted.
      RecipeError: the checkpoints belong to other data or another recipe.
    """
    run, data = experiment.run, experiment.data
    facts = {"data": data.source.fingerprint, "recipe": identity}
    assert experiment.optimizer is not None
    assert isinstance(experiment.task, Learner)
    step, like = step_and_state(
        experiment.task, experiment.optimizer, experiment.mesh, run.accumulate
    )
    with contextlib.ExitStack() as stack:
        watchdog = stack.enter_context(
            Watchdog(
                workdir,
                process=jax.process_index(),
                start_seconds=run.hang_start_seconds,
                step_seconds=run.hang_seconds,
            )
        )
        checkpoints = stack.enter_context(open_checkpoints(experiment, workdir))
        with at_once(signals):
            state, unfinished = first_state(experiment, checkpoints, like, facts)
        report = stack.enter_context(open_report(experiment, workdir, int(state.step)))
        checkpoints.check_space(state)
        for sentence in checkpoints.messages():
            report.message(sentence)
        if unfinished["evaluation"]:
            done = on_first_process(lambda: int(report.evaluated(int(state.step))))
            unfinished = {**unfinished, "evaluation": not done}
        place = functools.partial(sharding.to_device, experiment.mesh)
        batches = data.train_batches(int(state.step))
        feed = stack.enter_context(contextlib.closing(Feed(batches, place)))
        with at_once(signals), report.pausing():
            step = compiled(step, state, feed)
        training = Training(
            state,
            feed,
            run=run,
            steps_per_epoch=data.steps_per_epoch,
            step=step,
            evaluate=evaluator(experiment, workdir, places_of(like.evaluated)),
            draw=drawer(experiment),
            report=report,
            checkpoints=checkpoints,
            agreement=Agreement(signals),
            watchdog=watchdog,
            facts=facts,
            unfinished=unfinished,
        )
        del state  # the loop has it, and gives it away
        try:
            return training.to_the_end()
        except TooManyBad as error:
            watchdog.phase("keeping evidence of what is not finite")
            with contextlib.closing(data.train_batches(error.bad[0].step)) as again:
                words = keep_evidence(
                    workdir, training.state, error.bad, next(again), step=step, place=place
                )
            report.message(words)
            raise


def at_once(signals: Signals | None) -> contextlib.AbstractContextManager[None]:
    """Inside, a signal ends the process at once, as there is nothing to lose."""
    return contextlib.nullcontext() if signals is None else signals.nothing_to_lose()


def open_checkpoints(experiment: Experiment, workdir: Path) -> Checkpoints:
    """The checkpoints of a run, as its recipe wants them kept."""
    run = experiment.run
    return Checkpoints(
        workdir / "checkpoints",
        keep_last=run.keep_checkpoints,
        verify=run.verify_checkpoints,
        allow_fresh_start=run.allow_fresh_start,
    )


def open_report(experiment: Experiment, workdir: Path, resume_step: int) -> Report:
    """Where a training tells of its progress."""
    run, data = experiment.run, experiment.data
    return Report(
        workdir,
        total_steps=round(run.epochs * data.steps_per_epoch),
        steps_per_epoch=data.steps_per_epoch,
        devices=jax.device_count(),
        clips_per_step=run.batch_size,
        resume_step=resume_step,
    )


def step_and_state(
    task: Learner, optimizer: Optimizer, mesh: Mesh, accumulate: int = 1
) -> tuple[Any, TrainState]:
    """The jitted step of a training, and the state that it takes over, without its numbers."""
    create = functools.partial(TrainState.create, optimizer=optimizer)
    shapes = jax.eval_shape(lambda key: create(task.init(key)), jax.random.key(0))
    places = sharding.state_sharding(mesh, shapes)
    step = jax.jit(
        functools.partial(task.train_step, optimizer=optimizer, accumulate=accumulate),
        in_shardings=(places, sharding.batch_sharding(mesh)),
        out_shardings=(places, sharding.replicated(mesh)),
        donate_argnums=0,
    )
    return step, jax.tree.map(_shape_at, shapes, places)


def first_state(
    experiment: Experiment, checkpoints: Checkpoints, like: TrainState, facts: dict[str, Any]
) -> tuple[TrainState, dict[str, Any]]:
    """The state to train from, and what the run before had not reported.

    Raises:
      RecipeError: the checkpoint belongs to other data or another recipe.
    """
    newest = checkpoints.latest_good()
    if newest is None:
        assert experiment.optimizer is not None
        create = functools.partial(TrainState.create, optimizer=experiment.optimizer)
        state = jax.jit(create, out_shardings=places_of(like))(initial_params(experiment))
        return state, NOTHING_UNFINISHED
    fault_point("restore.before")
    state, stored = checkpoints.restore(newest, like)
    fault_point("restore.after")
    if stored.get("data") != facts["data"]:
        raise RecipeError(
            "data: the list of examples is not the one that this run was started with; "
            "restore it, or choose a new --workdir"
        )
    if stored.get("recipe") != facts["recipe"]:
        raise RecipeError(
            f"checkpoint {newest} was saved by a run with another recipe than config.json says; "
            "put back the checkpoints of this run, or choose a new --workdir"
        )
    return state, stored.get("unfinished", NOTHING_UNFINISHED)


def compiled(step: Any, state: TrainState, feed: Feed) -> Step:
    """The step, compiled before it is needed: until then there is nothing to lose."""
    batch = feed.peek()
    fault_point("compile")
    program = step.lower(state, batch).compile()
    gather(None)  # all are ready: Gloo does not wait long for one who still compiles
    return program


def places_of(shapes: Any) -> Any:
    """Where arrays lie."""
    return jax.tree.map(lambda leaf: leaf.sharding, shapes)


def _shape_at(shape: Any, place: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place)
