"""What a training run will take: parameters, operations, bytes on each device, the largest batch.

No array is made: shapes are traced and the step is compiled for the mesh. So a laptop can tell what
a network needs on a pod, with as many forced host devices as the pod has:

    XLA_FLAGS=--xla_force_host_platform_device_count=64 python main.py estimate \
        --config=configs/mae_vit_kinetics.py:h16 --config.mesh.parameters=8 --memory_gb=80

What the compiled program needs besides its arguments is the compiler's own number
(`memory_analysis`), that of the program for the devices at hand. Where those are CPUs, the program
of an accelerator may need more or less. The largest difference: a CPU goes through attention of
many tokens in chunks (`ops.attention`), where `attention="xla"` on an accelerator writes out all
weights, `heads x queries x keys` a clip and block; and each of several host devices goes through
the chunks of the whole batch. Ask an accelerator itself before a long run.
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

BATCHES = 3  # on a device: the one in use and two that are ready or on their way
TRIALS = 5  # programs compiled at most to find the largest batch


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What one recipe takes on one mesh. Bytes are those of one device.

    Attributes:
      devices: how many, and of what kind.
      mesh: sizes of the axes.
      batch_size: clips per update, over all devices.
      accumulate: parts that a batch is computed in.
      parameters: numbers in the network.
      trainable: numbers among them that are not frozen.
      flops_per_clip: operations of products, forward and backward, see `flops.training_flops`.
      flops_per_step: likewise, over all devices.
      parameter_bytes: of the parameters.
      optimizer_bytes: of its state.
      average_bytes: of the moving average.
      batch_bytes: of one batch; there are `BATCHES`.
      temporary_bytes: gradients, activations and whatever else the compiled step needs.
      peak_bytes: of all these together.
      memory_bytes: of a device; None where nobody said.
      largest_batch: clips per update, over all devices, that fit into that; 0 if none do, None if
        the memory is not known.
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
        """For people."""
        axes = " x ".join(f"{name} {size}" for name, size in self.mesh.items())
        shards = math.prod(self.mesh[axis] for axis in sharding.ROWS)
        parts = f", in {self.accumulate} parts" if self.accumulate > 1 else ""
        rows = [
            ("mesh", f"{axes}: {self.devices}"),
            ("parameters", f"{self.parameters:,}, learnt {self.trainable:,}"),
            ("operations", f"{self.flops_per_clip / 1e9:,.1f} GFLOP for a clip"),
            ("", f"{self.flops_per_step / 1e12:,.2f} TFLOP for a step"),
            ("batch", f"{self.batch_size} clips{parts}, {self.batch_size // shards} on a device"),
            ("on each device", ""),
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
            found = f"{self.largest_batch} clips, {each} on a device"
            rows.append(("largest batch", found if each else "not one clip on each device fits"))
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
    """Compiles the training step for a mesh and adds up what it takes.

    Args:
      task: what is trained.
      optimizer: of its parameters.
      mesh: of all devices, see `sharding.create_mesh`.
      batch_size: clips per update, over all devices.
      accumulate: parts that a batch is computed in.
      memory_bytes: of one device, for the largest batch; None asks the devices, which CPUs do not
        answer. What is found has been compiled too, and fits.

    Raises:
      ValueError: the batch cannot be cut into equal parts, or see `sharding.state_sharding`.
    """
    unit = sharding.row_shards(mesh) * accumulate
    if batch_size < 1 or batch_size % unit:
        raise ValueError(
            f"run.batch_size={batch_size} is not a multiple of {unit}, that is of "
            f"{sharding.row_shards(mesh)} devices with rows of their own x {accumulate} parts "
            "(run.accumulate)"
        )
    state = abstract_state(task, optimizer, mesh)
    step = jitted_step(task, optimizer, state, mesh, accumulate)

    @functools.cache
    def needed(rows: int) -> tuple[int, int]:
        """Bytes besides the arguments, and of all there is."""
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
        parameters=_numbers(state.params),
        trainable=_numbers(_trainable(state.params, task.model.frozen)),
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
    """A batch as it lies on the devices."""
    kinds: dict[str, tuple[tuple[int, ...], Any]] = {
        "video": ((*task.clip, 3), jnp.uint8),
        "label": ((), jnp.int32),
        "valid": ((), jnp.bool_),
        "index": ((2,), jnp.int32),
        "view": ((), jnp.int32),
    }
    place = sharding.batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=place)
        for name, (shape, dtype) in kinds.items()
    }


def largest_that_fits(needed: Callable[[int], int], start: int, memory: int) -> int:
    """The largest n for which `needed(n)` is at most `memory`; 0 if there is none.

    Goes along the line through the two nearest of what it knows, as memory grows by the row. Each
    n costs a compilation, so it looks at `TRIALS` at most and may stop at one that fits but is not
    the largest.

    Args:
      needed: bytes for n, growing with n.
      start: n to begin with.
      memory: bytes there are.
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
    """The smallest multiple of a number of rows that the task takes as a batch."""
    for times in range(1, 1025):
        try:
            task.check_batch(unit * times)
        except ValueError:
            continue
        return unit * times
    raise ValueError(f"no batch of up to {1024 * unit} clips suits the task")


def _numbers(shapes: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def _trainable(shapes: Any, frozen: tuple[str, ...]) -> list[Any]:
    named = jax.tree_util.tree_leaves_with_path(shapes)
    paths = [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in named]
    return [leaf for name, leaf in paths if not any(re.search(p, name) for p in frozen)]


def _mib(size: int) -> str:
    return f"{size / 2**20:12,.1f} MiB"
