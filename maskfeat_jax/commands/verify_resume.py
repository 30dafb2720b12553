"""Checks on this machine that killed and resumed runs equal an uninterrupted one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from maskfeat_jax.checkpoints.checkpointer import Checkpoints
from maskfeat_jax.checkpoints.trees import named_leaves
from maskfeat_jax.commands.options import CannotVerify, Options
from maskfeat_jax.distributed.preemption import Signals
from maskfeat_jax.training.build import build
from maskfeat_jax.training.experiment import Experiment

DIFFERENT = 70  # exit code
TOLERANCE = 1e-5  # relative, of losses: above numerical noise, below errors of resuming
_AS_PROGRAM = """import json

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(json.loads({recipe}))
"""
_TIMES = ("time", "train/clips_per_sec", "train/clips_per_sec_per_device", "train/input_wait_frac")


def command(options: Options, signals: Signals) -> int:
    """`python main.py verify-resume --config=… --workdir=…`."""
    workdir = options.directory
    with signals.nothing_to_lose():
        experiment = build(options.recipe)
        program = (sys.executable, str(Path(sys.argv[0]).absolute()))
        return 0 if verify_resume(experiment, workdir, program) else DIFFERENT


def verify_resume(
    experiment: Experiment,
    workdir: Path,
    program: Sequence[str],
    *,
    steps: int = 20,
    report: Callable[[str], object] = print,
) -> bool:
    """Trains uninterrupted, with a kill and with a signal to stop, and compares the results.

    Args:
      experiment: of the recipe.
      workdir: a new directory; the runs are in `whole`, `killed` and `stopped` in it.
      program: command that starts a run; `--config=` and `--workdir=` are appended.
      steps: updates of each run; it is saved after a half and interrupted after three quarters.
      report: called with each line of the result.

    Returns:
      Whether examples are equal and losses are bit-identical or within `TOLERANCE`.

    Raises:
      CannotVerify: a run ended with an unexpected exit code.
    """
    half, later = steps // 2, 3 * steps // 4
    assert experiment.training is not None
    per_epoch = experiment.training.steps_per_epoch
    recipe = experiment.recipe
    short = {
        **recipe,
        "eval_data": {"name": ""},
        "optim": {**recipe["optim"], "warmup_epochs": half / per_epoch},
        "run": {
            **recipe["run"],
            "epochs": steps / per_epoch,
            "checkpoint_every_epochs": half / per_epoch,
            "log_every_steps": 1,
            "evaluate_every_epochs": 0,
            "pictures_every_epochs": 0,
        },
    }
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "recipe.py").write_text(_AS_PROGRAM.format(recipe=json.dumps(json.dumps(short))))
    command = [*program, f"--config={workdir / 'recipe.py'}"]
    _run(command, workdir / "whole", "", 0)
    _run(command, workdir / "killed", f"step:kill@{later}", -9)
    _run(command, workdir / "stopped", f"step:term@{later}", 75)
    same = _same_examples(experiment, half, steps, report)
    for name in ("killed", "stopped"):
        _run(command, workdir / name, "", 0)
        same &= _same_losses(workdir / "whole", workdir / name, report)
        _same_state(experiment, workdir / "whole", workdir / name, steps, report)
    return same


def _run(command: Sequence[str], workdir: Path, faults: str, exit_code: int) -> None:
    environment = {**os.environ, "MASKFEAT_FAULTS": faults}
    done = subprocess.run(
        [*command, f"--workdir={workdir}"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != exit_code:
        raise CannotVerify(
            f"the run in {workdir} ended with code {done.returncode}, expected {exit_code}:\n"
            + done.stderr[-2000:]
        )


def _same_examples(
    experiment: Experiment, half: int, steps: int, report: Callable[[str], object]
) -> bool:
    """Compares batches of a loader started at step `half` with those of one started at 0."""
    assert experiment.training is not None
    from_start = experiment.training.train_batches(0)
    from_half = experiment.training.train_batches(half)
    for _ in range(half):
        next(from_start)
    for step in range(half, steps):
        ours, theirs = next(from_half), next(from_start)
        for name in ours:
            if not np.array_equal(ours[name], theirs[name]):
                report(f"examples: {name} of step {step} differs if the loader starts at {half}")
                return False
    from_start.close()
    from_half.close()
    report(f"examples: bit-identical, steps {half} to {steps}")
    return True


def _same_losses(whole: Path, other: Path, report: Callable[[str], object]) -> bool:
    rows, others = _metrics(whole), _metrics(other)
    if rows == others:
        report(f"{other.name}: metrics of {len(rows)} steps are bit-identical")
        return True
    if [row["step"] for row in rows] != [row["step"] for row in others]:
        report(f"{other.name}: {len(others)} lines of metrics, expected {len(rows)}")
        return False
    pairs = zip(rows, others, strict=True)
    first = next(row["step"] for row, other_row in pairs if row != other_row)
    losses, other_losses = (np.array([r["train/loss"] for r in x], float) for x in (rows, others))
    worst = float(np.max(np.abs(losses - other_losses) / np.abs(losses)))
    report(f"{other.name}: losses differ by at most {worst:.1e} (relative), first at step {first}")
    return worst <= TOLERANCE


def _metrics(workdir: Path) -> list[Mapping[str, Any]]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [{k: v for k, v in json.loads(line).items() if k not in _TIMES} for line in lines]
    return [row for row in rows if "train/loss" in row]


def _same_state(
    experiment: Experiment, whole: Path, other: Path, step: int, report: Callable[[str], object]
) -> None:
    like = experiment.abstract_state.stored
    states = (Checkpoints(w / "checkpoints").restore(step, like)[0] for w in (whole, other))
    ours, theirs = (named_leaves(state) for state in states)
    differ = [name for name, leaf in ours.items() if not _same_bits(leaf, theirs[name])]
    report(
        f"{other.name}: {len(differ)} of {len(ours)} arrays differ, first {'/'.join(differ[0])}"
        if differ
        else f"{other.name}: {len(ours)} arrays of parameters and optimiser are bit-identical"
    )


def _same_bits(ours: jax.Array, theirs: jax.Array) -> bool:
    pairs = zip(ours.addressable_shards, theirs.addressable_shards, strict=True)
    return all(np.asarray(a.data).tobytes() == np.asarray(b.data).tobytes() for a, b in pairs)
