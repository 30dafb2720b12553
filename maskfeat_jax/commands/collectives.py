"""Collectives of a compiled program, read from its optimised HLO."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%(\S+) = (.*?) ([a-z][a-z0-9-]*)\(([^)]*)(.*)")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|\w+_computations?)=(\{[^}]*\}|%[\w.-]+)")
_NAME = re.compile(r"%([\w.-]+)")


class Collective(NamedTuple):
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


class _Instruction(NamedTuple):
    name: str
    type: str
    opcode: str
    operands: str
    rest: str


_Program = dict[str, list[_Instruction]]  # instructions by name of their computation


def collectives(hlo: str) -> dict[str, Collective]:
    """The collectives of a program by kind, see `operations`."""
    found: dict[str, Collective] = {}
    for each in operations(hlo):
        count, size = found.get(each.kind, (0, 0))
        found[each.kind] = Collective(count + each.times, size + each.times * each.bytes)
    return dict(sorted(found.items()))


def operations(hlo: str) -> list[Operation]:
    """The collectives of a program.

    Those in a loop run as often as the loop does, or once if that depends on data. Of a conditional
    all branches count.

    Args:
      hlo: `compiled.as_text()` for CPUs, GPUs or TPUs.
    """
    program, entry = _parse(hlo)
    found: dict[int | str, Operation] = {}
    for number, (channel, one) in enumerate(_operations(program, entry, 1)):
        # A TPU runs the parts of a collective in several fusions, between and in loops.
        key = channel or number
        if key not in found or one.times < found[key].times:
            found[key] = one
    return list(found.values())


def _operations(
    program: _Program, name: str, times: int, fused: bool = False
) -> Iterator[tuple[str, Operation]]:
    """The collectives of a computation, after the channels of those in fusions."""
    sizes: dict[str, int] = {}
    # A TPU's fusion of a sum with a slice of it.
    scatters = fused and name.startswith("all-reduce-scatter")
    for one in program[name]:
        operands = sum(sizes.get(operand, 0) for operand in _NAME.findall(one.operands))
        # The result of a start is a tuple with its operands; that of its end is what was received.
        started = one.opcode.endswith("-start")
        sizes[one.name] = operands if started else _bytes(one.type)
        kind = one.opcode.removesuffix("-done")
        if kind in KINDS:
            channel = _text(r"channel_id=(\d+)", one.rest) if fused else ""
            shapes = tuple(shape for _, shape in _arrays(one.type))
            size = max(operands, sizes[one.name])
            source = _text(r'op_name="([^"]*)"', one.rest)
            kind = "reduce-scatter" if scatters else kind
            yield channel, Operation(kind, times, size, shapes, source)
        elif one.opcode == "while":
            trips = _trips(program, one.rest)
            for part in ("condition", "body"):
                called = _text(rf"\b{part}=%([\w.-]+)", one.rest)
                yield from _operations(program, called, times * trips, fused)
        elif one.opcode == "async-start" or not one.opcode.endswith(("-start", "-update", "-done")):
            for names in _CALLED.findall(one.rest):
                for called in _NAME.findall(names):
                    inner = fused or one.opcode == "fusion"
                    yield from _operations(program, called, times, inner)


def _trips(program: _Program, rest: str) -> int:
    """How often a loop runs; 1 if it depends on data.

    XLA notes it, but not for TPUs. There the condition compares a counter with the only integer
    constant in it.
    """
    if known := _text(r'"known_trip_count":\{"n":"(\d+)"\}', rest):
        return int(known)
    limits = [
        int(one.operands)
        for one in program[_text(r"\bcondition=%([\w.-]+)", rest)]
        if one.opcode == "constant" and one.operands.isdecimal()
    ]
    return limits[0] if len(limits) == 1 else 1


def _text(pattern: str, text: str) -> str:
    """What the group of a pattern matches; empty if nothing."""
    found = re.search(pattern, text)
    return found[1] if found else ""


def _arrays(type_: str) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Bits of a number, and shape, of each array of a type."""
    for name, bits, sizes in _ARRAY.findall(type_):
        shape = tuple(int(size) for size in sizes.split(",") if size)
        yield 8 if name == "pred" else int(bits), shape


def _bytes(type_: str) -> int:
    return sum(math.ceil(bits * math.prod(shape) / 8) for bits, shape in _arrays(type_))


def _parse(hlo: str) -> tuple[_Program, str]:
    """The computations of a program, and the name of that which is run."""
    program: _Program = {}
    name = entry = ""
    for line in hlo.splitlines():
        if header := re.match(r"(ENTRY )?%([\w.-]+) \(.*\{$", line):
            name = header[2]
            entry = name if header[1] else entry
            program[name] = []
        elif name and (match := _INSTRUCTION.match(line)):
            program[name].append(_Instruction(*match.groups()))
    return program, entry
