"""Reads every byte of saved steps and says which are good. Changes nothing."""

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

GOOD, DAMAGED = 0, 74  # exit codes


def command(options: Options, signals: Signals) -> int:
    """`python main.py verify-checkpoint --workdir=…`."""
    with signals.nothing_to_lose():
        return verify_checkpoint(options.directory)


def verify_checkpoint(path: str | os.PathLike[str], tell: Callable[[str], object] = print) -> int:
    """Compares each file with its manifest, reads the arrays, and tells of values not finite.

    Args:
      path: a work directory, its `checkpoints`, or one step.
      tell: takes the lines of the result: for each step good or damaged, which file, how many
        bytes, of which facts it was saved with.

    Returns:
      The exit code: 0 if all steps are good, 74 if one is damaged. What lies in `bad/` or is
      unfinished is told but does not count.

    Raises:
      CheckpointError: there is no step.
    """
    directory = Path(path).absolute()
    if (directory / "checkpoints").is_dir():
        directory = directory / "checkpoints"
    storage = Storage(directory)
    if (directory / manifest.FILE).exists() or (directory / ARRAYS).is_dir():
        return DAMAGED if _tell_of(directory, None, tell) else GOOD
    steps, aside, unfinished = storage.steps(), storage.set_aside(), storage.leftovers()
    if not steps and not aside:
        raise CheckpointError(
            f"{path} holds no checkpoint; expected a work directory with checkpoints/, or one of "
            "its steps"
        )
    damaged = [step for step in steps if _tell_of(directory / str(step), step, tell)]
    for folder in aside:
        tell(f"{folder}: was set aside as damaged")
    for folder in unfinished:
        tell(f"{folder}: of a save that was cut short; the next save clears it")
    tell(f"{len(steps) - len(damaged)} of {len(steps)} steps are good")
    return DAMAGED if damaged or not steps else GOOD


def _tell_of(directory: Path, step: int | None, tell: Callable[[str], object]) -> bool:
    """Whether a step is damaged."""
    try:
        body = manifest.verify(directory, step)
        leaves = _float_leaves(body["leaves"])
        values = stored_arrays.read(directory / ARRAYS, leaves, partial=True)
    except manifest.Damaged as damage:
        tell(f"{directory}: DAMAGED, {damage}")
        return True
    except stored_arrays.STORAGE_ERRORS as error:
        tell(
            f"{directory}: DAMAGED, its files are as saved but cannot be read: {error_text(error)}"
        )
        return True
    wrong = sorted("/".join(name) for name in values if not _finite(values[name]))
    tell(
        f"{directory}: good, step {body['step']}, {len(body['files'])} files, "
        f"{manifest.size(body):,} bytes, {len(body['leaves'])} arrays"
    )
    tell(f"  saved with {json.dumps(body['facts'], sort_keys=True)}")
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        tell(f"  WARNING: values that are not finite in {', '.join(wrong[:5])}{more}")
    return False


def _float_leaves(leaves: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, ...], np.ndarray]:
    """Room for the arrays that may hold values that are not finite."""
    return {
        tuple(name.split("/")): np.empty(leaf["shape"], jnp.dtype(leaf["dtype"]))
        for name, leaf in leaves.items()
        if "float" in leaf["dtype"]
    }


def _finite(values: np.ndarray) -> bool:
    return bool(np.isfinite(values.astype(np.float32, copy=False)).all())
