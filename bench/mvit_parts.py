"""Times alternative implementations of operations of MViT, forward and backward, on this machine.

    python -m bench.mvit_parts [conv attention] [--device=gpu --dtype=bfloat16] [--batch 8]

The shapes are those of MViT-S on 16x224x224. Implementations alternate; the output has the median
time, the median CPU time of all threads (less affected by other programs) and that of compilation.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bench.run import device_options
from maskfeat_jax.ops import pooling
from maskfeat_jax.ops.attention import attention
from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.ops.relative_position import distances, lengthen, relative_attention
from maskfeat_jax.typing import Array

D, FRAMES = 96, 8  # channels of a head; frames of tokens
CONVS = [  # heads, side, stride, convolutions in MViT-S
    (1, 56, 1, 1),
    (1, 56, 8, 2),
    (2, 56, 2, 1),
    (2, 56, 4, 2),
    (2, 28, 1, 1),
    (4, 28, 2, 3),
    (4, 14, 1, 10),
    (4, 14, 2, 20),
    (8, 14, 2, 4),
]
ATTENTIONS = [  # heads, side of the queries, of the keys, blocks of MViT-S
    (1, 56, 7, 1),
    (2, 28, 14, 1),
    (4, 14, 14, 1),
    (4, 14, 7, 10),
]


def grouped_conv(x: Array, kernel: Array, stride: Size3) -> Array:
    """A convolution with as many groups as channels."""
    kernel = jnp.tile(kernel.astype(x.dtype), x.shape[-1] // D)[:, :, :, None]
    return lax.conv_general_dilated(
        x,
        kernel,
        stride,
        [(1, 1)] * 3,
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        feature_group_count=x.shape[-1],
    )


def shifts(x: Array, kernel: Array, stride: Size3) -> Array:
    """27 shifted products with the gradient that JAX derives."""
    kernel = jnp.tile(kernel.astype(x.dtype), x.shape[-1] // D)
    return sum(shifted * kernel[tap] for tap, shifted in pooling.shifted_by_taps(x, stride))


def shifts_of_heads(x: Array, kernel: Array, stride: Size3) -> Array:
    """`shifts` with an axis for the heads, so that the filter is not repeated."""
    kernel = kernel.astype(x.dtype)
    y = sum(
        shifted.reshape(*shifted.shape[:-1], -1, D) * kernel[tap]
        for tap, shifted in pooling.shifted_by_taps(x, stride)
    )
    return y.reshape(*y.shape[:-2], -1)


def biased(q: Array, k: Array, v: Array, tables: tuple, q_grid: Size3, k_grid: Size3) -> Array:
    """Attention with a materialised bias of each pair of tokens, added to the logits."""
    b, _, heads, d = q.shape
    patches = q[:, 1:].reshape(b, *q_grid, heads, d)
    bias = jnp.zeros((), jnp.promote_types(q.dtype, jnp.float32))
    for letter, table, size, keys in zip("thw", tables, q_grid, k_grid, strict=True):
        rows = table[distances(size, keys)].astype(q.dtype)
        term = jnp.einsum(f"bthwnd,{letter}kd->bnthwk", patches, rows)
        bias = bias + jnp.expand_dims(term, [5 + i for i in range(3) if "thw"[i] != letter])
    bias = bias.reshape(b, heads, q.shape[1] - 1, k.shape[1] - 1)
    logits = jnp.einsum("bqnd,bknd->bnqk", q * d**-0.5, k, preferred_element_type=bias.dtype)
    logits = logits + jnp.pad(bias, ((0, 0), (0, 0), (1, 0), (1, 0)))
    return jnp.einsum("bnqk,bknd->bqnd", jax.nn.softmax(logits).astype(v.dtype), v)


def in_chunks(
    size: int, q: Array, k: Array, v: Array, tables: tuple, q_grid: Size3, k_grid: Size3
) -> Array:
    """Attention in chunks of queries, with weights recomputed for the gradient."""
    long_q, long_k = lengthen(q, k, tables, q_grid, k_grid)
    long_q = jnp.pad(long_q, ((0, 0), (0, -q.shape[1] % size), (0, 0), (0, 0)))
    chunks = jnp.moveaxis(long_q.reshape(len(q), -1, size, *long_q.shape[2:]), 1, 0)
    some = jax.checkpoint(lambda rows: attention(rows, long_k, v, scale=1.0, kernel="xla"))
    mixed = jnp.moveaxis(lax.map(some, chunks), 0, 1)
    return mixed.reshape(len(q), -1, *q.shape[2:])[:, : q.shape[1]]


CONV_FORMS = {
    "kept": pooling.depthwise_conv,
    "shifts": shifts,
    "shifts of heads": shifts_of_heads,
    "grouped": grouped_conv,
}
ATTENTION_FORMS = {
    "kept": relative_attention,
    "cudnn": functools.partial(relative_attention, kernel="cudnn"),
    "bias": biased,
    "chunks of 512": functools.partial(in_chunks, 512),
}


def conv_case(case: tuple[int, ...], batch: int, dtype: str) -> tuple[str, tuple, Any]:
    """Title, input arrays, and a wrapper that calls an implementation with them."""
    heads, side, step, count = case
    arrays = normal(dtype, (batch, FRAMES, side, side, heads * D), (3, 3, 3, D))
    title = f"{FRAMES}x{side}x{side}x{heads * D}, stride {step} (x{count})"
    return title, arrays, lambda form: lambda x, kernel: form(x, kernel, (1, step, step))


def attention_case(case: tuple[int, ...], batch: int, dtype: str) -> tuple[str, tuple, Any]:
    """Title, input arrays, and a wrapper that calls an implementation with them."""
    heads, side, key_side, count = case
    q_grid, k_grid = (FRAMES, side, side), (FRAMES, key_side, key_side)
    queries, keys = FRAMES * side**2 + 1, FRAMES * key_side**2 + 1
    shapes = [(batch, n, heads, D) for n in (queries, keys, keys)]
    shapes += [(2 * max(pair) - 1, D) for pair in zip(q_grid, k_grid, strict=True)]

    def call(form: Callable[..., Array]) -> Callable[..., Array]:
        return lambda q, k, v, *tables: form(q, k, v, tables, q_grid, k_grid)

    return f"{heads} heads, {queries} queries, {keys} keys (x{count})", normal(dtype, *shapes), call


def normal(dtype: str, *shapes: Sequence[int]) -> tuple[jax.Array, ...]:
    """Arrays of standard normal numbers."""
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.standard_normal(shape, np.float32), dtype) for shape in shapes)


def measure(forms: dict[str, Callable[..., Any]], arrays: tuple, rounds: int) -> None:
    """Prints the times of each implementation."""
    runs, facts, times = {}, {}, {name: [] for name in forms}
    for name, form in forms.items():
        start = time.process_time()
        try:
            runs[name] = jax.jit(form).lower(*arrays).compile()
        except Exception as error:  # not supported by this device, or out of memory
            print(f"  {name:32s} failed: {str(error).splitlines()[0][:60]}")
            continue
        facts[name] = time.process_time() - start
        jax.block_until_ready(runs[name](*arrays))
    for name in list(runs) * rounds:
        start, busy = time.perf_counter(), time.process_time()
        jax.block_until_ready(runs[name](*arrays))
        times[name].append((time.perf_counter() - start, time.process_time() - busy))
    for name in runs:
        wall, busy = (1e3 * statistics.median(column) for column in zip(*times[name], strict=True))
        print(
            f"  {name:32s} {wall:9.2f} ms {busy:9.2f} ms of CPU time, "
            f"compiled in {facts[name]:.1f} s",
            flush=True,
        )


def gradient(call: Callable[..., Array]) -> Callable[..., Any]:
    """Computes all gradients, with the output as cotangent."""

    def run(*arrays: Array) -> Any:
        y, gradients = jax.vjp(call, *arrays)
        return gradients(y)

    return run


def main() -> None:
    """Measures and prints."""
    operations = {
        "conv": (CONVS, conv_case, CONV_FORMS),
        "attention": (ATTENTIONS, attention_case, ATTENTION_FORMS),
    }
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "operations", nargs="*", default=list(operations), help=", ".join(operations)
    )
    parser.add_argument("--batch", type=int, default=1)
    device_options(parser)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--skip", nargs="*", default=[], help="implementations to skip")
    args = parser.parse_args()
    jax.config.update("jax_platforms", {"gpu": "cuda"}.get(args.device, args.device))
    for operation in args.operations:
        cases, prepare, forms = operations[operation]
        for case in cases:
            title, arrays, call = prepare(case, args.batch, args.dtype)
            print(f"{operation}: {title}", flush=True)
            used = {name: call(form) for name, form in forms.items() if name not in args.skip}
            measure({f"{name}, forward": form for name, form in used.items()}, arrays, args.rounds)
            both = {f"{name}, + backward": gradient(form) for name, form in used.items()}
            measure(both, arrays, args.rounds)


if __name__ == "__main__":
    main()
