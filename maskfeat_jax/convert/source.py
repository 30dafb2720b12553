"""Tensors of a file in the form of a layout that fits them best."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from maskfeat_jax.checkpoints.trees import Name
from maskfeat_jax.convert.describe import Fields, Shapes, Untold, describe
from maskfeat_jax.convert.files import ConvertError, Tensor
from maskfeat_jax.convert.hints import Hints
from maskfeat_jax.convert.layouts import LAYOUTS, Form, Layout
from maskfeat_jax.convert.rules import Reader, rule_of
from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.sections import RecipeError, member

_SHOWN = 8  # names of one kind in a report
_LONGEST = 200  # characters of one


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of every tensor of a file, by name."""

    layout: str
    head: str
    found: tuple[str, ...] = ()  # sentences about what is around the tensors
    assumed: tuple[str, ...] = ()  # what nothing tells, as `name=value`
    used: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()  # no parameters, or none that are needed
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()  # sentences about shapes, types and numbers that cannot be

    @property
    def fits(self) -> bool:
        """Whether every tensor has its place and every place its tensor."""
        return not (self.missing or self.unexpected or self.wrong)

    def __str__(self) -> str:
        """A few lines."""
        lines = [f"layout {self.layout}, head {self.head}: {len(self.used)} tensors used"]
        lines += self.found
        if self.assumed:
            lines.append(f"told by nothing, assumed: {', '.join(self.assumed)}")
        names = {"ignored": self.ignored, "missing": self.missing, "unexpected": self.unexpected}
        for what, those in {**names, "wrong": self.wrong}.items():
            if those:
                lines.append(f"{len(those)} {what}: {few(those)}")
        return "\n  ".join(lines)


@dataclasses.dataclass(frozen=True)
class Source:
    """Tensors of a file in the form of a layout."""

    layout: Layout
    form: Form
    tensors: Mapping[str, Tensor]  # named as the layout has them now
    parts: Mapping[Name, Mapping[int, str]]  # names of the tensors of a parameter of ours, by part
    unknown: tuple[str, ...]  # names that the form does not know


def layout_of(name: str) -> Layout:
    """`LAYOUTS[name]`; ConvertError, with the nearest name, if there is none."""
    try:
        return member("layout", LAYOUTS, name)
    except RecipeError as error:
        raise ConvertError(str(error)) from error


def find_form(tensors: Mapping[str, Tensor], layout: str | None) -> Source:
    """The form that knows most names and misses fewest; ConvertError if none knows anything."""
    layouts = LAYOUTS.values() if layout is None else [layout_of(layout)]
    sources = [_read_as(kind, form, tensors) for kind in layouts for form in kind.forms]
    best = min(sources, key=_misfit)
    if not best.parts:
        some = few(tuple(tensors))
        raise ConvertError(f"no layout of {', '.join(LAYOUTS)} has names like {some}")
    return best


def _read_as(layout: Layout, form: Form, tensors: Mapping[str, Tensor]) -> Source:
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new = name
        for pattern, text in layout.old_names.items():
            new = re.sub(pattern, text, new)
        named[name if new in named else new] = tensor
    read = Reader(form.table)
    parts: dict[Name, dict[int, str]] = {}
    unknown: list[str] = []
    for name, tensor in named.items():
        found = read(name, tensor.shape)
        if found is not None:
            parts.setdefault(found[0], {})[found[1]] = name
        elif name not in form.extras and name not in form.ignored:
            unknown.append(name)
    return Source(layout, form, named, parts, tuple(unknown))


def _misfit(source: Source) -> tuple[int, int]:
    """Names that a form does not know, then rows of it that no name fits."""
    known = {"/".join("*" if p.isdigit() else p for p in name) for name in source.parts}
    rows = [r for r, rule in source.form.table.items() if rule.theirs and "pos_embed" not in r]
    idle = sum(not any(k == row or k.startswith(f"{row}/") for k in known) for row in rows)
    beyond = sum(name not in source.tensors for name in source.form.extras)
    return len(source.unknown), idle + beyond


def told_sections(source: Source, hints: Hints) -> tuple[Fields, Fields, Size3]:
    """Sections `model` and `head`, and the clip; ConvertError if the tensors are of no model."""
    try:
        return describe(_our_shapes(source), source.form, hints)
    except Untold as error:
        (name,) = error.args
        rule = rule_of(source.form.table, name)
        theirs = ", ".join(filter(None, rule.names(name[-1]))) if rule else "/".join(name)
        raise ConvertError(f"{theirs}: missing, and without it the model cannot be told") from error


def _our_shapes(source: Source) -> Shapes:
    """Shapes of the parameters that the file has, as ours."""
    shapes: dict[Name, tuple[int, ...]] = {}
    for name, parts in source.parts.items():
        rule = rule_of(source.form.table, name)
        # Views without numbers: a file may say of itself that it is large.
        arrays = [np.broadcast_to(np.int8(0), source.tensors[n].shape) for n in parts.values()]
        assert rule is not None
        try:
            shapes[name] = rule.from_torch(name[-1], arrays).shape
        except ValueError:  # parts that do not go together; told when they are filled in
            continue
    return shapes


def few(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are."""
    more = f", … and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    # A stranger's names may hold anything, and be of any length.
    return ", ".join(ascii(name)[1:-1][:_LONGEST] for name in names[:_SHOWN]) + more
