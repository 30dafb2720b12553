"""Collectives of a compiled program, read from its optimised HLO."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from maskfeat_jax.commands.hlo import NAME, Program, called_by, loop_of, parse, text_of

KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """The collectives of one kind in one run of a program.

    Attributes:
      count: how often a device takes part in one.
      bytes: sum of their sizes. A size is the larger of operand and result on one device: what an
        all-gather has gathered, what a reduce-scatter sums. In a ring of n devices each sends
        (n - 1) / n of it, in an all-reduce twice as much, in a permutation all of it.
    """

    count: int
    bytes: int


class Operation(NamedTuple):
    """One collective of a program.

    Attributes:
      kind: one of `KINDS`.
      times: how often it runs.
      bytes: see `Collective`.
      shapes: of the result; XLA combines small collectives into one of several arrays.
      source: path of the traced functions and modules that it was made for; may be empty.
    """

    kind: str
    times: int
    bytes: int
    shapes: tuple[tuple[int, ...], ...]
    source: str


def collectives(hlo: str) -> dict[str, Collective]:
    """The collectives of a program by kind, see `operations`."""
    found: dict[str, Collective] = {}
    for each in operations(hlo):
        so_far = found.get(each.kind, Collective(0, 0))
        size = so_far.bytes + each.times * each.bytes
        found[each.kind] = Collective(so_far.count + each.times, size)
    return dict(sorted(found.items()))


def operations(hlo: str) -> list[Operation]:
    """The collectives of a program.

    Those in a loop run as often as the loop does, or once if that depends on data. Of a conditional
    all branches count.

    Args:
      hlo: `compiled.as_text()` for CPUs, GPUs or TPUs.
    """
    program, entry = parse(hlo)
    found: dict[int | str, Operation] = {}
    for number, (channel, one) in enumerate(_operations(program, entry, 1)):
        # A TPU runs the parts of a collective in several fusions, between and in loops.
        key = channel or number
        if key not in found or one.times < found[key].times:
            found[key] = one
    return list(found.values())


def _operations(
    program: Program, name: str, times: int, fused: bool = False
) -> Iterator[tuple[str, Operation]]:
    """The collectives of a computation, after the channels of those in fusions."""
    sizes: dict[str, int] = {}
    # A TPU's fusion of a sum with a slice of it.
    scatters = fused and name.startswith("all-reduce-scatter")
    for one in program[name]:
        operands = sum(sizes.get(operand, 0) for operand in NAME.findall(one.operands))
        # The result of a start is a tuple with its operands; that of its end is what was received.
        started = one.opcode.endswith("-start")
        sizes[one.name] = operands if started else bytes_of(one.type)
        kind = one.opcode.removesuffix("-done")
        if kind in KINDS:
            channel = text_of(r"channel_id=(\d+)", one.rest) if fused else ""
            shapes = tuple(shape for _, shape in _arrays(one.type))
            size = max(operands, sizes[one.name])
            source = text_of(r'op_name="([^"]*)"', one.rest)
            kind = "reduce-scatter" if scatters else kind
            yield channel, Operation(kind, times, size, shapes, source)
        elif one.opcode == "while":
            loop = loop_of(program, one)
            for called in (loop.condition, loop.body):
                yield from _operations(program, called, times * loop.times, fused)
        elif one.opcode == "async-start" or not one.opcode.endswith(("-start", "-update", "-done")):
            for called in called_by(one):
                inner = fused or one.opcode == "fusion"
                yield from _operations(program, called, times, inner)


def _arrays(type_: str) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Bits of a number, and shape, of each array of a type."""
    for name, bits, sizes in _ARRAY.findall(type_):
        shape = tuple(int(size) for size in sizes.split(",") if size)
        yield 8 if name == "pred" else int(bits), shape


def bytes_of(type_: str) -> int:
    """Bytes of an array or a tuple, from its HLO type such as `(f32[2,3]{1,0}, pred[])`."""
    return sum(math.ceil(bits * math.prod(shape) / 8) for bits, shape in _arrays(type_))
