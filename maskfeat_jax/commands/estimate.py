"""Estimates a training run: parameters, operations, bytes on each device, largest batch.

No array is allocated: shapes are traced and the step is compiled for the mesh. So a laptop can
estimate what a network needs on a pod, with as many forced host devices as the pod has:

    XLA_FLAGS=--xla_force_host_platform_device_count=64 python main.py estimate \
        --config=configs/mae_vit_kinetics.py:h16 --config.mesh.parameters=8 --memory_gb=80

Memory besides the arguments of the compiled step is what the compiler reports (`memory_analysis`)
for the devices at hand. If these are CPUs, an accelerator may need more or less. The largest
difference: a CPU computes attention of many tokens in chunks (`ops.attention`), while
`attention="xla"` on an accelerator stores all weights, `heads x queries x keys` per clip and block;
and each of several host devices computes the chunks of the whole batch. Run it on the accelerator
itself before a long run.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from maskfeat_jax import sharding
from maskfeat_jax.commands.options import Options
from maskfeat_jax.distributed.preemption import Signals
from maskfeat_jax.flops import training_flops
from maskfeat_jax.optim import Optimizer
from maskfeat_jax.tasks import Task
from maskfeat_jax.training.build import build_training
from maskfeat_jax.training.experiment import abstract_state, jitted_step

BATCHES = 3  # on a device: the one in use and two that are prefetched
TRIALS = 5  # limit of compilations to find the largest batch


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Size and cost of a recipe on a mesh. Bytes are those of one device.

    Attributes:
      devices: their number and kind.
      mesh: sizes of the axes.
      batch_size: clips per update, over all devices.
      accumulate: number of slices of a batch (gradient accumulation).
      parameters: number of parameters.
      trainable: number of parameters that are not frozen.
      flops_per_clip: operations of matrix products, forward and backward, see
        `flops.training_flops`.
      flops_per_step: likewise, over all devices.
      parameter_bytes: of the parameters.
      optimizer_bytes: of the optimiser state.
      average_bytes: of the moving average.
      batch_bytes: of one of the `BATCHES` batches.
      temporary_bytes: gradients, activations and other temporaries of the compiled step.
      peak_bytes: sum of all the above.
      memory_bytes: memory of a device; None if unknown.
      largest_batch: most clips per update, over all devices, that fit into that; 0 if none do,
        None if the memory is unknown.
    """

    devices: str
    mesh: dict[str, int]
    batch_size: int
    accumulate: int
    parameters: int
    trainable: int
    flops_per_clip: float
    flops_per_step: float
    parameter_bytes: int
    optimizer_bytes: int
    average_bytes: int
    batch_bytes: int
    temporary_bytes: int
    peak_bytes: int
    memory_bytes: int | None = None
    largest_batch: int | None = None

    def table(self) -> str:
        """A table to print."""
        axes = " x ".join(f"{name} {size}" for name, size in self.mesh.items())
        shards = math.prod(self.mesh[axis] for axis in sharding.ROWS)
        slices = f", in {self.accumulate} slices" if self.accumulate > 1 else ""
        rows = [
            ("mesh", f"{axes}: {self.devices}"),
            ("parameters", f"{self.parameters:,}, trainable {self.trainable:,}"),
            ("operations", f"{self.flops_per_clip / 1e9:,.1f} GFLOP per clip"),
            ("", f"{self.flops_per_step / 1e12:,.2f} TFLOP per step"),
            ("batch", f"{self.batch_size} clips{slices}, {self.batch_size // shards} per device"),
            ("per device", ""),
            ("  parameters", _mib(self.parameter_bytes)),
            ("  optimiser", _mib(self.optimizer_bytes)),
            ("  moving average", _mib(self.average_bytes)),
            ("  batches", f"{_mib(BATCHES * self.batch_bytes)}  ({BATCHES})"),
            ("  temporary", f"{_mib(self.temporary_bytes)}  (gradients, activations)"),
            ("  peak", _mib(self.peak_bytes)),
        ]
        if self.memory_bytes is not None:
            assert self.largest_batch is not None
            each = self.largest_batch // shards
            rows.append(("  memory", _mib(self.memory_bytes)))
            found = f"{self.largest_batch} clips, {each} per device"
            rows.append(("largest batch", found if each else "not even one clip per device fits"))
        return "\n".join(f"{name:18}{value}".rstrip() for name, value in rows)


def command(options: Options, signals: Signals) -> int:
    """`python main.py estimate --config=…`."""
    with signals.nothing_to_lose():
        mesh, run, task, optimizer = build_training(options.recipe)
        found = estimate(
            task,
            optimizer,
            mesh,
            batch_size=run.batch_size,
            accumulate=run.accumulate,
            memory_bytes=int(options.memory_gb * 1e9) if options.memory_gb else None,
        )
    print(found.table())
    return 0


def estimate(
    task: Task,
    optimizer: Optimizer,
    mesh: Mesh,
    *,
    batch_size: int,
    accumulate: int = 1,
    memory_bytes: int | None = None,
) -> Estimate:
    """Compiles the training step for a mesh and adds up its memory and operations.

    Args:
      task: what is trained.
      optimizer: of its parameters.
      mesh: of all devices, see `sharding.create_mesh`.
      batch_size: clips per update, over all devices.
      accumulate: number of slices of a batch (gradient accumulation).
      memory_bytes: memory of one device, to find the largest batch, which is compiled to check that
        it fits; None for what the device reports (CPUs report nothing).

    Raises:
      ValueError: the batch cannot be split into equal slices, or see `sharding.state_sharding`.
    """
    unit = sharding.row_shards(mesh) * accumulate
    if batch_size < 1 or batch_size % unit:
        raise ValueError(
            f"run.batch_size={batch_size} is not a multiple of {unit}: "
            f"{sharding.row_shards(mesh)} shards of a batch x {accumulate} slices (run.accumulate)"
        )
    state = abstract_state(task, optimizer, mesh)
    step = jitted_step(task, optimizer, state, mesh, accumulate)

    @functools.cache
    def needed(rows: int) -> tuple[int, int]:
        """Bytes besides the arguments, and in total."""
        batch = batch_shapes(task, mesh, rows)
        found: Any = step.lower(state, batch).compile().memory_analysis()
        more = found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
        return more, more + bytes_of(state) + BATCHES * bytes_of(batch)

    if memory_bytes is None:
        memory_bytes = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    largest = None
    if memory_bytes is not None:
        unit = _unit_of(task, unit)
        start = -(-batch_size // unit)
        fits = largest_that_fits(lambda units: needed(units * unit)[1], start, memory_bytes)
        largest = fits * unit
    temporary, peak = needed(batch_size)
    flops = training_flops(task.model, task.clip)
    return Estimate(
        devices=f"{mesh.size} of {jax.devices()[0].device_kind}",
        mesh=dict(mesh.shape),
        batch_size=batch_size,
        accumulate=accumulate,
        parameters=_count(state.params),
        trainable=_count(_trainable(state.params, task.model.frozen)),
        flops_per_clip=flops,
        flops_per_step=batch_size * flops,
        parameter_bytes=bytes_of(state.params),
        optimizer_bytes=bytes_of(state.opt_state),
        average_bytes=bytes_of(state.ema),
        batch_bytes=bytes_of(batch_shapes(task, mesh, batch_size)),
        temporary_bytes=temporary,
        peak_bytes=peak,
        memory_bytes=memory_bytes,
        largest_batch=largest,
    )


def batch_shapes(task: Task, mesh: Mesh, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and shardings of a batch on the devices."""
    kinds: dict[str, tuple[tuple[int, ...], Any]] = {
        "video": ((*task.clip, 3), jnp.uint8),
        "label": ((), jnp.int32),
        "valid": ((), jnp.bool_),
        "index": ((2,), jnp.int32),
        "view": ((), jnp.int32),
    }
    layout = sharding.batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=layout)
        for name, (shape, dtype) in kinds.items()
    }


def largest_that_fits(needed: Callable[[int], int], start: int, memory: int) -> int:
    """The largest n for which `needed(n)` is at most `memory`; 0 if there is none.

    Interpolates linearly between the two nearest known values, as memory is about linear in n. Each
    n costs a compilation, so at most `TRIALS` are tried; the result fits, but a larger one may too.

    Args:
      needed: bytes for n, increasing.
      start: first n to try.
      memory: available bytes.
    """
    known = {n: needed(n) for n in (start, max(start // 2, 1) if start > 1 else 2)}
    while len(known) <= TRIALS:
        low = max((n for n in known if known[n] <= memory), default=0)
        high = min((n for n in known if known[n] > memory), default=None)
        if high == low + 1:
            break
        a, b = sorted(sorted(known, key=lambda n: abs(known[n] - memory))[:2])
        slope = max((known[b] - known[a]) / (b - a), 1)
        guess = math.floor(a + (memory - known[a]) / slope)
        if guess == low:
            break
        guess = max(guess, low + 1) if high is None else min(max(guess, low + 1), high - 1)
        known[guess] = needed(guess)
    return max((n for n in known if known[n] <= memory), default=0)


def bytes_of(shapes: Any) -> int:
    """Bytes on one device of a tree of shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(shapes)
    )


def _unit_of(task: Task, unit: int) -> int:
    """The smallest multiple of `unit` rows that is a valid batch of the task."""
    for times in range(1, 1025):
        try:
            task.check_batch(unit * times)
        except ValueError:
            continue
        return unit * times
    raise ValueError(f"no batch size up to {1024 * unit} clips is valid for the task")


def _count(shapes: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def _trainable(shapes: Any, frozen: tuple[str, ...]) -> list[Any]:
    named = jax.tree_util.tree_leaves_with_path(shapes)
    paths = [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in named]
    return [leaf for name, leaf in paths if not any(re.search(p, name) for p in frozen)]


def _mib(size: int) -> str:
    return f"{size / 2**20:12,.1f} MiB"
