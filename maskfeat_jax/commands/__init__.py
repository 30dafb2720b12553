"""The commands of `main.py`: one module each, listed here."""

from __future__ import annotations

from collections.abc import Callable

from maskfeat_jax.commands import (
    check_data,
    estimate,
    train,
    verify_checkpoint,
    verify_resume,
)
from maskfeat_jax.commands.options import Options
from maskfeat_jax.distributed.preemption import Signals

# `visualize` has flags of its own: see main.py.
COMMANDS: dict[str, Callable[[Options, Signals], int]] = {
    "check-data": check_data.command,
    "estimate": estimate.command,
    "train": train.command,
    "verify-checkpoint": verify_checkpoint.command,
    "verify-resume": verify_resume.command,
}
