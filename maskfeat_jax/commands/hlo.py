"""Reads optimised HLO, the text of a compiled program."""

from __future__ import annotations

import re
from typing import NamedTuple

_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%(\S+) = (.*?) ([a-z][a-z0-9-]*)\(([^)]*)(.*)")

_CALLED = re.compile(r"\b(?:calls|to_apply|\w+_computations?)=(\{[^}]*\}|%[\w.-]+)")
NAME = re.compile(r"%([\w.-]+)")


class Instruction(NamedTuple):
    """A line of a computation: `%name = type opcode(operands), rest`."""

    name: str
    type: str
    opcode: str
    operands: str
    rest: str


class Loop(NamedTuple):
    """A loop: the names of its computations, and how often its body runs."""

    condition: str
    body: str
    times: int


Program = dict[str, list[Instruction]]  # instructions by name of their computation


def parse(hlo: str) -> tuple[Program, str]:
    """The computations of a program, and the name of that which is run."""
    program: Program = {}
    name = entry = ""
    for line in hlo.splitlines():
        if header := re.match(r"(ENTRY )?%([\w.-]+) \(.*\{$", line):
            name = header[2]
            entry = name if header[1] else entry
            program[name] = []
        elif name and (match := _INSTRUCTION.match(line)):
            program[name].append(Instruction(*match.groups()))
    return program, entry


def called_by(instruction: Instruction) -> list[str]:
    """Names of the computations that an instruction calls; not those of a loop."""
    return [name for names in _CALLED.findall(instruction.rest) for name in NAME.findall(names)]


def loops(program: Program, name: str) -> list[Loop]:
    """The loops of a computation and of those it calls, not those in other loops."""
    found = []
    for one in program[name]:
        if one.opcode == "while":
            found.append(loop_of(program, one))
        for called in called_by(one):
            found += loops(program, called)
    return found


def loop_of(program: Program, instruction: Instruction) -> Loop:
    """The loop of a `while`; it runs once if the number of times depends on data.

    XLA notes the number, but not for TPUs. There the condition compares a counter with the only
    integer constant in it.
    """
    rest = instruction.rest
    condition = text_of(r"\bcondition=%([\w.-]+)", rest)
    body = text_of(r"\bbody=%([\w.-]+)", rest)
    if known := text_of(r'"known_trip_count":\{"n":"(\d+)"\}', rest):
        return Loop(condition, body, int(known))
    limits = [
        int(one.operands)
        for one in program[condition]
        if one.opcode == "constant" and one.operands.isdecimal()
    ]
    return Loop(condition, body, limits[0] if len(limits) == 1 else 1)


def text_of(pattern: str, text: str) -> str:
    """What the group of a pattern matches; empty if nothing."""
    found = re.search(pattern, text)
    return found[1] if found else ""
