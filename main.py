"""Trains or evaluates what a recipe says; checks recipes, data and runs.

    python main.py --config=configs/maskfeat_vit_b16_in1k.py --workdir=runs/a \
        --config.data.path=/data/imagenet

The same command again goes on where the work directory stands. Before it, any of these words:

    estimate           parameters, operations and memory of a recipe; nothing is allocated
    check-data         reads every example of a recipe's data once
    verify-resume      trains a little with and without a kill, and compares to the bit
    verify-checkpoint  compares every file of a work directory's checkpoints with its checksum
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import jax
from absl import app, flags, logging
from ml_collections import config_flags

import input_pipeline
from input_pipeline.memory import keep_freed_memory
from maskfeat_jax.checkpoints.checkpointer import CheckpointError
from maskfeat_jax.commands.check_data import check_data
from maskfeat_jax.commands.estimate import estimate
from maskfeat_jax.commands.verify_checkpoint import verify_checkpoint
from maskfeat_jax.commands.verify_resume import CannotVerify, verify_resume
from maskfeat_jax.convert import ConvertError
from maskfeat_jax.distributed import start as processes
from maskfeat_jax.distributed.collectives import OtherProcessFailed, agree
from maskfeat_jax.distributed.compare import ProcessesDiffer, compare, facts_of
from maskfeat_jax.distributed.preemption import EXIT_CODE as AGAIN
from maskfeat_jax.distributed.preemption import Signals, Stopped
from maskfeat_jax.faults import fault_point
from maskfeat_jax.sections import RecipeError, Section, nearest
from maskfeat_jax.train.build import HARMLESS, build, build_data, build_learner, identity_of
from maskfeat_jax.train.experiment import run_evaluation
from maskfeat_jax.train.metrics import Diverged
from maskfeat_jax.train.setup import at_once, run_training
from maskfeat_jax.transfer import TransferError
from maskfeat_jax.workdir.workdir import (
    StorageError,
    WorkdirError,
    close_workdir,
    open_workdir,
    write_status,
)

# Failures whose message says it all: no traceback, and a code for whoever started the run.
EXIT_CODES: dict[type[Exception], int] = {
    app.UsageError: 64,
    processes.BadStart: 64,
    RecipeError: 78,
    StorageError: 74,
    WorkdirError: 78,
    TransferError: 78,
    ProcessesDiffer: 78,
    input_pipeline.BadInput: 65,
    input_pipeline.TooManyBadInputs: 65,
    ConvertError: 65,
    Diverged: 70,
    CannotVerify: 70,
    CheckpointError: 74,
    Stopped: AGAIN,
    processes.StartFailed: AGAIN,
    OtherProcessFailed: AGAIN,
}
INTERNAL = 70
OUT_OF_MEMORY = (
    "out of device memory: lower run.batch_size, raise run.accumulate, set model.remat=True, or "
    "share the parameters with mesh.parameters; `main.py estimate` says what fits"
)


def run_recipe(recipe: Section, workdir: Path, signals: Signals | None = None) -> dict[str, float]:
    """Trains or evaluates; returns the metrics of the last evaluation."""
    with at_once(signals):
        experiment = agree(lambda: build(recipe, workdir))
        compare(facts_of(recipe, experiment.data.source.fingerprint))
        fault_point("start.built")
        workdir = open_workdir(workdir, recipe, HARMLESS)
        if signals is not None:
            signals.grace_seconds = experiment.run.grace_seconds
            signals.before_exit = lambda reason: leave(workdir, reason)
        write_status(workdir, "running")
        fault_point("start.opened")
    try:
        if experiment.optimizer is None:
            with at_once(signals):
                results = run_evaluation(experiment, workdir)
        else:
            identity = identity_of(recipe)
            results = run_training(experiment, workdir, identity=identity, signals=signals)
        write_status(workdir, "finished", exit_code=0, **results)
        return results
    except BaseException as error:
        code = exit_code_of(error)
        state = "stopped" if code == AGAIN else "failed"
        write_status(workdir, state, exit_code=code, reason=str(error))
        raise
    finally:
        close_workdir(workdir)


def leave(workdir: Path, reason: str) -> None:
    """What a run that ends from another thread leaves behind."""
    write_status(workdir, "stopped", exit_code=AGAIN, reason=reason)
    close_workdir(workdir)


def exit_code_of(error: BaseException) -> int:
    """See `EXIT_CODES`; 75 also where a process of several was lost."""
    if processes.is_lost_process(error):
        return AGAIN
    codes = (code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
    return next(codes, INTERNAL)


def train(signals: Signals) -> int:
    """The command without a word."""
    run_recipe(the_recipe(), the_workdir(), signals)
    return 0


def estimate_recipe(signals: Signals) -> int:
    """See `maskfeat_jax.commands.estimate`."""
    with signals.nothing_to_lose():
        parts = build_learner(the_recipe())
        found = estimate(
            parts["task"],
            parts["optimizer"],
            parts["mesh"],
            batch_size=parts["run"].batch_size,
            accumulate=parts["run"].accumulate,
            memory_bytes=int(_MEMORY_GB.value * 1e9) if _MEMORY_GB.value else None,
        )
    print(found.table())
    return 0


def check_all_data(signals: Signals) -> int:
    """See `maskfeat_jax.commands.check_data`."""
    with signals.nothing_to_lose():
        data = build_data(the_recipe())
        on_bad = data.pop("on_bad")
        # Beside the work directory: a run refuses one that has foreign files in it.
        listed = f"{the_workdir()}.bad_data.jsonl" if _WORKDIR.value else None
        return check_data(data, on_bad=on_bad, list_path=listed)


def check_resume(signals: Signals) -> int:
    """See `maskfeat_jax.commands.verify_resume`."""
    recipe, workdir = the_recipe(), the_workdir()
    with signals.nothing_to_lose():
        experiment = build(recipe, workdir)
        program = (sys.executable, str(Path(__file__).absolute()))
        return 0 if verify_resume(experiment, recipe, workdir, program) else INTERNAL


def check_checkpoint(signals: Signals) -> int:
    """See `maskfeat_jax.commands.verify_checkpoint`."""
    with signals.nothing_to_lose():
        return verify_checkpoint(the_workdir())


COMMANDS: dict[str, Callable[[Signals], int]] = {
    "check-data": check_all_data,
    "estimate": estimate_recipe,
    "train": train,
    "verify-checkpoint": check_checkpoint,
    "verify-resume": check_resume,
}

# Keys that a recipe leaves at their default can be given as well: `build` refuses unknown ones.
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The recipe.", lock_config=False, accept_new_attributes=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One of several processes that JAX finds: Slurm, TPU pod, Kubernetes."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0, the same for every process."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
_START_SECONDS = flags.DEFINE_float("start_seconds", 300.0, "How long to wait for the others.")

_MEMORY_GB = flags.DEFINE_float("memory_gb", None, "estimate: memory of a device, 1e9 bytes.")


def the_recipe() -> dict[str, Any]:
    """The recipe of the command line."""
    if _CONFIG.value is None:
        raise app.UsageError("--config is missing: name a recipe, such as configs/smoke.py")
    try:
        return _CONFIG.value.to_dict()
    except OSError as error:
        raise RecipeError(f"--config: {error}") from error


def the_workdir() -> Path:
    """The work directory of the command line."""
    if _WORKDIR.value is None:
        raise app.UsageError("--workdir is missing: name the directory of the run")
    return Path(_WORKDIR.value)


def main(argv: list[str]) -> None:
    """Does what the command line says."""
    signals = Signals()
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file it writes
    keep_freed_memory()
    try:
        with signals.nothing_to_lose():
            fault_point("start.imported")
            command = command_of(argv[1:])
            processes.start(
                coordinator=_COORDINATOR.value,
                num_processes=_NUM_PROCESSES.value,
                process_id=_PROCESS_ID.value,
                distributed=_DISTRIBUTED.value,
                timeout_seconds=_START_SECONDS.value,
            )
            signals.take_back()
        end(command(signals))
    except Exception as error:  # the end of the process: all that is left is to say why
        code = exit_code_of(error)
        if code == INTERNAL and not isinstance(error, Diverged):
            traceback.print_exc()
        if "RESOURCE_EXHAUSTED" in str(error):
            print(OUT_OF_MEMORY, file=sys.stderr)
        print(f"{'stopped' if code == AGAIN else 'error'}: {error}", file=sys.stderr)
        end(code, "" if isinstance(error, Stopped) else f"{type(error).__name__}: {error}")


def command_of(words: list[str]) -> Callable[[Signals], int]:
    """The command that the command line names."""
    if len(words) > 1 or (words and words[0] not in COMMANDS):
        raise app.UsageError(f"not understood: {' '.join(words)}{nearest(words[0], COMMANDS)}")
    return COMMANDS[words[0] if words else "train"]


def parse(argv: list[str]) -> list[str]:
    """Reads flags and recipe; ends the process with a sentence where that fails."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        code = 78 if "config." in str(error) else 64
        sys.exit(say(f"error: {error}", code))
    except (KeyError, AttributeError) as error:  # a section that the recipe does not have
        sys.exit(say(f"error: --config: {error.args[0]}", 78))


def say(words: str, code: int) -> int:
    """Tells what went wrong; the exit code."""
    print(words, file=sys.stderr)
    return code


def end(code: int, failure: str = "") -> NoReturn:
    """Ends the process; at once where threads may be stuck, or other processes do not end too."""
    processes.finish(bool(failure))
    if code == AGAIN or (failure and jax.process_count() > 1):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
