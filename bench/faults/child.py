"""A training process as `main.py` starts it, watched and, where a test says so, spoilt.

    python -m bench.faults.child SPEC.json     # one
    python -m bench.faults.child               # forks one for each request on standard input

The spec is a JSON object:

    argv      words for main.py
    env       environment variables to add
    ids       file for a line `[process, step, [ids of the examples]]` of each update, or null
    notes     file that gets the examples of each batch and digests of saved states: see notes.py
    trace     file that gets a line `seconds process point count` for each fault point reached
    pause     seconds to wait before each update, so that there is something to hit
    poison    what is not finite, and when: see poison.py
    leave_out steps whose update is left out, from outside of the compiled step
    mutant    a bug to plant, of mutants.py

A request is a line `{"spec": PATH, "output": PATH}`; answers are lines `{"started": PID}` and
`{"ended": PID, "status": STATUS}`. A forked process has the modules imported before: that saves
most of the time of a short run, and everything that matters happens after it.
"""

from __future__ import annotations

import collections
import json
import os
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from maskfeat_jax import faults

# Points do nothing without a plan, and could not be traced: this one never happens.
_NEVER = faults.Fault("shutdown", "sleep", "0", 10**9)


class _Traced(collections.Counter[str]):
    """Counts fault points, and writes down when each was reached."""

    def __init__(self, file: str):
        super().__init__()
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def __setitem__(self, point: str, count: int) -> None:
        super().__setitem__(point, count)
        os.write(self._file, f"{time.time():.3f} {os.getpid()} {point} {count}\n".encode())


class Step:
    """The compiled step; writes down the ids of what it gets."""

    def __init__(self, step: Callable[..., Any], spec: dict[str, Any]):
        self._step, self._spec = step, spec

    def __call__(self, state: Any, batch: Any) -> Any:
        time.sleep(self._spec.get("pause", 0))
        number = int(state.step)
        with open(self._spec["ids"], "a") as file:
            file.write(json.dumps([os.getpid(), number, _ids(batch)]) + "\n")
        if number not in self._spec.get("leave_out", ()):
            return self._step(state, batch)
        kept = jax.tree.map(lambda leaf: leaf.copy(), state)
        new, metrics = self._step(state, batch)
        return kept.replace(step=new.step, skipped=kept.skipped + 1), metrics

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)


def _ids(batch: Any) -> list[int]:
    """Ids of a batch: where JAX has no 64-bit numbers they are two halves."""
    return np.ascontiguousarray(batch["index"]).view(np.int64).ravel().tolist()


def watch(spec: dict[str, Any]) -> None:
    """Puts `Step` around the step of the loop."""
    loop = training.Training

    def watched(*words: Any, step: Callable[..., Any], **named: Any) -> Any:
        return loop(*words, step=Step(step, spec), **named)

    training.Training = watched


def run(spec: dict[str, Any]) -> None:
    """Does what the spec says; ends the process."""
    os.environ.update(spec.get("env", {}))
    faults._faults = [*faults.plan(os.environ.get("MASKFEAT_FAULTS", "")), _NEVER]
    faults._reached = _Traced(spec["trace"])
    import_all()
    if spec["ids"]:
        watch(spec)
    if "notes" in spec:
        from bench.faults import notes

        notes.watch(spec["notes"])
    if "poison" in spec:
        from bench.faults.poison import poison

        poison(spec["poison"])
    if "mutant" in spec:
        from bench.faults.mutants import MUTANTS

        MUTANTS[spec["mutant"]].plant()
    sys.argv = ["main.py", *spec["argv"]]
    command_line.main()


def import_all() -> None:
    """Imports what a run needs; no device is touched."""
    global command_line, jax, np, training
    import jax
    import numpy as np

    from maskfeat_jax.commands import command_line, program, train  # noqa: F401
    from maskfeat_jax.training import run as training


def serve() -> None:
    """Forks a process for each request."""
    import_all()
    import input_pipeline.tf_data  # noqa: F401  # TensorFlow

    requests = sys.stdin.buffer.raw  # nothing is read ahead that a fork would have too
    while True:
        if select.select([requests], [], [], 0.01)[0]:
            line = requests.readline()
            if not line:
                return
            _answer(started=_forked(json.loads(line)))
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not process:
                break
            _answer(ended=process, status=status)


def _answer(**words: int) -> None:
    print(json.dumps(words), flush=True)


def _forked(request: dict[str, str]) -> int:
    process = os.fork()
    if process:
        return process
    os.setsid()
    output = os.open(request["output"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    run(json.loads(Path(request["spec"]).read_text()))
    sys.exit(0)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(json.loads(Path(sys.argv[1]).read_text()))
    else:
        serve()
