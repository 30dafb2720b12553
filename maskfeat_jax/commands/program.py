"""Starts the processes, runs a command, ends with a code."""

from __future__ import annotations

import faulthandler
import importlib
import os
import sys
import traceback
import warnings
from typing import NoReturn

import jax
from absl import logging

from input_pipeline.memory import keep_freed_memory
from maskfeat_jax.commands.exit_codes import AGAIN, INTERNAL, exit_code_of
from maskfeat_jax.commands.options import Options
from maskfeat_jax.distributed.preemption import Signals, Stopped
from maskfeat_jax.distributed.start import finish, start
from maskfeat_jax.faults import fault_point
from maskfeat_jax.training.metrics import Diverged

OUT_OF_MEMORY = (
    "out of device memory: lower run.batch_size, raise run.accumulate, set model.remat=True, or "
    "share the parameters with mesh.parameters; `main.py estimate` says what fits"
)


def run(command: str, options: Options) -> NoReturn:
    """Runs one of `COMMANDS`, and ends the process."""
    if sys.stderr is not None:
        faulthandler.enable()
    # Without the line of code that Python adds.
    warnings.showwarning = lambda text, *_: print(f"warning: {text}", file=sys.stderr)
    signals = Signals()
    logging.set_verbosity(logging.WARNING)  # Orbax reports every file it writes
    keep_freed_memory()
    try:
        with signals.nothing_to_lose():
            module = importlib.import_module(f"maskfeat_jax.commands.{command.replace('-', '_')}")
            fault_point("start.imported")
            start(**options.processes)
            signals.take_back()
        _end(module.command(options, signals))
    except Exception as error:  # the end of the process: all that is left is to say why
        code = exit_code_of(error)
        if code == INTERNAL and not isinstance(error, Diverged):
            traceback.print_exc()
        if "RESOURCE_EXHAUSTED" in str(error):
            print(OUT_OF_MEMORY, file=sys.stderr)
        print(f"{'stopped' if code == AGAIN else 'error'}: {error}", file=sys.stderr)
        _end(code, failed=not isinstance(error, Stopped))


def _end(code: int, failed: bool = False) -> NoReturn:
    """Ends the process; at once where threads may be stuck, or other processes do not end too."""
    finish(failed)
    if code == AGAIN or (failed and jax.process_count() > 1):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
