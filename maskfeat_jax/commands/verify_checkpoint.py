"""Verifies every byte of checkpoints and reports which are good. Changes nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from maskfeat_jax.checkpoints import arrays as stored_arrays
from maskfeat_jax.checkpoints import manifest
from maskfeat_jax.checkpoints.storage import ARRAYS, CheckpointError, Storage, error_text
from maskfeat_jax.commands.options import Options
from maskfeat_jax.distributed.preemption import Signals
from maskfeat_jax.files import local_path

GOOD, DAMAGED = 0, 74  # exit codes


def command(options: Options, signals: Signals) -> int:
    """`python main.py verify-checkpoint --workdir=…`."""
    with signals.nothing_to_lose():
        return verify_checkpoint(options.directory)


def verify_checkpoint(path: str | os.PathLike[str], report: Callable[[str], object] = print) -> int:
    """Compares each file with its manifest, reads the arrays, and warns of non-finite values.

    Args:
      path: a work directory, its `checkpoints`, or one step.
      report: called with each line of the result: for each step whether it is good, which file is
        damaged, its size, the facts saved with it.

    Returns:
      The exit code: 0 if all steps are good, 74 if one is damaged. Steps in `bad/` and unfinished
      ones are reported but do not count.

    Raises:
      CheckpointError: there is no checkpoint.
    """
    directory = local_path(path).absolute()
    if (directory / "checkpoints").is_dir():
        directory = directory / "checkpoints"
    storage = Storage(directory)
    if (directory / manifest.FILE).exists() or (directory / ARRAYS).is_dir():
        return DAMAGED if _is_damaged(directory, None, report) else GOOD
    steps, aside, unfinished = storage.steps(), storage.set_aside(), storage.leftovers()
    if not steps and not aside:
        raise CheckpointError(
            f"{path} contains no checkpoint; expected a work directory with checkpoints/, or one "
            "of its steps"
        )
    damaged = [step for step in steps if _is_damaged(directory / str(step), step, report)]
    for folder in aside:
        report(f"{folder}: moved here as damaged")
    for folder in unfinished:
        report(f"{folder}: left by an interrupted save; the next save deletes it")
    report(f"{len(steps) - len(damaged)} of {len(steps)} steps are good")
    return DAMAGED if damaged or not steps else GOOD


def _is_damaged(directory: Path, step: int | None, report: Callable[[str], object]) -> bool:
    """Verifies and reports a step; returns whether it is damaged."""
    try:
        body = manifest.verify(directory, step)
        leaves = _float_leaves(body["leaves"])
        values = stored_arrays.read(directory / ARRAYS, leaves, partial=True)
    except manifest.Damaged as damage:
        report(f"{directory}: DAMAGED, {damage}")
        return True
    except stored_arrays.STORAGE_ERRORS as error:
        report(
            f"{directory}: DAMAGED, checksums match but arrays cannot be read: {error_text(error)}"
        )
        return True
    names = [name for name in values if name[0] != "recent"]  # which is NaN for steps to come
    wrong = sorted("/".join(name) for name in names if not _finite(values[name]))
    report(
        f"{directory}: good, step {body['step']}, {len(body['files'])} files, "
        f"{manifest.size(body):,} bytes, {len(body['leaves'])} arrays"
    )
    facts = {key: value for key, value in body["facts"].items() if key != "recipe"}  # it is long
    report(f"  saved with {json.dumps(facts, sort_keys=True)}")
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        report(f"  WARNING: values that are not finite in {', '.join(wrong[:5])}{more}")
    return False


def _float_leaves(leaves: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, ...], np.ndarray]:
    """Buffers for the floating-point arrays, which may contain non-finite values."""
    return {
        tuple(name.split("/")): np.empty(leaf["shape"], jnp.dtype(leaf["dtype"]))
        for name, leaf in leaves.items()
        if "float" in leaf["dtype"]
    }


def _finite(values: np.ndarray) -> bool:
    return bool(np.isfinite(values.astype(np.float32, copy=False)).all())
