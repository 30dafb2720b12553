"""From a PyTorch file to a model of ours with its parameters."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from maskfeat_jax.build import RecipeError, member, nearest
from maskfeat_jax.convert import files, metadata
from maskfeat_jax.convert.describe import Shapes, Untold, describe
from maskfeat_jax.convert.files import Contents, ConvertError, Tensor
from maskfeat_jax.convert.layouts import LAYOUTS, Form, Layout
from maskfeat_jax.convert.layouts.base import HINTS
from maskfeat_jax.convert.rules import Reader, rule_of, table
from maskfeat_jax.convert.trained import Params, Trained
from maskfeat_jax.leaves import Name, nest
from maskfeat_jax.models import MAE, MaskFeat
from maskfeat_jax.models.positions import FIXED
from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.transfer import transfer

_SHOWN = 8  # names of one kind in a report


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of every tensor of a file.

    Attributes:
      layout: of the file.
      head: of the model that it is.
      found: sentences about what is around the tensors, and what was assumed.
      used: names of the tensors that were read.
      ignored: of tensors that hold no parameters, or none that are needed.
      missing: of tensors that the model needs.
      unexpected: of tensors that the model does not have.
      wrong: sentences about shapes, types and numbers that cannot be.
    """

    layout: str
    head: str
    found: tuple[str, ...] = ()
    used: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether every tensor has its place and every place its tensor."""
        return not (self.missing or self.unexpected or self.wrong)

    def __str__(self) -> str:
        """A few lines."""
        lines = [f"layout {self.layout}, head {self.head}: {len(self.used)} tensors used"]
        lines += self.found
        names = {"ignored": self.ignored, "missing": self.missing, "unexpected": self.unexpected}
        for what, those in {**names, "wrong": self.wrong}.items():
            if those:
                lines.append(f"{len(those)} {what}: {_few(those)}")
        return "\n  ".join(lines)


def load_torch(
    path: str | os.PathLike[str],
    layout: str | None = None,
    *,
    resize: Size3 | None = None,
    ema: bool = True,
    allow_unexpected: bool = False,
    **hints: Any,
) -> Trained:
    """Reads a PyTorch checkpoint: the model is told from the file.

    Args:
      path: of a `.safetensors` file, of what `torch.save` wrote, or of a folder with either.
      layout: key of `LAYOUTS`; None to find it out.
      resize: frames, height and width that the model is wanted for, if not those of the file:
        tables of positions are interpolated, see `transfer`.
      ema: take the moving average of the parameters where the file has one.
      allow_unexpected: leave tensors out that the model does not have, instead of refusing.
      **hints: what the file does not tell, see `HINTS`.

    Raises:
      ConvertError: the file cannot be read without running code; or it does not hold one of the
        models of the layout, with a report of all that is missing, unexpected or wrong.
    """
    for name in hints:
        if name not in HINTS:
            raise TypeError(f"{name}: no such argument{nearest(name, HINTS)}")
    contents = files.read(path, ema=ema)
    tensors, prefix = files.without_prefixes(contents.tensors)
    sentences = [*contents.found, *([f"prefix {prefix!r} of all names"] if prefix else [])]
    source = find_form(tensors, layout)
    told = source.layout.hints(contents.wrapper, contents.documents)
    told |= {name: hint for name, hint in hints.items() if hint is not None}
    trained, report = _build(source, told, contents)
    report = dataclasses.replace(report, found=(*sentences, *report.found))
    if not (report.fits or (allow_unexpected and not report.missing and not report.wrong)):
        raise ConvertError(f"{path} does not fit: {report}")
    trained = dataclasses.replace(trained, report=report)
    return trained if resize in (None, trained.clip) else resized(trained, resize)


def resized(trained: Trained, clip: Size3) -> Trained:
    """The same for clips of another size.

    Raises:
      ConvertError: the clip is not a whole number of tubelets.
    """
    model = trained.model
    try:
        grids = [model.encoder.grid(size) for size in (trained.clip, clip)]
    except ValueError as error:
        raise ConvertError(f"{trained.origin} cannot be resized: {error}") from error
    if isinstance(model, MAE):
        before, after = (int(np.prod(grid)) for grid in grids)
        model = model.clone(visible=max(1, round(model.visible * after / before)))
    params = transfer(
        shapes_of(model, clip), trained.params, parts=tuple(trained.params), grids=tuple(grids)
    )
    for part in ("encoder", "decoder"):
        if part in params and "pos_embed" in params[part] and _kind_of(model, part) in FIXED:
            params[part]["pos_embed"] = computed(model, clip, part)
    return dataclasses.replace(trained, model=model, params=params, clip=clip)


@dataclasses.dataclass(frozen=True)
class Source:
    """Tensors of a file in the form that fits them best.

    Attributes:
      layout, form: the form.
      tensors: of the file, named as the layout has them now.
      parts: names of the tensors of each parameter of ours, by the number of the part.
      unknown: names that the form does not know.
    """

    layout: Layout
    form: Form
    tensors: Mapping[str, Tensor]
    parts: Mapping[Name, Mapping[int, str]]
    unknown: tuple[str, ...]


def find_form(tensors: Mapping[str, Tensor], layout: str | None) -> Source:
    """The form that knows most names and misses fewest.

    Raises:
      ConvertError: no such layout, or no form knows anything of the file.
    """
    try:
        layouts = LAYOUTS.values() if layout is None else [member("layout", LAYOUTS, layout)]
    except RecipeError as error:
        raise ConvertError(str(error)) from error
    sources = [_read_as(kind, form, tensors) for kind in layouts for form in kind.forms]
    best = min(sources, key=_misfit)
    if not best.parts:
        some = _few(tuple(tensors))
        raise ConvertError(f"no layout of {', '.join(LAYOUTS)} has names like {some}")
    return best


def _read_as(layout: Layout, form: Form, tensors: Mapping[str, Tensor]) -> Source:
    named = {_renamed(name, layout.old_names): tensor for name, tensor in tensors.items()}
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


def _renamed(name: str, changes: Mapping[str, str]) -> str:
    for pattern, text in changes.items():
        name = re.sub(pattern, text, name)
    return name


def _misfit(source: Source) -> tuple[int, int]:
    """Names that a form does not know, then rows of it that no name fits."""
    known = {"/".join("*" if p.isdigit() else p for p in name) for name in source.parts}
    rows = [r for r, rule in source.form.table.items() if rule.theirs and "pos_embed" not in r]
    idle = sum(not any(k == row or k.startswith(f"{row}/") for k in known) for row in rows)
    beyond = sum(name not in source.tensors for name in source.form.extras)
    return len(source.unknown), idle + beyond


def _build(source: Source, hints: Mapping[str, Any], contents: Contents) -> tuple[Trained, Report]:
    """The model that the tensors are, filled with them as far as they fit."""
    form = source.form
    try:
        trained = _without_params(source, hints, contents)
        model, clip = trained.model, trained.clip
        wanted = shapes_of(model, clip)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        report = _report(source, unexpected=source.unknown)
        raise ConvertError(f"{contents.path}: {error}\n  {report}") from error
    params, missing, wrong, used = _fill(source, model, clip, wanted)
    spare = [name for name in source.tensors if name not in used]
    ignored = [name for name in spare if name in form.extras or name in form.ignored]
    report = _report(
        source,
        found=tuple(_remarks(source, hints, model)),
        used=tuple(used),
        ignored=tuple(ignored),
        missing=tuple(missing),
        unexpected=tuple(name for name in spare if name not in ignored),
        wrong=tuple(wrong),
    )
    return dataclasses.replace(trained, params=params), report


def _without_params(source: Source, hints: Mapping[str, Any], contents: Contents) -> Trained:
    """The model, from what this package wrote beside the file, or else from the tensors."""
    origin = f"{contents.path} ({source.layout.name})"
    known = metadata.about(contents)
    if known is not None and known["head"]["name"] == source.form.head:
        return metadata.trained_of(known, {}, origin)
    section, head, clip = told_sections(source, hints)
    usual = source.layout.images if clip[0] == 1 else source.layout.videos
    return Trained(
        model=metadata.model_of(section, head),
        params={},
        clip=clip,
        normalise=hints.get("normalise") or usual,
        recipe={"model": section, "head": head},
        origin=origin,
    )


def told_sections(
    source: Source, hints: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], Size3]:
    """The sections `model` and `head`, and the clip, of the model that the tensors are.

    Raises:
      ConvertError: they are of no model.
    """
    try:
        return describe(_our_shapes(source), source.form, hints)
    except Untold as error:
        (name,) = error.args
        rule = rule_of(source.form.table, name)
        theirs = ", ".join(filter(None, rule.names(name[-1]))) if rule else "/".join(name)
        raise ConvertError(f"{theirs}: missing, and without it the model cannot be told") from error


def shapes_of(model: Any, clip: Size3) -> Params:
    """Shapes of the parameters of a model for a clip, with one subtree per block."""
    model = model.clone(encoder=model.encoder.clone(scan=False))
    arguments = [jax.ShapeDtypeStruct((1, *clip, 3), np.float32)]
    if isinstance(model, MaskFeat | MAE):
        arguments.append(jax.ShapeDtypeStruct((1, *model.encoder.grid(clip)), bool))
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
    return jax.eval_shape(model.init, key, *arguments)["params"]


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


def _fill(
    source: Source, model: Any, clip: Size3, wanted: Params
) -> tuple[Params, list[str], list[str], list[str]]:
    """Parameters like `wanted`; missing tensors, sentences about wrong ones, used tensors."""
    missing: list[str] = []
    wrong: list[str] = []
    used: list[str] = []
    rows = table(source.form.table, depth=getattr(model, "depth", None))
    params: dict[Name, np.ndarray] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(wanted):
        name = tuple(entry.key for entry in path)
        rule = rule_of(rows, name)
        if rule is None:
            missing.append(f"{'/'.join(name)} (not in this layout)")
            continue
        if not rule.theirs:
            params[name] = computed(model, clip, name[0])
            continue
        blank = np.broadcast_to(np.int8(0), leaf.shape)
        expected = rule.to_torch(name[-1], blank)
        parts = []
        for theirs, part in zip(rule.names(name[-1]), expected, strict=True):
            if theirs is None:
                parts.append(np.zeros(part.shape, np.float32))
            elif theirs not in source.tensors:
                missing.append(theirs)
            else:
                used.append(theirs)
                parts += _numbers(theirs, source.tensors[theirs], part.shape, wrong)
        if len(parts) == len(expected):
            params[name] = np.ascontiguousarray(rule.from_torch(name[-1], parts))
    return nest(params), missing, wrong, used


def _numbers(
    name: str, tensor: Tensor, shape: tuple[int, ...], wrong: list[str]
) -> list[np.ndarray]:
    """The tensor in float32, or nothing after noting what is wrong with it."""
    if tensor.shape != shape:
        turned = ", its transpose" if tensor.shape == shape[::-1] else ""
        wrong.append(f"{name} {tensor.shape}{turned}, expected {shape}")
        return []
    array = tensor.read()
    if array.dtype.kind not in "fV":
        wrong.append(f"{name} holds {tensor.dtype}, expected floats")
        return []
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        wrong.append(f"{name} holds {int((~np.isfinite(array)).sum())} numbers that are not finite")
        return []
    return [array]


def computed(model: Any, clip: Size3, part: str) -> np.ndarray:
    """A table of positions that the model itself gives, of the "encoder" or the "decoder"."""
    grid = model.encoder.grid(clip)
    if part == "encoder":
        width, first = model.encoder.width, model.encoder.class_tokens
    else:
        width, first = model.width, int(model.class_token != "none")
    return np.asarray(FIXED[_kind_of(model, part)](grid, width, first), np.float32)


def _kind_of(model: Any, part: str) -> str:
    return model.encoder.positions if part == "encoder" else model.positions


def _remarks(source: Source, hints: Mapping[str, Any], model: Any) -> Iterable[str]:
    halves = {t.dtype for t in source.tensors.values()} - {"float32", "F32", "int64", "I64"}
    if halves:
        yield f"converted to float32: {', '.join(sorted(halves))}"
    epsilon = hints.get("epsilon")
    if epsilon is not None and epsilon != 1e-6:
        yield f"layer norms here have an epsilon of 1e-6, this file's have {epsilon:g}"
    if source.layout.name == "hf" and not model.encoder.class_tokens:
        yield "transformers gives the last norm of VideoMAE an epsilon of 1e-5, here it is 1e-6"


def _report(source: Source, **lists: tuple[str, ...]) -> Report:
    return Report(layout=source.layout.name, head=source.form.head, **lists)


def _few(names: Sequence[str]) -> str:
    more = f", … and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
