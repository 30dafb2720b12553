"""Trains the runs of a sweep, one after the other, and writes their results as a table.

    python main.py sweep --config=configs/sweeps/demo.py --workdir=runs/sweep

The same command again starts what is missing or has failed.
"""

from __future__ import annotations

import os
import pprint
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax

from maskfeat_jax.commands.options import Options, UsageError
from maskfeat_jax.commands.sweep_plan import Run, plan
from maskfeat_jax.commands.sweep_results import (
    COMPLETE,
    FAILED,
    MISSING,
    forget,
    record,
    state_of,
    summary,
    write_results,
)
from maskfeat_jax.distributed.preemption import Signals, Stopped
from maskfeat_jax.files import write_atomically
from maskfeat_jax.training.settings import Run as RunSettings

SOME_FAILED = 1  # exit code
_PROGRAM = '''"""{name} of a sweep."""

from ml_collections import ConfigDict

RECIPE = (
{recipe}
)


def get_config():
    return ConfigDict(RECIPE)
'''
_POLL_SECONDS, _WAIT_SECONDS = 0.1, 10.0
_MORE_SECONDS = 5.0  # than its run has to end after a signal
_LONGEST = 500  # characters of an error in the results


def command(options: Options, signals: Signals) -> int:
    """`python main.py sweep --config=… --workdir=…`."""
    if options.processes["distributed"] or options.processes["num_processes"]:
        raise UsageError("sweep: each run is one process; --share deals them out to several")
    # Recipes are checked here, but the devices are for the runs.
    jax.config.update("jax_platforms", "cpu")
    with signals.nothing_to_lose():
        share, shares = share_of(options.share, os.environ)
        runs = plan(options.recipe, options.directory)
        try:
            options.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--workdir: {error}") from error
        program = (sys.executable, str(Path(sys.argv[0]).absolute()))
    return sweep(runs, options.directory, program, signals, share, shares)


def share_of(flag: str | None, environment: Mapping[str, str]) -> tuple[int, int]:
    """Which share of the rows is for this process, from 0, and of how many.

    Args:
      flag: `--share`, such as "2/8"; None for Slurm's job array, or for all rows outside one.
      environment: of this process.

    Raises:
      UsageError: there is no such share.
    """
    if flag is not None:
        found = re.fullmatch(r"(\d+)/(\d+)", flag)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError(f"--share={flag}: expected 1/8 to 8/8 for eight processes")
        return int(found[1]) - 1, int(found[2])
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return 0, 1
    task = int(environment["SLURM_ARRAY_TASK_ID"])
    first, count = (
        int(environment.get(f"SLURM_ARRAY_TASK_{name}", 0)) for name in ("MIN", "COUNT")
    )
    if not task - first < count:
        raise UsageError(
            f"SLURM_ARRAY_TASK_ID={task}: tasks of the array must be numbered without gaps"
        )
    return task - first, count


def sweep(
    runs: Sequence[Run],
    workdir: Path,
    program: Sequence[str],
    signals: Signals,
    share: int = 0,
    shares: int = 1,
    report: Callable[[str], object] = print,
) -> int:
    """Starts the runs of a share that are not complete, each when those that it needs are.

    Args:
      runs: all of the sweep.
      workdir: an existing directory; gets the tables, and a directory for each row.
      program: command that starts a run; `--config=` and `--workdir=` are appended.
      signals: requests to stop.
      share: of the rows, from 0.
      shares: number of shares.
      report: called with each line of progress.

    Returns:
      The exit code: 1 if a run of the share has failed.

    Raises:
      Stopped: a signal arrived, and the run that was training has ended.
    """
    rows = list(dict.fromkeys(run.row for run in runs))
    own = [run for run in runs if rows.index(run.row) % shares == share]
    pending = [run for run in own if state_of(run) != COMPLETE]
    for run in pending:
        forget(run)
    report(f"{len(own)} runs, {len(own) - len(pending)} of them complete")
    write_results(runs, workdir)
    waiting: set[Path] = set()
    while pending:
        states = {run.workdir: state_of(run) for run in runs}
        unknown = {path for run in pending for path in run.needs if states[path] == MISSING}
        ready = [run for run in pending if unknown.isdisjoint(run.needs)]
        if not ready:
            for path in sorted(unknown - waiting - {run.workdir for run in own}):
                report(f"waiting for {path}, a run of another share")
            waiting |= unknown
            _pause(signals, _WAIT_SECONDS)
            continue
        run = ready[0]
        pending.remove(run)
        failed = [path for path in run.needs if states[path] == FAILED]
        if failed:
            record(run, None, f"left out, since {failed[0]} has failed")
        else:
            report(f"{run.name}: started, see {run.workdir}.log")
            record(run, *_train(run, program, signals))
        report(f"{run.name}: {summary(run)}")
        write_results(runs, workdir)
        if signals.stopping:
            raise Stopped(f"{signals.reason} came when {run.name} had ended")
    complete = sum(state_of(run) == COMPLETE for run in own)
    report(f"{complete} of {len(own)} runs are complete: {workdir / 'table.md'}")
    return 0 if complete == len(own) else SOME_FAILED


def _train(run: Run, program: Sequence[str], signals: Signals) -> tuple[int, str]:
    """Exit code and last words of a run.

    Raises:
      Stopped: a signal arrived; the run has got it too, and has ended.
    """
    run.workdir.parent.mkdir(exist_ok=True)
    recipe, log = Path(f"{run.workdir}.py"), Path(f"{run.workdir}.log")
    write_atomically(recipe, _PROGRAM.format(name=run.name, recipe=pprint.pformat(run.recipe)))
    grace = run.recipe.get("run", {}).get("grace_seconds") or RunSettings.grace_seconds
    signals.grace_seconds = grace + _MORE_SECONDS
    with log.open("ab") as output:
        start = output.tell()
        child = subprocess.Popen(
            [*program, f"--config={recipe}", f"--workdir={run.workdir}"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    signals.before_exit = lambda _: child.terminate()  # a second signal, or the end of the grace
    passed_on = False
    while child.poll() is None:
        if signals.stopping and not passed_on:
            passed_on = True
            child.terminate()
        time.sleep(_POLL_SECONDS)
    signals.before_exit = None
    if signals.stopping and child.returncode:
        raise Stopped(
            f"{signals.reason} was passed on to {run.name}, which ended with code "
            f"{child.returncode}"
        )
    text = log.read_bytes()[start:].decode(errors="replace")
    return child.returncode, last_words(text)


def last_words(text: str) -> str:
    """The error at the end of a log, or else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no output"]
    errors = [i for i, line in enumerate(lines) if line.startswith(("error: ", "stopped: "))]
    return " ".join(lines[errors[-1] if errors else -1 :])[:_LONGEST]


def _pause(signals: Signals, seconds: float) -> None:
    """Waits, unless a signal arrives.

    Raises:
      Stopped: one has arrived.
    """
    with signals.nothing_to_lose():
        time.sleep(seconds)
