"""Compiles alternative forms of operations for an accelerator, and prints tables.

    python -m bench.forms [conv max affine norm mlp patches overlap hog] --target v5e:1x1

Each form is compiled in bfloat16, with float32 parameters, for one device of a target of `main.py
estimate` (docs/accelerators.md), forward and forward with backward. Columns: temporary memory; what
operations move and the time that they take, as a TPU's compiler expects; operations of the compiled
program (kernels of a GPU), and their inputs and outputs, where an operation that reads an input
several times, or in part, counts it once; CPU time to trace and compile. "used" is what the package
uses on that device.
"""

from __future__ import annotations

import argparse
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
from jax import lax

from bench.mvit_parts import CONVS, FRAMES, D, grouped_conv
from maskfeat_jax import sharding
from maskfeat_jax.augment import Normalise
from maskfeat_jax.commands.collectives import bytes_of
from maskfeat_jax.commands.hardware import Hardware, hardware
from maskfeat_jax.commands.hlo import NAME, called_by, loop_of, parse
from maskfeat_jax.models.mvit import PATCH, kernel_of
from maskfeat_jax.ops import linear, pooling
from maskfeat_jax.ops.hog import hog
from maskfeat_jax.ops.patches import Size3, patchify
from maskfeat_jax.typing import Array

HEAD = (
    *("form", "pass", "temporary, MiB", "moved, GB", "expected, ms"),
    *("operations", "inputs and outputs, GB", "compiled in, s"),
)
TOKENS = {"ViT-B, 32 images": (32, 197, 768), "MViT-S, 4 clips": (4, 25089, 96)}


class Case(NamedTuple):
    """Forms of an operation on inputs of some shapes.

    Attributes:
      title: of the table.
      inputs: shapes and dtypes.
      forms: functions of the inputs.
      fixed: whether the first input needs no gradient.
    """

    title: str
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    forms: Mapping[str, Callable[..., Array]]
    fixed: bool = False


def narrow(*shape: int) -> jax.ShapeDtypeStruct:
    """Activations."""
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16)


def wide(*shape: int) -> jax.ShapeDtypeStruct:
    """Parameters."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def pixels(*shape: int) -> jax.ShapeDtypeStruct:
    """Clips."""
    return jax.ShapeDtypeStruct(shape, jnp.uint8)


def as_on(platform: str, pool: Callable[..., Array]) -> Callable[..., Array]:
    """The form of an operation of `ops.pooling` that another platform uses."""
    return mock.patch.object(pooling, "_platform", return_value=platform)(pool)


def convs() -> Iterator[Case]:
    """Depth-wise pooling in MViT-S."""
    used = pooling.depthwise_conv
    forms = {"used": used, "shifts": as_on("gpu", used), "convolution": grouped_conv}
    for heads, side, step, count in CONVS:
        title = f"{FRAMES}x{side}x{side}x{heads * D}, stride {step} (x{count}), 8 clips"
        inputs = narrow(8, FRAMES, side, side, heads * D), wide(3, 3, 3, D)
        yield Case(title, inputs, strided(forms, step))


def maxima() -> Iterator[Case]:
    """Max pooling in MViT-S."""
    forms = {
        "used": pooling.max_pool,
        "shifts": pooling.max_of_shifts,
        "`reduce_window`": pooling.max_of_windows,
    }
    for heads, side in (2, 56), (4, 28), (8, 14):
        title = f"{FRAMES}x{side}x{side}x{heads * D}, stride 2, 8 clips"
        yield Case(title, (narrow(8, FRAMES, side, side, heads * D),), strided(forms, 2))


def strided(forms: Mapping[str, Callable[..., Array]], step: int) -> dict[str, Any]:
    """The forms with a stride."""
    return {name: functools.partial(form, stride=(1, step, step)) for name, form in forms.items()}


def affine(x: Array, kernel: Array, bias: Array) -> Array:
    """`linear.affine` with the gradient that JAX derives."""
    return x @ kernel.astype(x.dtype) + bias.astype(x.dtype)


def layer_norm(x: Array, scale: Array, bias: Array) -> Array:
    """`linear.layer_norm` with the gradient that JAX derives."""
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    inverse = lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-6)
    return (centred * inverse * scale + bias).astype(x.dtype)


def affines() -> Iterator[Case]:
    """The first linear map of an MLP."""
    for title, shape in TOKENS.items():
        *_, d = shape
        inputs = narrow(*shape), wide(d, 4 * d), wide(4 * d)
        yield Case(title, inputs, {"used": linear.affine, "JAX's gradient": affine})


def norms() -> Iterator[Case]:
    """A layer norm."""
    for title, shape in TOKENS.items():
        inputs = narrow(*shape), wide(shape[-1]), wide(shape[-1])
        forms = {"used": linear.layer_norm, "JAX's gradient": layer_norm}
        yield Case(title, inputs, forms)


def mlps() -> Iterator[Case]:
    """A layer norm, an MLP and the residual."""

    def mlp(norm: Any, affine: Any, x: Array, *parameters: Array) -> Array:
        scale, bias, kernel1, bias1, kernel2, bias2 = parameters
        hidden = linear.gelu(affine(norm(x, scale, bias), kernel1, bias1))
        return x + affine(hidden, kernel2, bias2)

    forms = {
        "used": functools.partial(mlp, linear.layer_norm, linear.affine),
        "JAX's gradients": functools.partial(mlp, layer_norm, affine),
    }
    for title, shape in TOKENS.items():
        *_, d = shape
        parameters = [(d,), (d,), (d, 4 * d), (4 * d,), (4 * d, d), (d,)]
        yield Case(title, (narrow(*shape), *(wide(*each) for each in parameters)), forms)


def patches() -> Iterator[Case]:
    """The embedding of patches that do not overlap."""
    for title, clips, tubelet in (
        ("32 images, 16x16", (32, 1, 224, 224, 3), (1, 16, 16)),
        ("8 clips, 2x16x16", (8, 16, 224, 224, 3), (2, 16, 16)),
    ):
        forms = {
            "used: product": functools.partial(product_of_patches, tubelet=tubelet),
            "convolution": functools.partial(convolve, stride=tubelet),
        }
        kernel = wide(*tubelet, 3, 768), wide(768)
        yield Case(title, (pixels(*clips), *kernel), normalised(forms), fixed=True)


def product_of_patches(clips: Array, kernel: Array, bias: Array, tubelet: Size3) -> Array:
    """As `models.vit.PatchEmbed`."""
    return linear.affine(patchify(clips, tubelet), kernel.reshape(-1, kernel.shape[-1]), bias)


def overlapping() -> Iterator[Case]:
    """The embedding of MViT, 3x7x7 patches with steps of 2x4x4."""
    forms = {
        "used: convolution": functools.partial(convolve, stride=PATCH),
        "convolution of cells of 2x4x4": functools.partial(convolve_cells, stride=PATCH),
    }
    inputs = pixels(4, 16, 224, 224, 3), wide(*kernel_of(PATCH), 3, D), wide(D)
    yield Case("4 clips, 3x7x7", inputs, normalised(forms), fixed=True)


def convolve(clips: Array, kernel: Array, bias: Array, stride: Size3) -> Array:
    """As `models.mvit.OverlappingPatchEmbed`; without padding where patches do not overlap."""
    padding = [
        (0, 0) if size == step else (size // 2, size // 2)
        for size, step in zip(kernel.shape[:3], stride, strict=True)
    ]
    numbers = ("NTHWC", "THWIO", "NTHWC")
    kernel = kernel.astype(clips.dtype)
    tokens = lax.conv_general_dilated(clips, kernel, stride, padding, dimension_numbers=numbers)
    return tokens + bias.astype(clips.dtype)


def convolve_cells(clips: Array, kernel: Array, bias: Array, stride: Size3) -> Array:
    """A convolution of two cells of `stride` pixels along each axis, with cells as channels."""
    half = [size // 2 for size in kernel.shape[:3]]
    margins = [(n, step - n) for n, step in zip(half, stride, strict=True)]
    cells = patchify(jnp.pad(clips, [(0, 0), *margins, (0, 0)]), stride)
    kernel = jnp.pad(kernel, [(0, 1)] * 3 + [(0, 0)] * 2)[None]
    kernel = patchify(kernel.reshape(*kernel.shape[:4], -1), stride)[0]
    u, p, q = stride
    kernel = kernel.reshape(2, 2, 2, u * p * q * clips.shape[-1], -1)
    numbers = ("NTHWC", "THWIO", "NTHWC")
    kernel = kernel.astype(clips.dtype)
    tokens = lax.conv_general_dilated(cells, kernel, (1, 1, 1), "VALID", dimension_numbers=numbers)
    return tokens + bias.astype(clips.dtype)


def normalised(forms: Mapping[str, Callable[..., Array]]) -> dict[str, Callable[..., Array]]:
    """The forms, of pixels."""

    def bound(form: Callable[..., Array]) -> Callable[..., Array]:
        return lambda clips, *rest: form(Normalise()(clips).astype(jnp.bfloat16), *rest)

    return {name: bound(form) for name, form in forms.items()}


def hogs() -> Iterator[Case]:
    """The target of MaskFeat, from pixels; it has no gradient."""
    for title, clips in (
        ("32 images", (32, 224, 224, 3)),
        ("8 clips, 8 frames of each", (64, 224, 224, 3)),
    ):
        yield Case(title, (pixels(*clips),), normalised({"used": hog}), fixed=True)


CASES = {
    "conv": convs,
    "max": maxima,
    "affine": affines,
    "norm": norms,
    "mlp": mlps,
    "patches": patches,
    "overlap": overlapping,
    "hog": hogs,
}


def both_passes(form: Callable[..., Array], fixed: int) -> Callable[..., Any]:
    """The output, and the gradients of all inputs but the first `fixed` for a cotangent."""

    def run(cotangent: Array, *inputs: Array) -> Any:
        y, gradients = jax.vjp(functools.partial(form, *inputs[:fixed]), *inputs[fixed:])
        return y, gradients(cotangent)

    return run


def measure(form: Callable[..., Any], inputs: tuple, target: Hardware) -> list[str]:
    """The columns of a table, of a compiled function."""
    mesh = sharding.mesh_of(target.devices[:1])
    of_device = jax.jit(sharding.on_mesh(mesh, form), in_shardings=sharding.replicated(mesh))
    start = time.process_time()
    try:
        program = of_device.lower(*inputs).compile(target.compiler_options)
    except jax.errors.JaxRuntimeError as error:
        return [str(error).splitlines()[0][:60], *[""] * 5]
    seconds = time.process_time() - start
    memory, cost = program.memory_analysis(), program.cost_analysis() or {}
    assert memory is not None
    expected, moved = cost.get("optimal_seconds"), cost.get("bytes accessed")
    if expected is not None and expected < 0:  # -1 for each operation whose time is not known
        expected += math.ceil(-expected)
    count, traffic = operations(program.as_text())
    return [
        f"{memory.temp_size_in_bytes / 2**20:.1f}",
        "" if moved is None else f"{moved / 1e9:.3f}",
        "" if expected is None else f"{1e3 * expected:.3f}",
        str(count),
        f"{traffic / 1e9:.3f}",
        f"{seconds:.1f}",
    ]


_FREE = ("parameter", "get-tuple-element", "tuple", "bitcast", "constant")


def operations(hlo: str) -> tuple[int, int]:
    """Operations that run in a compiled program, and the bytes of their inputs and outputs."""
    program, entry = parse(hlo)

    def total(computation: str) -> tuple[int, int]:
        count = moved = 0
        sizes = {one.name: bytes_of(one.type) for one in program[computation]}
        for one in program[computation]:
            times = 1
            if one.opcode == "while":
                loop = loop_of(program, one)
                times, inside = loop.times, total(loop.body)
            elif one.opcode == "call":
                inside = total(called_by(one)[0])
            elif one.opcode in _FREE:
                continue
            else:
                read = sum(sizes[name] for name in NAME.findall(one.operands))
                inside = (1, sizes[one.name] + read)
            count, moved = count + times * inside[0], moved + times * inside[1]
        return count, moved

    return total(entry)


def main() -> None:
    """Compiles and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("operations", nargs="*", default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--target", required=True, help="of one device, such as v5e:1x1 or h100:1")
    args = parser.parse_args()
    target = hardware(args.target)
    for name in args.operations:
        for case in CASES[name]():
            print(f"\n{args.target}, {name}: {case.title}\n")
            print_row(HEAD)
            print_row(["---"] * len(HEAD))
            for form, function in case.forms.items():
                print_row([form, "forward", *measure(function, case.inputs, target)])
                if len(case.inputs) > case.fixed:
                    cotangent = jax.eval_shape(function, *case.inputs)
                    both = both_passes(function, int(case.fixed))
                    columns = measure(both, (cotangent, *case.inputs), target)
                    print_row([form, "and backward", *columns])


def print_row(columns: Any) -> None:
    """Of a table in Markdown."""
    print("| " + " | ".join(columns) + " |", flush=True)


if __name__ == "__main__":
    main()
