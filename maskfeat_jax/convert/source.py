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
from maskfeat_jax.convert.layouts import LAYOUTS, READ, Form, Layout
from maskfeat_jax.convert.rules import Reader, rule_of
from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.sections import RecipeError, member

_LISTED = 8  # names of one kind in a report
_LONGEST = 200  # characters of one
# Wrappers of single modules, from compilation, sharding and recomputation.
INNER = {r"\.(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)": ""}
_PREFIXES = 20  # more are refused


@dataclasses.dataclass(frozen=True)
class Report:
    """How every tensor of a file was used, by name."""

    layout: str
    head: str
    found: tuple[str, ...] = ()  # sentences about other contents of the file
    assumed: tuple[str, ...] = ()  # settings that the file does not contain, as `name=value`
    prefix: str = ""  # removed from the names
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
    prefix: str = ""  # removed from the names
    outside: tuple[str, ...] = ()  # names without it

    @property
    def same_names(self) -> dict[str, Form]:
        """By head, the forms with these names: tensors do not tell which of them a file is of."""
        names = self.form.encoder, self.form.table
        forms = [form for form in self.layout.forms if (form.encoder, form.table) == names]
        return {**{form.head: form for form in forms}, self.form.head: self.form}


def layout_of(name: str) -> Layout:
    """`LAYOUTS[name]`; ConvertError, with the nearest name, if there is none."""
    try:
        return member("layout", LAYOUTS, name)
    except RecipeError as error:
        raise ConvertError(str(error)) from error


def find_source(
    tensors: Mapping[str, Tensor], layout: str | None, prefix: str | None = None
) -> Source:
    """The best form for the names with a prefix: the given one, or the only one that fits.

    Training and larger models add prefixes: `module.`, `net.model.`, `teacher.backbone.`.

    Raises:
      ConvertError: no name has the given prefix, no form has any of the names, or several prefixes
        fit, e.g. a student and a teacher.
    """
    layouts = _layouts(layout)
    if prefix is not None:
        prefix = prefix and prefix.removesuffix(".") + "."
        sources = [_below(tensors, layouts, prefix)]
        if not sources[0].tensors:
            raise ConvertError(f"no name has the prefix {prefix!r}; names: {few(tuple(tensors))}")
    else:
        found = [_below(tensors, layouts, prefix) for prefix in _prefixes(tensors, layouts)]
        most = max(_fitting(source) for source in found)
        fits = [source for source in found if not _idle(source, ("pos_embed", "cls_token"))]
        fits = fits or [source for source in found if _fitting(source) == most]
        # An encoder inside a classifier fits by itself as well.
        sources = [
            source
            for source in fits
            if not any(o is not source and source.prefix.startswith(o.prefix) for o in fits)
        ]
    if not sources[0].parameters:
        some = few(tuple(sources[0].tensors))
        raise ConvertError(f"none of the layouts {', '.join(READ)} has names like {some}")
    if len(sources) > 1:
        listed = ", ".join(f"{s.prefix!a} ({len(s.tensors)} tensors)" for s in sources)
        raise ConvertError(
            f"several models are in the file, with the prefixes {listed}: give prefix (--prefix of "
            "maskfeat_jax.convert)"
        )
    return sources[0]


def _layouts(name: str | None) -> list[Layout]:
    if name is None:
        return list(READ.values())
    if layout_of(name).backbone:
        raise ConvertError(f"layout {name!r} is only written: its files lack the norm")
    return [layout_of(name)]


def _prefixes(tensors: Mapping[str, Tensor], layouts: Sequence[Layout]) -> list[str]:
    """No prefix, and those before the name of a patch embedding, which each form has."""
    rules = [form.table["encoder/patch_embed"] for layout in layouts for form in layout.forms]
    ends = {f"{rule.theirs[0]}.weight" for rule in rules}
    found = {name.removesuffix(end) for name in tensors for end in ends if name.endswith(f".{end}")}
    if len(found) > _PREFIXES:
        raise ConvertError(
            f"{len(found)} names end like a patch embedding: give prefix (--prefix of "
            "maskfeat_jax.convert)"
        )
    return ["", *sorted(found)]


def _below(tensors: Mapping[str, Tensor], layouts: Sequence[Layout], prefix: str) -> Source:
    inside = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    outside = tuple(name for name in tensors if not name.startswith(prefix))
    best = _best(inside, layouts)
    return dataclasses.replace(best, prefix=prefix, outside=outside)


def _fitting(source: Source) -> int:
    return len(source.tensors) - len(source.unknown) if source.parameters else 0


def _best(tensors: Mapping[str, Tensor], layouts: Sequence[Layout]) -> Source:
    """The form that has most names and misses fewest."""
    sources = [_read_as(layout, form, tensors) for layout in layouts for form in layout.forms]
    return min(sources, key=_misfit)


def _read_as(layout: Layout, form: Form, tensors: Mapping[str, Tensor]) -> Source:
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new = name
        for pattern, text in {**INNER, **layout.old_names}.items():
            new = re.sub(pattern, text, new)
        named[name if new in named else new] = tensor
    read = Reader(form.table)
    parameters: dict[Name, dict[int, str]] = {}
    unknown: list[str] = []
    for name, tensor in named.items():
        found = read(name, tensor.shape)
        if found is not None:
            parameters.setdefault(found[0], {})[found[1]] = name
        elif name not in form.extras and not form.ignores(name):
            unknown.append(name)
    return Source(layout, form, named, parameters, tuple(unknown))


def _misfit(source: Source) -> tuple[int, int]:
    """Number of names that a form does not have, then of its rows that no name fits."""
    beyond = sum(name not in source.tensors for name in source.form.extras)
    return len(source.unknown), _idle(source, ("pos_embed",)) + beyond


def _idle(source: Source, optional: Sequence[str]) -> int:
    """Number of rows that no name fits, but for optional ones."""
    known = {"/".join("*" if p.isdigit() else p for p in name) for name in source.parameters}
    rows = [
        row
        for row, rule in source.form.table.items()
        if rule.theirs and not any(word in row for word in optional)
    ]
    return sum(not any(k == row or k.startswith(f"{row}/") for k in known) for row in rows)


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
