"""Trains or evaluates a recipe in a work directory."""

from __future__ import annotations

import os
from pathlib import Path

from maskfeat_jax.commands.compile_cache import keep_compiled
from maskfeat_jax.commands.exit_codes import AGAIN, exit_code_of
from maskfeat_jax.commands.options import Options
from maskfeat_jax.distributed.collectives import agree
from maskfeat_jax.distributed.compare import compare, facts_of
from maskfeat_jax.distributed.preemption import Signals
from maskfeat_jax.faults import fault_point
from maskfeat_jax.sections import Section
from maskfeat_jax.training.build import HARMLESS, build
from maskfeat_jax.training.experiment import Experiment
from maskfeat_jax.training.run import at_once, run_evaluation, run_training
from maskfeat_jax.workdir.workdir import close_workdir, open_workdir, write_status


def command(options: Options, signals: Signals) -> int:
    """`python main.py --config=… --workdir=…`."""
    keep_compiled()
    run_recipe(options.recipe, options.directory, signals)
    return 0


def run_recipe(recipe: Section, workdir: Path, signals: Signals | None = None) -> dict[str, float]:
    """Builds the experiment of a recipe, and trains or evaluates it; see `train`."""
    with at_once(signals):
        experiment = agree(lambda: build(recipe))
    return train(experiment, workdir, signals)


def train(
    experiment: Experiment, workdir: str | os.PathLike[str], signals: Signals | None = None
) -> dict[str, float]:
    """Trains or evaluates in a work directory, from its newest good checkpoint if it has one.

    Args:
      experiment: see `build`.
      workdir: work directory of the run; created if it does not exist.
      signals: requests to stop; None for none.

    Returns:
      The metrics of the last evaluation.

    Raises:
      WorkdirError, RecipeChanged: the directory belongs to something else or another recipe.
      Stopped, Diverged, CheckpointError, RecipeError: see `run_training`.
    """
    with at_once(signals):
        data = (experiment.training, experiment.testing)
        compare(facts_of(experiment.recipe, *(x.fingerprint for x in data if x)))
        fault_point("start.built")
        workdir = open_workdir(workdir, experiment.recipe, HARMLESS)
        experiment.bad_inputs.list_in(workdir / "bad_inputs.jsonl")
        if signals is not None:
            signals.grace_seconds = experiment.run.grace_seconds
            signals.before_exit = lambda reason: _leave(workdir, reason)
        write_status(workdir, "running")
        fault_point("start.opened")
    try:
        if experiment.optimizer is None:
            with at_once(signals):
                results = run_evaluation(experiment, workdir)
        else:
            results = run_training(experiment, workdir, signals)
        write_status(workdir, "finished", exit_code=0, **results)
        return results
    except BaseException as error:
        code = exit_code_of(error)
        write_status(
            workdir,
            "stopped" if code == AGAIN else "failed",
            exit_code=code,
            reason=str(error),
        )
        raise
    finally:
        close_workdir(workdir)


def _leave(workdir: Path, reason: str) -> None:
    """Writes the status of a run that is ended by another thread."""
    write_status(workdir, "stopped", exit_code=AGAIN, reason=reason)
    close_workdir(workdir)
