"""Finds the layout of a file: the one whose names fit its tensors best."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from maskfeat_jax.checkpoints.trees import Name
from maskfeat_jax.convert.describe import Fields, Shapes, Undetermined, describe
from maskfeat_jax.convert.files import ConvertError, Tensor
from maskfeat_jax.convert.hints import Hints
from maskfeat_jax.convert.layouts import LAYOUTS, Form, Layout
from maskfeat_jax.convert.rules import Reader, rule_of
from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.sections import RecipeError, member

_LISTED = 8  # names of one kind in a report
_LONGEST = 200  # characters of one


@dataclasses.dataclass(frozen=True)
class Report:
    """How every tensor of a file was used, by name."""

    layout: str
    head: str
    found: tuple[str, ...] = ()  # sentences about other contents of the file
    assumed: tuple[str, ...] = ()  # settings that the file does not contain, as `name=value`
    used: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()  # not parameters, or not needed
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()  # sentences about wrong shapes, dtypes and values

    @property
    def fits(self) -> bool:
        """Whether every parameter has its tensors and every tensor is used."""
        return not (self.missing or self.unexpected or self.wrong)

    def __str__(self) -> str:
        """A few lines."""
        lines = [f"layout {self.layout}, head {self.head}: {len(self.used)} tensors used"]
        lines += self.found
        if self.assumed:
            lines.append(f"not in the file, assumed: {', '.join(self.assumed)}")
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
    tensors: Mapping[str, Tensor]  # by the current names of the layout
    parameters: Mapping[Name, Mapping[int, str]]  # names of the tensors of each, by slice
    unknown: tuple[str, ...]  # names that the form does not have


def layout_of(name: str) -> Layout:
    """`LAYOUTS[name]`; ConvertError, with the nearest name, if there is none."""
    try:
        return member("layout", LAYOUTS, name)
    except RecipeError as error:
        raise ConvertError(str(error)) from error


def find_form(tensors: Mapping[str, Tensor], layout: str | None) -> Source:
    """The form that has most names and misses fewest; ConvertError if none has any."""
    layouts = LAYOUTS.values() if layout is None else [layout_of(layout)]
    sources = [_read_as(kind, form, tensors) for kind in layouts for form in kind.forms]
    best = min(sources, key=_misfit)
    if not best.parameters:
        some = few(tuple(tensors))
        raise ConvertError(f"none of the layouts {', '.join(LAYOUTS)} has names like {some}")
    return best


def _read_as(layout: Layout, form: Form, tensors: Mapping[str, Tensor]) -> Source:
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new = name
        for pattern, text in layout.old_names.items():
            new = re.sub(pattern, text, new)
        named[name if new in named else new] = tensor
    read = Reader(form.table)
    parameters: dict[Name, dict[int, str]] = {}
    unknown: list[str] = []
    for name, tensor in named.items():
        found = read(name, tensor.shape)
        if found is not None:
            parameters.setdefault(found[0], {})[found[1]] = name
        elif name not in form.extras and name not in form.ignored:
            unknown.append(name)
    return Source(layout, form, named, parameters, tuple(unknown))


def _misfit(source: Source) -> tuple[int, int]:
    """Number of names that a form does not have, then of its rows that no name fits."""
    known = {"/".join("*" if p.isdigit() else p for p in name) for name in source.parameters}
    rows = [r for r, rule in source.form.table.items() if rule.theirs and "pos_embed" not in r]
    idle = sum(not any(k == row or k.startswith(f"{row}/") for k in known) for row in rows)
    beyond = sum(name not in source.tensors for name in source.form.extras)
    return len(source.unknown), idle + beyond


def infer_sections(source: Source, hints: Hints) -> tuple[Fields, Fields, Size3]:
    """Sections `model` and `head`, and the clip size; ConvertError if the tensors fit no model."""
    try:
        return describe(_our_shapes(source), source.form, hints)
    except Undetermined as error:
        (name,) = error.args
        rule = rule_of(source.form.table, name)
        theirs = ", ".join(filter(None, rule.names(name[-1]))) if rule else "/".join(name)
        raise ConvertError(
            f"{theirs}: missing, and the model cannot be inferred without it"
        ) from error


def _our_shapes(source: Source) -> Shapes:
    """Shapes of our parameters, of those that the file has."""
    shapes: dict[Name, tuple[int, ...]] = {}
    for name, tensors in source.parameters.items():
        rule = rule_of(source.form.table, name)
        # Views without data: a file may claim to be large.
        arrays = [np.broadcast_to(np.int8(0), source.tensors[n].shape) for n in tensors.values()]
        assert rule is not None
        try:
            shapes[name] = rule.from_torch(name[-1], arrays).shape
        except ValueError:  # tensors that do not fit together are reported by `_fill`
            continue
    return shapes


def few(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are."""
    more = f", … and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    # Names in a file may contain anything and have any length.
    return ", ".join(ascii(name)[1:-1][:_LONGEST] for name in names[:_LISTED]) + more
