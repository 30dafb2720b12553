"""Compares the memory that `estimate` predicts with that of real training, on this machine's CPU.

    python -m bench.estimate_memory
    python -m bench.estimate_memory maskfeat_vit_in1k:b16=4 mae_vit_kinetics:l16=2

Each recipe runs in its own process, on one device, with random clips: estimate, compile, create the
state, three updates. "Estimated" are the size of the state by its shapes, and the peak; "compiled"
are the size of the program's arguments, and its sum with the temporary memory, by
`memory_analysis`; "measured" is the growth of the resident memory after compilation, when the state
exists and at its peak during the updates (`VmHWM` of Linux).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any

import jax
import numpy as np

from maskfeat_jax import sharding
from maskfeat_jax.commands.estimate import batch_shapes, estimate
from maskfeat_jax.state import TrainState
from maskfeat_jax.training.build import Computation, build_computation
from maskfeat_jax.training.experiment import abstract_state, jitted_step

ROOT = pathlib.Path(__file__).parents[1]
RECIPES = {"maskfeat_vit_in1k:b16": 8, "maskfeat_mvit_kinetics:s": 1, "mae_vit_kinetics:l16": 4}
UPDATES = 3


def measure(name: str, batch_size: int) -> dict[str, Any]:
    """Bytes of one recipe: estimated, according to the compiler, and measured in this process."""
    from maskfeat_jax import recipes  # needs ml_collections, which `measure_step` does not

    recipe = recipes.load(name).to_dict()
    recipe["run"]["batch_size"] = batch_size
    return {"recipe": name, "batch": batch_size, **measure_step(build_computation(recipe))}


def measure_step(made: Computation) -> dict[str, Any]:
    """Bytes of a step; on an accelerator measured is what its allocator has given out."""
    mesh, batch_size, _, task, optimizer, _ = made
    assert optimizer is not None
    found = estimate(made)
    shapes = abstract_state(task, optimizer, mesh)
    step = jitted_step(task, optimizer, shapes, mesh)
    inputs = batch_shapes(task, mesh, batch_size)
    compiled = step.lower(shapes, inputs).compile()  # again, from the cache
    shardings = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    create = jax.jit(
        lambda key: TrainState.create(task.init(key), optimizer), out_shardings=shardings
    )
    create = create.lower(jax.random.key(0)).compile()
    rng = np.random.default_rng(0)
    batch = {
        key: rng.integers(0, 2, leaf.shape, np.uint8).astype(leaf.dtype)
        for key, leaf in inputs.items()
    }
    batch["valid"] |= True
    before = bytes_in_use()
    state = jax.block_until_ready(create(jax.random.key(0)))
    of_state = bytes_in_use() - before
    if mesh.devices.flat[0].platform == "cpu":
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    for _ in range(UPDATES):
        state, metrics = compiled(state, sharding.to_device(mesh, batch))
    assert np.isfinite(float(metrics["loss"]))
    numbers = compiled.memory_analysis()
    beyond = numbers.output_size_in_bytes - numbers.alias_size_in_bytes
    arguments = numbers.argument_size_in_bytes
    state_bytes = found.parameter_bytes + found.optimizer_bytes + found.average_bytes
    return {
        "state": {"estimated": state_bytes, "compiled": arguments, "measured": of_state},
        "peak": {
            "estimated": found.peak_bytes,
            "compiled": arguments + beyond + numbers.temp_size_in_bytes,
            "measured": peak_bytes() - before,
        },
    }


def bytes_in_use() -> int:
    """Memory of the device in use; on a CPU what is resident, after returning freed memory."""
    if statistics := jax.devices()[0].memory_stats():
        return statistics["bytes_in_use"]
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return _status("VmRSS")


def peak_bytes() -> int:
    """The most that this process has used of the device; on a CPU since the peak was reset."""
    statistics = jax.devices()[0].memory_stats()
    return statistics["peak_bytes_in_use"] if statistics else _status("VmHWM")


def _status(field: str) -> int:
    text = pathlib.Path("/proc/self/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table, in MiB."""
    sides = ("estimated", "compiled", "measured")
    names = [f"{what}, {side}" for what in ("state", "peak") for side in sides]
    lines = ["| recipe | clips | " + " | ".join(names) + " | estimated / measured |"]
    lines.append("|---" * (len(names) + 3) + "|")
    for row in rows:
        sizes = [f"{row[what][side] / 2**20:,.0f}" for what in ("state", "peak") for side in sides]
        ratio = row["peak"]["estimated"] / row["peak"]["measured"]
        first = f"| {row['recipe']} | {row['batch']} | "
        lines.append(first + " | ".join(sizes) + f" | {ratio:.2f} |")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Measures each recipe in its own process and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", help="RECIPE=CLIPS; three recipes by default")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        name, clips = args.cases[0].split("=")
        print(json.dumps(measure(name, int(clips))))
        return
    cases = args.cases or [f"{name}={clips}" for name, clips in RECIPES.items()]
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        settings = {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": cache, "XLA_FLAGS": ""}
        for case in cases:
            command = [sys.executable, "-m", "bench.estimate_memory", "--child", case]
            environment = {**os.environ, **settings}
            output = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
            ).stdout
            rows.append(json.loads(output.splitlines()[-1]))
    print(table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
