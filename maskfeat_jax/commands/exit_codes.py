"""Exit codes of the process; docs/reliability.md has the table."""

from __future__ import annotations

import input_pipeline
from maskfeat_jax.checkpoints.checkpointer import CheckpointError
from maskfeat_jax.commands.options import CannotVerify, UsageError
from maskfeat_jax.convert import ConvertError
from maskfeat_jax.distributed.collectives import OtherProcessFailed
from maskfeat_jax.distributed.compare import ProcessesDiffer
from maskfeat_jax.distributed.preemption import EXIT_CODE as AGAIN
from maskfeat_jax.distributed.preemption import Stopped
from maskfeat_jax.distributed.start import BadStart, StartFailed, is_lost_process
from maskfeat_jax.sections import RecipeError
from maskfeat_jax.training.metrics import Diverged
from maskfeat_jax.transfer import TransferError
from maskfeat_jax.workdir.workdir import StorageError, WorkdirError

# Errors whose message is sufficient: printed without traceback.
EXIT_CODES: dict[type[Exception], int] = {
    UsageError: 64,
    BadStart: 64,
    RecipeError: 78,
    input_pipeline.InputNotInstalled: 78,
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
    StartFailed: AGAIN,
    OtherProcessFailed: AGAIN,
}
INTERNAL = 70


def exit_code_of(error: BaseException) -> int:
    """See `EXIT_CODES`; also 75 if another process of the run was lost."""
    if is_lost_process(error):
        return AGAIN
    codes = (code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
    return next(codes, INTERNAL)
