"""Runs an experiment in a work directory: restores, compiles and trains; or evaluates once."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import jax

from maskfeat_jax.checkpoints.checkpointer import Checkpoints
from maskfeat_jax.distributed.collectives import Agreement, gather, on_first_process
from maskfeat_jax.distributed.preemption import Signals
from maskfeat_jax.distributed.watchdog import Watchdog
from maskfeat_jax.faults import fault_point
from maskfeat_jax.sections import RecipeError, differences
from maskfeat_jax.state import TrainState
from maskfeat_jax.training.build import HARMLESS
from maskfeat_jax.training.experiment import Experiment
from maskfeat_jax.training.loop import Step, Training
from maskfeat_jax.training.metrics import TooManyBad
from maskfeat_jax.training.nonfinite import keep_evidence
from maskfeat_jax.training.prefetch import Prefetcher
from maskfeat_jax.workdir.report import Report
from maskfeat_jax.workdir.workdir import is_harmless

NOTHING_UNFINISHED = {"window": {}, "evaluation": False}


def run_evaluation(experiment: Experiment, workdir: Path) -> dict[str, float]:
    """Evaluates the parameters of `model.init_from` once, and draws pictures."""
    state = experiment.init()
    with _report(experiment, workdir, total_steps=1, steps_per_epoch=1) as report:
        results = experiment.evaluate(state, tables=workdir)
        report.evaluation(0, results)
        for name, picture in experiment.draw(state).items():
            report.pictures(0, name, picture)
    return results


def run_training(
    experiment: Experiment, workdir: Path, signals: Signals | None = None
) -> dict[str, float]:
    """Trains to the end, from the newest good checkpoint of the work directory if it has one.

    Args:
      experiment: one with an optimiser.
      workdir: directory for checkpoints, metrics and pictures.
      signals: requests to stop; None for none.

    Returns:
      The metrics of the last evaluation.

    Raises:
      Stopped: a signal arrived; the state is saved.
      Diverged: too many updates were not finite; evidence is in `nonfinite/`.
      CheckpointError: a state cannot be saved, or no checkpoint passes verification.
      RecipeError: the checkpoints belong to other data or another recipe.
    """
    run, data = experiment.run, experiment.data
    facts = {
        "data": data.source.fingerprint,
        "recipe": experiment.fixed_recipe,
        "class_names": experiment.class_names,
    }
    with contextlib.ExitStack() as stack:
        watchdog = stack.enter_context(
            Watchdog(
                workdir,
                process=jax.process_index(),
                start_seconds=run.hang_start_seconds,
                step_seconds=run.hang_seconds,
            )
        )
        checkpoints = stack.enter_context(
            Checkpoints(
                workdir / "checkpoints",
                keep_last=run.keep_checkpoints,
                verify=run.verify_checkpoints,
                allow_fresh_start=run.allow_fresh_start,
            )
        )
        with at_once(signals):
            state, unfinished = _first_state(experiment, checkpoints, facts)
        done = int(state.step)
        length = {"total_steps": experiment.total_steps, "steps_per_epoch": data.steps_per_epoch}
        report = stack.enter_context(_report(experiment, workdir, **length, resume_step=done))
        checkpoints.check_space(state.stored)
        for sentence in checkpoints.messages():
            report.message(sentence)
        if unfinished["evaluation"]:
            reported = on_first_process(lambda: int(report.evaluated(done)))
            unfinished = {**unfinished, "evaluation": not reported}
        batches = stack.enter_context(contextlib.closing(experiment.prefetched(state)))
        with at_once(signals):
            step = _compiled(experiment, state, batches)
        training = Training(
            experiment=experiment,
            workdir=workdir,
            state=state,
            batches=batches,
            step=step,
            report=report,
            checkpoints=checkpoints,
            agreement=Agreement(signals),
            watchdog=watchdog,
            facts=facts,
            unfinished=unfinished,
        )
        del state  # owned by the loop, which donates it
        try:
            return training.train()
        except TooManyBad as error:
            watchdog.phase("saving evidence of updates that are not finite")
            report.message(keep_evidence(experiment, workdir, training.state, error.bad, step))
            raise


def at_once(signals: Signals | None) -> contextlib.AbstractContextManager[None]:
    """In this context a signal ends the process at once, as no progress can be lost."""
    return contextlib.nullcontext() if signals is None else signals.nothing_to_lose()


def _report(experiment: Experiment, workdir: Path, **length: Any) -> Report:
    report = Report(
        workdir,
        devices=jax.device_count(),
        clips_per_step=experiment.run.batch_size,
        **length,
    )
    for section, data in (("data", experiment.training), ("eval_data", experiment.testing)):
        others = "" if data is None else str(getattr(data.source, "left_out", ""))
        if others:
            report.message(f"{section}: {others}")
    return report


def _first_state(
    experiment: Experiment, checkpoints: Checkpoints, facts: dict[str, Any]
) -> tuple[TrainState, dict[str, Any]]:
    """The state to start from, and what the run had not reported when that was saved.

    Raises:
      RecipeError: the checkpoint belongs to other data or another recipe.
    """
    newest = checkpoints.latest_good()
    if newest is None:
        return experiment.init(), NOTHING_UNFINISHED
    fault_point("restore.before")
    state, stored = checkpoints.restore(newest, experiment.abstract_state.stored)
    state = state.replace(teacher=experiment.load_teacher())
    fault_point("restore.after")
    if stored.get("data") != facts["data"]:
        raise RecipeError(
            "data: the list of examples differs from that at the start of this run; restore it, "
            "or choose a new --workdir"
        )
    fixed = {k: v for k, v in stored.get("recipe", {}).items() if not is_harmless(k, HARMLESS)}
    if changed := differences(fixed, facts["recipe"]):
        raise RecipeError(
            f"checkpoint {newest} was saved with a recipe that differs from config.json:\n  "
            + "\n  ".join(changed.values())
            + "\nRestore the checkpoints of this run, or choose a new --workdir."
        )
    return state, stored.get("unfinished", NOTHING_UNFINISHED)


def _compiled(experiment: Experiment, state: TrainState, batches: Prefetcher) -> Step:
    """The compiled step; until then, a signal may end the process without loss."""
    batch = batches.peek()
    fault_point("compile")
    program = experiment.step.lower(state, batch).compile()
    gather(None)  # wait for all: Gloo times out soon if a process still compiles
    return program
