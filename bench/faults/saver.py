"""A process that saves checkpoints on request: one line of JSON in, one out.

python -m bench.faults.saver DIRECTORY FLOATS

In: `{"step": 3}` saves a state made from the number and waits for the end,
`{"step": 3, "work_s": 5}` does not wait but makes small steps of work for so long,
`{"find": true}` looks for the newest good step and compares every value of it.
Out: `ok` or `error`, and what was seen.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.faults.disk import Disk
from bench.faults.results import ROOT
from maskfeat_jax.checkpoints.checkpointer import CheckpointError, Checkpoints

ARRAYS = "ocdbt.process_0/d/"  # in the names of files that only TensorStore writes


class Saver:
    """Such a process, seen from outside, whose disk fails on request."""

    def __init__(self, process: subprocess.Popen[str], disk: Disk, directory: pathlib.Path):
        self.disk, self.directory, self._process = disk, directory, process

    def ask(self, **order: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@contextlib.contextmanager
def saver(folder: pathlib.Path, floats: int = 500_000) -> Iterator[Saver]:
    disk, directory = Disk(folder), folder / "checkpoints"
    with subprocess.Popen(
        [sys.executable, "-m", "bench.faults.saver", str(directory), str(floats)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **disk.environment},
    ) as process:
        yield Saver(process, disk, directory)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0


def state_of(step: int, floats: int) -> dict[str, Any]:
    """The state that belongs to a step; noise, so that it does not compress."""
    values = np.random.default_rng(step).normal(size=floats).astype(np.float32)
    return {"params": {"w": jnp.asarray(values), "n": jnp.int32(step)}}


def main() -> None:
    floats = int(sys.argv[2])
    checkpoints = Checkpoints(sys.argv[1], pause_s=0.2)
    for line in sys.stdin:
        order = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            if "find" in order:
                answer["found"] = _find(checkpoints, floats)
            else:
                state = state_of(order["step"], floats)
                checkpoints.save(order["step"], state, {})
                if "work_s" in order:
                    answer["work_s"] = _work(order["work_s"])
                    answer["steps_meanwhile"] = checkpoints.steps()
                else:
                    checkpoints.finish()
            answer["ok"] = True
        except CheckpointError as error:
            answer["error"] = str(error)
        answer |= {
            "blocked_s": checkpoints.blocked_s,
            "waited_s": checkpoints.waited_s,
            "written_s": checkpoints.written_s,
            "steps": checkpoints.steps(),
            "messages": checkpoints.messages(),
        }
        print(json.dumps(answer), flush=True)


def _find(checkpoints: Checkpoints, floats: int) -> int | None:
    step = checkpoints.latest_good()
    if step is not None:
        expected = state_of(step, floats)
        restored, _ = checkpoints.restore(step, jax.eval_shape(lambda: expected))
        for found, value in zip(jax.tree.leaves(restored), jax.tree.leaves(expected), strict=True):
            assert np.array_equal(found, value), f"step {step} was restored with other values"
    return step


@jax.jit
def _update(array: jax.Array) -> jax.Array:
    return jnp.tanh(array @ array.T @ array)


def _work(seconds: float) -> list[float]:
    """Seconds of each small step."""
    array = jnp.ones((128, 128)) / 128
    _update(array).block_until_ready()
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = time.perf_counter()
        array = _update(array).block_until_ready()
        times.append(time.perf_counter() - begun)
        time.sleep(0.005)
    return times


if __name__ == "__main__":
    main()
