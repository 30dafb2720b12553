"""Kernels and steps on an accelerator against the same in float32, for `bench.gpu`.

An error is the Euclidean norm of the difference, relative to that of the true values.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bench import cases
from bench.mvit_parts import FRAMES, D, normal
from maskfeat_jax import sharding
from maskfeat_jax.models.mvit import MViT
from maskfeat_jax.ops.attention import TABLE, attention
from maskfeat_jax.ops.hog import hog
from maskfeat_jax.ops.pooling import depthwise_conv, max_pool
from maskfeat_jax.optim import AdamW
from maskfeat_jax.tasks import Pretrain
from maskfeat_jax.training.build import Computation
from maskfeat_jax.training.experiment import abstract_params

Row = dict[str, Any]

# Queries, keys, heads, channels of queries and keys, channels of values. Relative positions make
# the heads of MViT longer by the sides of the grid of keys.
ATTENTION = {
    "ViT-B": (197, 197, 12, 64, 64),
    "encoder of MAE": (157, 157, 12, 64, 64),
    "decoder of MAE": (1569, 1569, 16, 32, 32),
    "ViT-B, whole clip": (1569, 1569, 12, 64, 64),
    "MViT-S, stage 1": (25089, 393, 1, 96 + 8 + 7 + 7, 96),
    "MViT-S, stage 2": (6273, 1569, 2, 96 + 8 + 14 + 14, 96),
    "MViT-S, stage 3": (1569, 393, 4, 96 + 8 + 7 + 7, 96),
}
SMALL_ATTENTION = {"ViT": (33, 33, 2, 16, 16), "MViT": (129, 33, 1, 22, 16)}
CLIPS = 2
# How often the error of written-out weights in the same dtype a kernel may have.
TIMES = 2.0
ROUNDING = 1e-6  # of sums in float32, which the true values have too
CONVS = ((1, 56, 1), (1, 56, 8), (2, 56, 2), (4, 14, 1), (8, 14, 2))  # heads, side, stride
SMALL_CONVS = ((1, 8, 1), (1, 8, 2))
POOLED = 2**-7  # twice the precision of bfloat16, whose sums of gradients are rounded again
HOGS = 1e-3  # pixels within rounding of a border between bins fall into either
# Clips, and bounds of a step in bfloat16: about twice its errors on a CPU.
VIT = {"loss": 0.002, "grad_norm": 0.005, "gradient": 0.02}
MVIT = {"loss": 0.004, "grad_norm": 0.03, "gradient": 0.12}
STEPS = {"vit_b": (8, VIT), "mae_b": (2, VIT), "mvit_s": (2, MVIT)}


def kernels(small: bool) -> Iterator[Row]:
    """Each kernel on the default device, at the shapes of our models, forward and gradients."""
    yield from attention_rows(SMALL_ATTENTION if small else ATTENTION)
    yield from pooling_rows(SMALL_CONVS if small else CONVS)
    side = 32 if small else cases.SIZE
    images = normal("float32", (8, side, side, 3))
    facts = {"kernel": "hog", "shape": f"8 images of {side}x{side}", "dtype": "float32"}
    yield facts | against_cpu(jax.jit(hog), images, HOGS)


def attention_rows(shapes: dict[str, tuple[int, ...]]) -> Iterator[Row]:
    """Kernels of attention against weights written out in float32.

    At most `TIMES` times the error of weights written out in the dtype of the kernel.
    """
    for name, (queries, keys, heads, d, e) in shapes.items():
        sides = ((queries, d), (keys, d), (keys, e), (queries, e))
        q, *others = normal("bfloat16", *((CLIPS, n, heads, size) for n, size in sides))
        narrow = (q * d**-0.5, *others)
        wide = tuple(x.astype(jnp.float32) for x in narrow)
        with jax.default_matmul_precision("highest"):
            truth = host(forms("xla")(*wide))
        for arrays in (narrow, wide):
            written_out = errors(host(forms("xla")(*arrays)), truth)
            bounds = [max(TIMES * each, ROUNDING) for each in written_out]
            for kernel in ("chunked", "cudnn"):
                if TABLE[kernel].refusal(jax.devices()[0], arrays[0], arrays[2]) is None:
                    shape = f"{name}: {heads} x {queries} x {keys} x {d}, {e}"
                    facts = {"kernel": kernel, "shape": shape, "dtype": arrays[0].dtype.name}
                    yield facts | judged(forms(kernel), arrays, truth, bounds)


def forms(kernel: str) -> Callable[..., tuple[jax.Array, ...]]:
    """Attention of scaled queries and its gradients by a kernel."""
    return with_gradients(functools.partial(attention, scale=1.0, kernel=kernel))


def pooling_rows(shapes: Sequence[tuple[int, int, int]]) -> Iterator[Row]:
    """Pooling in bfloat16 on the device against float32 on a CPU."""
    for heads, side, step in shapes:
        stride, outputs = (1, step, step), (side - 1) // step + 1
        grid, pooled = ((CLIPS, FRAMES, n, n, heads * D) for n in (side, outputs))
        x, g, taps = normal("bfloat16", grid, pooled, (3, 3, 3, D))
        conv = with_gradients(functools.partial(depthwise_conv, stride=stride))
        facts = {"shape": f"{FRAMES}x{side}x{side}x{heads * D}, stride {step}", "dtype": "bfloat16"}
        yield {"kernel": "depthwise_conv", **facts} | against_cpu(conv, (x, taps, g), POOLED)
        if step == 2:
            pool = with_gradients(lambda x, stride=stride: max_pool(x, stride))
            yield {"kernel": "max_pool", **facts} | against_cpu(pool, (x, g), POOLED)


def against_cpu(function: Any, arrays: Sequence[Any], bound: float) -> Row:
    """Compares a function on the default device with itself in float32 on a CPU."""
    with jax.default_device(cpu()):
        wide = (jax.device_put(x, cpu()).astype(jnp.float32) for x in arrays)
        truth = host(function(*wide))
    return judged(function, arrays, truth, [bound] * len(truth))


def judged(
    function: Any, arrays: Sequence[Any], truth: Sequence[np.ndarray], bounds: Sequence[float]
) -> Row:
    """The errors of a function; `error` and `bound` are those of the output nearest to its bound.

    That a function fails is a result too.
    """
    try:
        found = errors(host(function(*arrays)), truth)
    except Exception as error:
        return failure(error)
    error, bound = max(zip(found, bounds, strict=True), key=lambda pair: pair[0] / pair[1])
    within = all(a <= b for a, b in zip(found, bounds, strict=True))  # false for NaN
    return {"within": within, "error": error, "bound": bound, "errors": found}


def with_gradients(function: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array, ...]]:
    """A function of inputs and the gradient of the result: the result and all gradients."""

    @jax.jit
    def run(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        *inputs, g = arrays
        y, back = jax.vjp(function, *inputs)
        return y, *back(g.astype(y.dtype))

    return run


def errors(found: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> list[float]:
    """Relative error of each array."""
    return [
        float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(found, truth, strict=True)
    ]


def host(arrays: Any) -> list[np.ndarray]:
    """Arrays in float32, flat, in the memory of the host."""
    return [np.asarray(x, np.float32).ravel() for x in jax.tree.leaves(arrays)]


def cpu() -> Any:
    """The device to compare with."""
    return jax.devices("cpu")[0]


def steps(small: bool) -> Iterator[Row]:
    """A step in bfloat16 on the default device against float32 on a CPU.

    Real widths and few blocks; the same parameters, clips and masks.
    """
    with ThreadPoolExecutor() as pool:  # they take long to compile, and nothing is timed
        jobs = {
            pool.submit(step_row, case, 1 if small else clips, bounds, small): case
            for case, (clips, bounds) in STEPS.items()
        }
        for job in as_completed(jobs):
            failed = job.exception()
            yield {"case": jobs[job]} | (failure(failed) if failed else job.result())


def step_row(case: str, clips: int, bounds: dict[str, float], small: bool) -> Row:
    """The row of a case."""
    tasks = [shallow(task_of(case, dtype), small) for dtype in ("float32", "bfloat16")]
    error, values = compared(tasks, clips)
    within = all(error[name] <= bound for name, bound in bounds.items())
    return {"clips": clips, "error": error, "bound": bounds, "within": within, **values}


def failure(error: BaseException) -> Row:
    """The row of what failed, as a kernel that does not support its arrays."""
    return {"within": False, "failed": (str(error) or repr(error)).splitlines()[0][:200]}


def computation_of(case: str, batch: int) -> Computation:
    """What `estimate` takes, of a case in bfloat16 on the default device."""
    task = task_of(case, "bfloat16")
    mesh = sharding.mesh_of(jax.devices()[:1])
    params = abstract_params(task, mesh)
    optimizer = AdamW(lr=1e-3).optimizer(params, steps_per_epoch=1, epochs=1, batch_size=batch)
    return Computation(mesh, batch, 1, task, optimizer, views=1)


def task_of(case: str, dtype: str) -> Pretrain:
    """The task of a case."""
    if case == "mae_b":
        return cases.mae_task("vit_b16", cases.CLIP, 0.9, dtype)
    encoder, clip, tubelet, masker = cases.CASES[case].args  # type: ignore[attr-defined]
    return cases.maskfeat_task(encoder, clip, tubelet, masker, dtype)


def shallow(task: Pretrain, small: bool) -> Pretrain:
    """The same task with few blocks, an MViT with one in each stage."""
    fields: dict[str, Any] = {"depth": 1 if small else 2}
    if isinstance(task.model.encoder, MViT):
        fields = {"depth": 4, "stages": (1, 2, 3)}
    encoder = task.model.encoder.clone(**fields)
    return dataclasses.replace(task, model=task.model.clone(encoder=encoder))


def compared(tasks: Sequence[Pretrain], clips: int) -> tuple[dict[str, float], Row]:
    """Errors of the second task on the default device against the first on a CPU, and its values.

    Of the loss, the norm of the gradient, and the gradient.
    """
    with jax.default_device(cpu()):
        optimizer, state, batch = cases.start(tasks[0], AdamW(lr=1e-3), clips)
        truth = loss_and_gradient(tasks[0], optimizer, state, batch)
    here = jax.device_put((state, batch), jax.devices()[0])
    found = loss_and_gradient(tasks[1], optimizer, *here)
    numbers = ("loss", "grad_norm")
    error = {name: abs(found[name] - truth[name]) / truth[name] for name in numbers}
    error["gradient"] = errors([found["gradient"]], [truth["gradient"]])[0]
    return error, {name: [found[name], truth[name]] for name in numbers}


def loss_and_gradient(task: Pretrain, optimizer: Any, state: Any, batch: Any) -> dict[str, Any]:
    """Of one step; the gradient is in proportion to the first moment after the first update."""
    step = jax.jit(functools.partial(task.train_step, optimizer=optimizer))
    state, metrics = step(state, batch)
    moments = host(optax.tree_utils.tree_get(state.opt_state, "mu"))
    values = {name: float(metrics[name]) for name in ("loss", "grad_norm")}
    return {**values, "gradient": np.concatenate(moments)}
