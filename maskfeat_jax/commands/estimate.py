"""Estimates a run: parameters, operations, bytes on each device, collectives, largest batch.

No array is allocated: shapes are traced and the step of the recipe, of training or of evaluation,
is compiled. With `--target` it is compiled for a TPU slice or for GPUs, by their own compilers and
without having them (`commands.hardware`):

    python main.py estimate --config=configs/mae_vit_kinetics.py:h16 --config.model.dtype=bfloat16 \
        --config.run.batch_size=64 --config.mesh.parameters=8 --target=v5e:2x4

Memory besides the arguments is what the compiler reports (`memory_analysis`), exact for its
program. Its operations and bytes moved are a model: good for comparing two programs.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from maskfeat_jax import sharding
from maskfeat_jax.commands.collectives import Collective, collectives
from maskfeat_jax.commands.costs import Costs, costs
from maskfeat_jax.commands.hardware import hardware
from maskfeat_jax.commands.options import Options
from maskfeat_jax.distributed.preemption import Signals
from maskfeat_jax.flops import training_flops
from maskfeat_jax.sections import RecipeError
from maskfeat_jax.tasks import Task
from maskfeat_jax.training.build import Computation, build_computation
from maskfeat_jax.training.experiment import (
    abstract_state,
    jitted_eval_step,
    jitted_step,
)

BATCHES = 3  # on a device: the one in use and two that are prefetched
TRIALS = 5  # limit of compilations to find the largest batch


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Size and cost of a step on a mesh. Bytes and what the compiler says are of one device.

    Attributes:
      devices: their number and kind.
      mesh: sizes of the axes.
      batch_size: clips per step, over all devices.
      accumulate: number of slices of a batch (gradient accumulation).
      parameters: number of parameters.
      trainable: number of parameters that are not frozen; 0 in evaluation.
      flops_per_clip: operations of matrix products, forward and backward, see
        `flops.training_flops`; None in evaluation.
      flops_per_step: likewise, over all devices, with those of the teacher.
      teacher_flops_per_clip: of the frozen networks of the target, forward.
      parameter_bytes: of the parameters.
      optimizer_bytes: of the optimiser state.
      average_bytes: of the moving average.
      teacher_bytes: of the frozen networks of the target.
      batch_bytes: of one of the `BATCHES` batches.
      temporary_bytes: gradients, activations and other temporaries of the compiled step.
      peak_bytes: sum of all the above.
      flops: operations of a step by the compiler; None if it does not say.
      bytes_accessed: bytes read and written in a step, likewise.
      collectives: of a step, by kind.
      compile_seconds: time to compile the step.
      memory_bytes: memory of a device; None if unknown.
      largest_batch: most clips per step, over all devices, that fit into that; 0 if none do, None
        if the memory is unknown.
    """

    devices: str
    mesh: dict[str, int]
    batch_size: int
    accumulate: int
    parameters: int
    trainable: int
    flops_per_clip: float | None
    flops_per_step: float | None
    teacher_flops_per_clip: float
    parameter_bytes: int
    optimizer_bytes: int
    average_bytes: int
    teacher_bytes: int
    batch_bytes: int
    temporary_bytes: int
    peak_bytes: int
    flops: float | None = None
    bytes_accessed: float | None = None
    collectives: Mapping[str, Collective] = dataclasses.field(default_factory=dict)
    compile_seconds: float = 0.0
    memory_bytes: int | None = None
    largest_batch: int | None = None

    def json(self) -> str:
        """All attributes, as one line."""
        return json.dumps(dataclasses.asdict(self))

    def table(self) -> str:
        """A table to print."""
        axes = " x ".join(f"{name} {size}" for name, size in self.mesh.items())
        shards = math.prod(self.mesh[axis] for axis in sharding.ROWS)
        slices = f", in {self.accumulate} slices" if self.accumulate > 1 else ""
        rows = [
            ("mesh", f"{axes}: {self.devices}"),
            ("parameters", f"{self.parameters:,}, trainable {self.trainable:,}"),
        ]
        if self.flops_per_clip is not None and self.flops_per_step is not None:
            rows.append(("operations", f"{self.flops_per_clip / 1e9:,.1f} GFLOP per clip"))
            if self.teacher_flops_per_clip:
                rows.append(("", f"{self.teacher_flops_per_clip / 1e9:,.1f} GFLOP of the teacher"))
            rows.append(("", f"{self.flops_per_step / 1e12:,.2f} TFLOP per step"))
        rows += [
            ("batch", f"{self.batch_size} clips{slices}, {self.batch_size // shards} per device"),
            ("per device", ""),
            ("  parameters", _mib(self.parameter_bytes)),
            ("  optimiser", _mib(self.optimizer_bytes)),
            ("  moving average", _mib(self.average_bytes)),
            ("  batches", f"{_mib(BATCHES * self.batch_bytes)}  ({BATCHES})"),
            ("  temporary", f"{_mib(self.temporary_bytes)}  (gradients, activations)"),
            ("  peak", _mib(self.peak_bytes)),
        ]
        if self.teacher_bytes:
            rows.insert(-3, ("  teacher", _mib(self.teacher_bytes)))
        if self.memory_bytes is not None:
            verdict = "" if self.peak_bytes <= self.memory_bytes else "  this batch does not fit"
            rows.append(("  memory", f"{_mib(self.memory_bytes)}{verdict}"))
        if self.flops is not None:
            rows.append(("  operations", f"{self.flops / 1e12:12,.3f} TFLOP  (by the compiler)"))
        if self.bytes_accessed is not None:
            rows.append(("  moved", f"{self.bytes_accessed / 1e9:12,.1f} GB  (by the compiler)"))
        rows += [
            (f"  {kind}", f"{_mib(each.bytes)}  ({each.count} per step)")
            for kind, each in self.collectives.items()
        ]
        rows.append(("compiled in", f"{self.compile_seconds:.0f} s"))
        if self.largest_batch is not None:
            each = self.largest_batch // shards
            found = f"{self.largest_batch} clips, {each} per device"
            rows.append(("largest batch", found if each else "not even one clip per device fits"))
        return "\n".join(f"{name:18}{value}".rstrip() for name, value in rows)


class Compiled(NamedTuple):
    """What the compiler says of a step; of one that it refuses only `temporary_bytes`."""

    temporary_bytes: int
    costs: Costs | None = None
    collectives: Mapping[str, Collective] = {}
    seconds: float = 0.0


def command(options: Options, signals: Signals) -> int:
    """`python main.py estimate --config=…`."""
    with signals.nothing_to_lose():
        target = hardware(options.target) if options.target else None
        memory_bytes = int(options.memory_gb * 1e9) if options.memory_gb else None
        if target is not None:
            jax.config.update("jax_enable_compilation_cache", False)  # it could not be read here
            memory_bytes = memory_bytes or target.memory_bytes
        elif memory_bytes is None:
            memory_bytes = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
        found = estimate(
            build_computation(options.recipe, target.devices if target else None),
            memory_bytes=memory_bytes,
            compiler_options=target.compiler_options if target else {},
        )
    print(found.json() if options.json else found.table())
    return 0


def estimate(
    computation: Computation,
    *,
    memory_bytes: int | None = None,
    compiler_options: Mapping[str, Any] | None = None,
) -> Estimate:
    """Compiles the step of training, or else of evaluation, and adds up memory and operations.

    Args:
      computation: see `build_computation`.
      memory_bytes: memory of one device, to find the largest batch, which is compiled to check that
        it fits; None not to look for it.
      compiler_options: see `Hardware`.

    Raises:
      RecipeError: the batch cannot be split into equal slices.
      ValueError: see `sharding.state_sharding`.
    """
    mesh, batch_size, accumulate, task, optimizer, views = computation
    shards = sharding.row_shards(mesh)
    if optimizer is not None:
        unit = shards * accumulate
        state = abstract_state(task, optimizer, mesh)
        step = jitted_step(task, optimizer, state, mesh, accumulate)
    else:
        unit = math.lcm(views, shards)
        state = abstract_state(task, None, mesh)
        step = jitted_eval_step(task, mesh, views)
    if batch_size < 1 or batch_size % unit:
        below = batch_size // unit * unit
        raise RecipeError(
            f"run.batch_size={batch_size} is not a multiple of {unit}: {shards} shards of a batch "
            f"x {accumulate} slices (run.accumulate); the next are {below or unit}, {below + unit}"
        )

    @functools.cache
    def compiled(rows: int) -> Compiled:
        return compile_step(step, state, batch_shapes(task, mesh, rows), compiler_options or {})

    def peak(rows: int) -> int:
        arguments = bytes_of(state) + BATCHES * bytes_of(batch_shapes(task, mesh, rows))
        return arguments + compiled(rows).temporary_bytes

    largest = None
    if memory_bytes is not None:
        unit = _unit_of(task, unit) if optimizer is not None else unit
        start = -(-batch_size // unit)
        largest = unit * largest_that_fits(lambda units: peak(units * unit), start, memory_bytes)
    flops = training_flops(task.model, task.clip) if optimizer is not None else None
    program = compiled(batch_size)
    teacher_flops = 2.0 * task.teacher_products
    trainable = _trainable(state.params, task.model.frozen) if optimizer is not None else {}
    return Estimate(
        devices=f"{mesh.size} of {mesh.devices.flat[0].device_kind}",
        mesh=dict(mesh.shape),
        batch_size=batch_size,
        accumulate=accumulate,
        parameters=_count(state.params),
        trainable=_count(trainable),
        flops_per_clip=flops,
        flops_per_step=None if flops is None else batch_size * (flops + teacher_flops),
        teacher_flops_per_clip=teacher_flops,
        parameter_bytes=bytes_of(state.params),
        optimizer_bytes=bytes_of(state.opt_state),
        average_bytes=bytes_of(state.ema),
        teacher_bytes=bytes_of(state.teacher),
        batch_bytes=bytes_of(batch_shapes(task, mesh, batch_size)),
        temporary_bytes=program.temporary_bytes,
        peak_bytes=peak(batch_size),
        flops=program.costs and program.costs.flops,
        bytes_accessed=program.costs and program.costs.bytes,
        collectives=program.collectives,
        compile_seconds=program.seconds,
        memory_bytes=memory_bytes,
        largest_batch=largest,
    )


def compile_step(
    step: Any, state: Any, batch: Any, compiler_options: Mapping[str, Any]
) -> Compiled:
    """Compiles a jitted step for shapes.

    Raises:
      JaxRuntimeError: the compiler fails in another way than for want of memory.
    """
    rows = len(batch["video"])
    print(f"compiling the step of {rows} clips ...", file=sys.stderr, flush=True)
    lowered = step.lower(state, batch)
    start = time.monotonic()
    try:
        program = lowered.compile(compiler_options=dict(compiler_options))
    except jax.errors.JaxRuntimeError as error:
        if (wanted := _wanted(str(error), bytes_of((state, batch)))) is None:
            raise
        return Compiled(wanted)
    seconds = time.monotonic() - start
    memory: Any = program.memory_analysis()
    temporary = memory.temp_size_in_bytes + memory.output_size_in_bytes
    text = program.as_text()
    return Compiled(
        temporary - memory.alias_size_in_bytes,
        costs(text),
        collectives(text),
        seconds,
    )


def _wanted(message: str, arguments: int) -> int | None:
    """Bytes of temporaries, in a message of the TPU's compiler that they do not fit."""
    for pattern, others in (
        (r"HLO temporaries \(([\d.]+)([KMGT])\)", 0),
        (r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm", arguments),
    ):
        if found := re.search(pattern, message):
            return int(float(found[1]) * 2 ** (10 * (1 + "KMGT".index(found[2])))) - others
    return None


def batch_shapes(task: Task, mesh: Mesh, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and shardings of a batch on the devices."""
    kinds: dict[str, tuple[tuple[int, ...], Any]] = {
        "video": ((*task.clip, 3), jnp.uint8),
        "label": ((), jnp.int32),
        "valid": ((), jnp.bool_),
        "index": ((2,), jnp.int32),
        "view": ((), jnp.int32),
        **task.columns,
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
        if high is not None and high - low <= max(1, low // 20):
            break
        a, b = sorted(sorted(known, key=lambda n: abs(known[n] - memory))[:2])
        slope = max((known[b] - known[a]) / (b - a), 1)
        guess = min(math.floor(a + (memory - known[a]) / slope), 16 * max(known))
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
