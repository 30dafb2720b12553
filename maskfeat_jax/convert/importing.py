"""Reads PyTorch files as models of this package."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from maskfeat_jax.checkpoints import manifest, pretrained
from maskfeat_jax.checkpoints.description import model_of
from maskfeat_jax.checkpoints.pretrained import Params, Pretrained
from maskfeat_jax.checkpoints.trees import Name, named_leaves, nest
from maskfeat_jax.convert import files
from maskfeat_jax.convert.describe import KV_STRIDES, check_size, tubelets
from maskfeat_jax.convert.files import Contents, ConvertError, Tensor
from maskfeat_jax.convert.hints import ONLY, Hints, check_given, stored
from maskfeat_jax.convert.layouts import READ, Form
from maskfeat_jax.convert.layouts.base import IMAGENET, KINETICS
from maskfeat_jax.convert.rules import rule_of, table
from maskfeat_jax.convert.source import Report, Source, find_source, infer_sections
from maskfeat_jax.files import local_path
from maskfeat_jax.models import MAE, BoxClassifier, Features, MaskFeat, MViT, ViT
from maskfeat_jax.models.positions import FIXED
from maskfeat_jax.ops.patches import Size3
from maskfeat_jax.transfer import TransferError, transfer

FRAMES = 2  # of a token of a video, in all published models
FLOATS = ("float16", "bfloat16", "float32", "float64", "F16", "BF16", "F32", "F64")


def load(
    path: str | os.PathLike[str],
    layout: str | None = None,
    *,
    resize: Size3 | None = None,
    ema: bool = True,
    sections: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> Pretrained:
    """A model with its parameters, from a checkpoint of this package or of PyTorch.

    Args:
      path: a work directory, one of its steps, an imported checkpoint, or a PyTorch file.
      layout: see `load_torch`.
      resize: see `load_torch`.
      ema: take the moving average of the parameters if there is one.
      sections: see `checkpoints.pretrained.load_pretrained`.
      **arguments: of `load_torch`, only for a PyTorch file.

    Raises:
      CheckpointError, WorkdirError, RecipeError: a checkpoint of this package cannot be read.
      ConvertError: a PyTorch file cannot be read, or the path does not exist.
      ValueError: the path is a URL.
    """
    path = local_path(path)
    if str(path).partition(":")[0].endswith(".py"):
        raise ConvertError(
            f"{path} is a recipe; expected a work directory, a checkpoint or a PyTorch file"
        )
    if not pretrained.is_ours(path):
        return load_torch(path, layout, resize=resize, ema=ema, **arguments)
    arguments = {"layout": layout, **arguments}
    if needless := [name for name, value in arguments.items() if value not in (None, False)]:
        raise ConvertError(
            f"{path} is a checkpoint of this package, which contains all settings; "
            f"{', '.join(needless)}: only for PyTorch files"
        )
    try:
        trained = pretrained.load_pretrained(path, ema=ema, sections=sections)
    except pretrained.DescriptionError as error:
        raise ConvertError(str(error)) from error
    return trained if resize in (None, trained.clip) else resized(trained, resize)


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256, in hexadecimal digits, of what `load` reads.

    Of a PyTorch file; of the digits of all shards that an index lists; or of the manifest of a step
    of this package, which has those of its files. See `load` for the errors.
    """
    path = local_path(path)
    if pretrained.is_ours(path):
        return pretrained.sha256_of(path)
    digits = [manifest.sha256(file) for file in files.files_of(path)]
    return digits[0] if len(digits) == 1 else hashlib.sha256("".join(digits).encode()).hexdigest()


def load_torch(
    path: str | os.PathLike[str],
    layout: str | None = None,
    *,
    resize: Size3 | None = None,
    ema: bool = True,
    prefix: str | None = None,
    allow_unexpected: bool = False,
    **hints: Any,
) -> Pretrained:
    """Reads a PyTorch checkpoint and infers the model from it.

    Args:
      path: a `.safetensors` file, one that `torch.save` wrote, a folder with either, or the index
        of a sharded checkpoint (`*.index.json`).
      layout: key of `LAYOUTS`; None to detect it.
      resize: frames, height and width to interpolate position tables to, if not those of the
        file; see `transfer`.
      ema: take the moving average of the parameters if the file has one.
      prefix: of the names to read, e.g. "teacher.backbone."; None to detect it. Tensors without it
        are listed as ignored.
      allow_unexpected: ignore tensors that the model does not have instead of refusing the file.
      **hints: see `HINTS`; they override settings stored in or next to the file.

    Raises:
      ConvertError: the file cannot be read without running code; or it does not fit a model
        of the layout; reports all tensors that are missing, unexpected or wrong.
    """
    given = check_given(hints)
    contents = files.read(path, ema=ema)
    known = about(contents)
    if known and known["layout"] not in READ:
        raise ConvertError(
            f"{path} is only the encoder, for a detector; load what it was made of: "
            f"{known['origin']}"
        )
    source = find_source(contents.tensors, layout, prefix)
    settings = stored(
        lambda: source.layout.hints(contents.wrapper, contents.documents), str(contents.path)
    )
    described = {"head": known["head"]["name"]} if known else {}
    head = {**settings, **described, **given}.get("head", source.form.head)
    if head in source.same_names:
        source = dataclasses.replace(source, form=source.same_names[head])
    elif "head" in given:
        raise ConvertError(
            f"{path}: head={head!r}, but in layout {source.layout.name!r} these tensors are of "
            f"head {' or '.join(source.same_names)}"
        )
    trained, report = _build(source, settings, given, contents, known)
    report = dataclasses.replace(report, found=(*contents.found, *report.found))
    if not (report.fits or (allow_unexpected and not report.missing and not report.wrong)):
        raise ConvertError(f"{path} does not fit: {report}")
    trained = dataclasses.replace(trained, report=report)
    return trained if resize in (None, trained.clip) else resized(trained, resize)


def about(contents: Contents) -> Mapping[str, Any] | None:
    """The description that this package wrote next to a file, if its SHA-256 is of this file."""
    document = contents.documents.get(pretrained.FILE)
    if not isinstance(document, dict) or document.get("format") != pretrained.FORMAT:
        return None
    head = document.get("head")
    if not isinstance(head, dict) or "name" not in head:
        return None
    sums = document.get("sha256")
    digest = sums.get(contents.path.name) if isinstance(sums, dict) else None
    return document if digest == manifest.sha256(contents.path) else None


def resized(trained: Pretrained, clip: Size3, like: nn.Module | None = None) -> Pretrained:
    """The model for another clip size, blocks not stacked.

    A model of videos for a clip of one frame becomes one of images, and back, see `transfer`. Of a
    pre-training model then only the encoder and its norm are left.

    Args:
      trained: the model.
      clip: frames, height and width.
      like: has the frames of a token, and the kind of positions, of an encoder that becomes one of
        images or of videos; None for two frames and positions "separate" of videos, and "joint"
        of images.

    Raises:
      ConvertError: it cannot have the clip size.
      TransferError: its positions cannot become those of `like`.
    """
    if min(clip) < 1:
        raise ConvertError(f"clip size {clip}: expected positive numbers")
    before = trained.model.encoder
    if (trained.clip[0] == 1) != (clip[0] == 1):
        trained, _ = encoder_alone(trained)
        model = trained.model.clone(encoder=_with_frames(before, clip[0], like))
    else:
        model = trained.model.clone(encoder=before.clone(scan=False))
    try:
        grids = before.grid(trained.clip), model.encoder.grid(clip)
    except ValueError as error:
        raise ConvertError(f"{trained.origin} cannot be resized: {error}") from error
    check_size(clip, grids[1], model.encoder.width)
    if isinstance(model, MAE):
        old, new = (int(np.prod(grid)) for grid in grids)
        model = model.clone(visible=max(1, round(model.visible * new / old)))
    params = transfer(
        shapes_of(model, clip), trained.params, parts=tuple(trained.params), grids=grids
    )
    for module in ("encoder", "decoder"):
        if module in params and "pos_embed" in params[module] and _kind_of(model, module) in FIXED:
            params[module]["pos_embed"] = computed(model, clip, module)
    return dataclasses.replace(trained, model=model, params=params, clip=clip)


def encoder_alone(trained: Pretrained) -> tuple[Pretrained, tuple[str, ...]]:
    """The encoder and norm of a pre-training model, and what is left out; others unchanged."""
    if not isinstance(trained.model, MaskFeat | MAE):
        return trained, ()
    kept = {**backbone(trained.params), "norm": trained.params["norm"]}
    left = [name for name in trained.params if name not in kept]
    left += ["encoder/mask_token"] if "mask_token" in trained.params["encoder"] else []
    autoencoder = isinstance(trained.model, MAE)
    pool = "class" if autoencoder and trained.model.encoder.class_tokens else "mean"
    model = Features(trained.model.encoder, pool)
    return dataclasses.replace(trained, model=model, params=kept), tuple(left)


def backbone(params: Params) -> Params:
    """The parameters of the encoder without its mask token."""
    encoder = {name: value for name, value in params["encoder"].items() if name != "mask_token"}
    return {"encoder": encoder}


def _with_frames(encoder: nn.Module, frames: int, like: nn.Module | None) -> nn.Module:
    """An encoder of images as one of clips of this many frames, and back."""
    step = like.tubelet[0] if like else min(frames, FRAMES)
    fields: dict[str, Any] = {"tubelet": (step, *encoder.tubelet[1:]), "scan": False}
    if isinstance(encoder, ViT):
        usual = "joint" if frames == 1 else "separate"
        fields["positions"] = getattr(like, "positions", usual)
        if fields["positions"] in FIXED:
            raise TransferError(
                f"model.positions={fields['positions']!r}: fixed positions of images and of videos "
                "are different, and the model of model.init_from expects its own. Set "
                "model.positions='joint', which starts from them, or 'separate'"
            )
    return encoder.clone(**fields)


def _build(
    source: Source,
    settings: Hints,
    given: Hints,
    contents: Contents,
    known: Mapping[str, Any] | None,
) -> tuple[Pretrained, Report]:
    """Infers the model and fills it with the tensors as far as they fit.

    Given hints override stored settings; `known` is the description of this package.
    """
    form = source.form
    if known is not None and known["head"]["name"] != form.head:
        known = None
    origin = f"{contents.path} ({source.layout.name})"
    hints = {**settings, **given}
    try:
        if known:
            trained = pretrained.described(_corrected(known, given, form), {}, origin)
        else:
            trained = _inferred(source, hints, origin)
        model, clip = trained.model, trained.clip
        check_size(clip, model.encoder.grid(clip), model.encoder.width)
        shapes = shapes_of(model, clip)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        report = _report(source, unexpected=source.unknown)
        raise ConvertError(f"{contents.path}: {error}\n  {report}") from error
    params, missing, wrong, used = _fill(source, model, clip, shapes)
    spare = [name for name in source.tensors if name not in used]
    ignored = [name for name in spare if name in form.extras or form.ignores(name)]
    beyond = [name for name in given if not _has_setting(trained, name, known)]
    remarks = [f"given, but not a setting of this model: {', '.join(beyond)}"] if beyond else []
    report = _report(
        source,
        found=(*_remarks(source), *remarks),
        assumed=() if known else tuple(_assumed(source, hints, trained)),
        used=tuple(used),
        ignored=(*ignored, *source.outside),
        missing=tuple(missing),
        unexpected=tuple(name for name in spare if name not in ignored),
        wrong=tuple(wrong),
    )
    return dataclasses.replace(trained, params=params), report


def _corrected(document: Mapping[str, Any], given: Hints, form: Form) -> dict[str, Any]:
    """A description in which given hints replace its values."""
    model, head = dict(document["model"]), dict(document["head"])
    of_encoder = ["heads", "kv_stride", "tubelet", "epsilon"]
    of_encoder += [] if form.encoder == "mvit" else ["activation"]
    model |= {name: given[name] for name in of_encoder if name in given}
    if "decoder_heads" in given:
        head["heads"] = given["decoder_heads"]
    head |= {name: given[name] for name in ("pool", "bins") if name in given and name in head}
    if "pool" in given and head["name"] == "classifier":
        head["norm_of"] = form.norm_of if given["pool"] == "mean" else "pooled"
    body = {"clip": given.get("clip") or document["clip"], "model": model, "head": head}
    body = {**document, **body}
    if "class_names" in given:
        body["class_names"] = given["class_names"]
    if "normalise" in given:
        body["normalise"] = dataclasses.asdict(given["normalise"])
    return body


def _inferred(source: Source, hints: Hints, origin: str) -> Pretrained:
    """The model inferred from the tensors, without parameters."""
    section, head, clip = infer_sections(source, hints)
    view = {"eval_view": hints["view"]} if "view" in hints else {}
    model = model_of({**section, "scan": False}, head)  # as `shapes_of`
    names, classes = hints.get("class_names"), getattr(model, "num_classes", None)
    if names and classes not in (None, len(names)):
        raise ConvertError(f"{len(names)} names of classes, but the tensors are for {classes}")
    usual = source.form.normalise or (IMAGENET if clip[0] == 1 else KINETICS)
    return Pretrained(
        model=model,
        params={},
        clip=clip,
        normalise=hints.get("normalise") or usual,
        recipe={"model": section, "head": head, **view},
        origin=origin,
        class_names=tuple(names) if names and classes else None,
    )


def shapes_of(model: Any, clip: Size3) -> Params:
    """Shapes of the parameters of a model for a clip, with one subtree per block."""
    model = model.clone(encoder=model.encoder.clone(scan=False))
    arguments = [jax.ShapeDtypeStruct((1, *clip, 3), np.float32)]
    if isinstance(model, MaskFeat | MAE):
        arguments.append(jax.ShapeDtypeStruct((1, *model.encoder.grid(clip)), bool))
    if isinstance(model, BoxClassifier):
        arguments.append(jax.ShapeDtypeStruct((1, 1, 4), np.float32))
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
    return jax.eval_shape(model.init, key, *arguments)["params"]


def _fill(
    source: Source, model: Any, clip: Size3, shapes: Params
) -> tuple[Params, list[str], list[str], list[str]]:
    """Parameters of these shapes; missing tensors, sentences about wrong ones, used tensors."""
    missing: list[str] = []
    wrong: list[str] = []
    used: list[str] = []
    rows = table(source.form.table, depth=getattr(model, "depth", None))
    params: dict[Name, np.ndarray] = {}
    for name, leaf in named_leaves(shapes).items():
        rule = rule_of(rows, name)
        if rule is None:
            missing.append(f"{'/'.join(name)} (not in this layout)")
            continue
        if not rule.theirs:
            params[name] = computed(model, clip, name[0])
            continue
        blank = np.broadcast_to(np.int8(0), leaf.shape)
        expected = rule.to_torch(name[-1], blank)
        arrays = []
        for theirs, tensor in zip(rule.names(name[-1]), expected, strict=True):
            if theirs is None:
                arrays.append(np.zeros(tensor.shape, np.float32))
            elif theirs not in source.tensors:
                missing.append(theirs)
            else:
                used.append(theirs)
                arrays += numbers_of(theirs, source.tensors[theirs], tensor.shape, wrong)
        if len(arrays) == len(expected):
            params[name] = np.ascontiguousarray(rule.from_torch(name[-1], arrays))
    return nest(params), missing, wrong, used


def numbers_of(
    name: str, tensor: Tensor, shape: tuple[int, ...], wrong: list[str]
) -> list[np.ndarray]:
    """The tensor in float32; if it is wrong, nothing, and a sentence is added to `wrong`."""
    if tensor.shape != shape:
        turned = " (transposed)" if tensor.shape == shape[::-1] else ""
        wrong.append(f"{name} {tensor.shape}{turned}, expected {shape}")
        return []
    if tensor.dtype not in FLOATS:
        wrong.append(f"{name} holds {tensor.dtype}, expected floats")
        return []
    array = tensor.read().astype(np.float32)
    if not np.isfinite(array).all():
        wrong.append(f"{name} holds {int((~np.isfinite(array)).sum())} numbers that are not finite")
        return []
    return [array]


def computed(model: Any, clip: Size3, module: str) -> np.ndarray:
    """The fixed position table of the "encoder" or the "decoder" of a model."""
    grid = model.encoder.grid(clip)
    if module == "encoder":
        width, first = model.encoder.width, model.encoder.class_tokens
    else:
        width, first = model.width, int(model.class_token != "none")
    return np.asarray(FIXED[_kind_of(model, module)](grid, width, first), np.float32)


def _kind_of(model: Any, module: str) -> str:
    return model.encoder.positions if module == "encoder" else model.positions


def _remarks(source: Source) -> Iterable[str]:
    if source.prefix:
        count, every = len(source.tensors), len(source.tensors) + len(source.outside)
        which = f"{count} of {every}" if source.outside else "all"
        yield f"prefix {source.prefix!r} of {which} names"
    halves = {t.dtype for t in source.tensors.values()} - {"float32", "F32", "int64", "I64"}
    if halves:
        yield f"converted to float32: {', '.join(sorted(halves))}"


def _has_setting(trained: Pretrained, name: str, known: Mapping[str, Any] | None) -> bool:
    """Whether a given setting is one of the model, or checked against it."""
    model, mvit = trained.model, isinstance(trained.model.encoder, MViT)
    return {
        "kv_stride": mvit,
        "tubelet": mvit,
        "residual_pooling": mvit,
        "fixed_sincos": not mvit,
        "decoder_heads": isinstance(model, MAE),
        "mask_ratio": isinstance(model, MAE) and not known,
        "pool": hasattr(model, "pool"),
        "bins": hasattr(model, "bins"),
        "class_names": hasattr(model, "num_classes"),
    }.get(name, True)


def _assumed(source: Source, hints: Hints, trained: Pretrained) -> Iterable[str]:
    """Settings that change outputs and are neither in the file, nor given, nor in the code."""
    for name, value in _defaults(source, trained):
        if name not in hints:
            yield f"{name}={value}"


def _defaults(source: Source, trained: Pretrained) -> Iterable[tuple[str, Any]]:
    """Settings that tensors do not show, and their values."""
    model, encoder, form = trained.model, trained.model.encoder, source.form
    tables = ("pos_embed", "pos_embed_spatial")
    if form.clip or any(("encoder", name) in source.parameters for name in tables):
        yield "clip", trained.clip
    mean, std = (" ".join(map(str, n)) for n in dataclasses.astuple(trained.normalise))
    yield "normalise", f"(mean {mean}, std {std})"
    if isinstance(encoder, MViT):
        yield "kv_stride", encoder.kv_stride
        if _halved_elsewhere(encoder, trained.clip):
            yield "tubelet", encoder.tubelet
    else:
        yield "heads", encoder.heads
    if len(source.same_names) > 1:
        yield "head", form.head
    if isinstance(model, BoxClassifier):
        yield "bins", model.bins
    if isinstance(model, MAE):
        yield "decoder_heads", model.heads
        masked = 1 - model.visible / np.prod(encoder.grid(trained.clip))
        yield "mask_ratio", round(float(masked), 3)
    if isinstance(model, Features) or (
        hasattr(model, "pool") and (form.pool is None or form.other_pool)
    ):
        yield "pool", model.pool
    unused = "fixed_sincos" if isinstance(encoder, MViT) else "residual_pooling"
    for name in source.layout.free:
        if name != unused:
            yield name, ONLY[name] if name in ONLY else getattr(encoder, name, "gelu")


def _halved_elsewhere(encoder: MViT, clip: Size3) -> bool:
    """Whether tables of these lengths also fit an MViT that halves the grid elsewhere."""

    def lengths(tubelet: Size3, kv_stride: int) -> list[Size3]:
        other = encoder.clone(tubelet=tubelet, kv_stride=kv_stride)
        return [block["rows"] for block in other.block_fields(clip)]

    ours = lengths(encoder.tubelet, encoder.kv_stride)
    others = (size for size in tubelets(encoder.stages) if size != encoder.tubelet)
    return any(lengths(*other) == ours for other in itertools.product(others, KV_STRIDES))


def _report(source: Source, **lists: tuple[str, ...]) -> Report:
    return Report(source.layout.name, source.form.head, prefix=source.prefix, **lists)
