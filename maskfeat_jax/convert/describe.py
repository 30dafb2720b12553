"""Infers the model from the shapes of the tensors of a file."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from maskfeat_jax.checkpoints.description import section_of
from maskfeat_jax.checkpoints.trees import Name
from maskfeat_jax.convert.files import ConvertError
from maskfeat_jax.convert.hints import Hints
from maskfeat_jax.convert.layouts import Form
from maskfeat_jax.models import VARIANTS
from maskfeat_jax.models.mvit import PATCH, MViT
from maskfeat_jax.models.positions import FIXED
from maskfeat_jax.models.vit import ViT
from maskfeat_jax.ops.patches import Size3

Shapes = Mapping[Name, tuple[int, ...]]  # of our parameters
Fields = dict[str, Any]

KV_STRIDES = (8, 4, 2, 1, 16)  # published ones first: several may fit a file
MOST_NUMBERS = 50_000_000  # in a position table; more is a mistake or an attack
GIVE_CLIP = "give the clip size (--clip of maskfeat_jax.convert)"
MASK_RATIOS = {1: 0.75, 2: 0.9}  # of masked autoencoders, by frames per tubelet


class Undetermined(Exception):
    """A parameter that is needed to infer the model is missing; its name is the only argument."""


def describe(shapes: Shapes, form: Form, hints: Hints) -> tuple[Fields, Fields, Size3]:
    """The sections `model` and `head` of a recipe, and the clip size, that have these shapes.

    Raises:
      ConvertError: no model has these shapes.
      Undetermined: a parameter that is needed for this is missing.
    """
    family: Any = MViT if form.encoder == "mvit" else ViT
    fields, clip = (_mvit if family is MViT else _vit)(shapes, form, hints)
    encoder = family(**fields)
    if form.head == "boxes":
        _check_cell(hints, encoder.tubelet)
    return section_of(family, fields), _head(shapes, form, hints, encoder.grid(clip)), clip


def _vit(shapes: Shapes, form: Form, hints: Hints) -> tuple[Fields, Size3]:
    tubelet, width = _patch(shapes)
    depth = _blocks(shapes, "encoder")
    fields: Fields = {
        "width": width,
        "depth": depth,
        "heads": hints.get("heads") or _usual_heads(width, depth),
        "tubelet": tubelet,
        "mlp_ratio": _block(shapes, 0, "mlp", "fc1", "kernel")[1] / width,
        "positions": _positions(shapes, "encoder"),
        "class_token": ("encoder", "cls_token") in shapes,
        "epsilon": hints.get("epsilon") or form.epsilon,
        "activation": hints.get("activation") or form.activation,
        "norm_first": ("encoder", "norm_pre", "scale") in shapes,
        **form.encoder_fields,
    }
    if hints.get("tubelet") not in (None, tubelet):
        raise ConvertError(f"tubelet={hints['tubelet']}, but the patch embedding has {tubelet}")
    if hints.get("clip"):
        frames, height, side = hints["clip"]
        return fields, (frames, height, side)
    if form.clip:
        return fields, form.clip
    if fields["positions"] in FIXED:
        raise ConvertError(f"fixed positions are not stored in files; {GIVE_CLIP}")
    return fields, _clip_of_positions(shapes, tubelet)


def _patch(shapes: Shapes) -> tuple[Size3, int]:
    shape = _shape(shapes, ("encoder", "patch_embed", "kernel"))
    if len(shape) != 5 or not all(shape):
        raise ConvertError(f"the kernel of the patch embedding has shape {shape}, expected 5 axes")
    return (shape[0], shape[1], shape[2]), shape[4]


def _blocks(shapes: Shapes, where: str) -> int:
    numbers = {name[2] for name in shapes if name[:2] == (where, "blocks")}
    return next(i for i in itertools.count() if str(i) not in numbers)


def _positions(shapes: Shapes, where: str) -> str:
    return "separate" if (where, "pos_embed_spatial") in shapes else "joint"


def _usual_heads(width: int, depth: int) -> int:
    for family, sizes in VARIANTS.values():
        if family is ViT and (sizes["width"], sizes["depth"]) == (width, depth):
            return sizes["heads"]
    raise ConvertError(
        f"a ViT of width {width} and depth {depth} is not a standard size, and the file does not "
        "contain its number of attention heads: give heads (--heads of maskfeat_jax.convert)"
    )


def _clip_of_positions(shapes: Shapes, tubelet: Size3) -> Size3:
    """Frames, height and width that the position table is for, assuming square frames."""
    t, patch_height, patch_width = tubelet
    if ("encoder", "pos_embed_spatial") in shapes:
        per_frame = _tokens(shapes, "pos_embed_spatial")
        frames = _tokens(shapes, "pos_embed_temporal")
    else:
        first = int(("encoder", "cls_token") in shapes)
        tokens = _tokens(shapes, "pos_embed") - first
        frames = _frames(tokens, t)
        per_frame = tokens // frames
    side = _root(per_frame)
    if not side:
        raise ConvertError(f"{per_frame} positions per frame are not a square; {GIVE_CLIP}")
    return frames * t, side * patch_height, side * patch_width


def _frames(tokens: int, t: int) -> int:
    """Length in time of the token grid of a joint table: of 16 frames, or the only possible one."""
    if t == 1:
        return 1
    square = [n for n in range(1, 65) if tokens % n == 0 and _root(tokens // n)]
    if 16 // t in square:
        return 16 // t
    if len(square) != 1:
        raise ConvertError(
            f"{tokens} positions: the length of the token grid in time can be any of {square}; "
            f"{GIVE_CLIP}"
        )
    return square[0]


def _tokens(shapes: Shapes, name: str) -> int:
    shape = _shape(shapes, ("encoder", name))
    if len(shape) != 3:
        raise ConvertError(f"the position table has shape {shape}, expected 3 axes")
    return shape[1]


def _root(n: int) -> int:
    """The square root of n, 0 if that is not a whole number."""
    return math.isqrt(n) if math.isqrt(n) ** 2 == n else 0


def _mvit(shapes: Shapes, form: Form, hints: Hints) -> tuple[Fields, Size3]:
    _, width = _patch(shapes)
    depth = _blocks(shapes, "encoder")
    qkv = [_block(shapes, i, "attn", "qkv", "kernel") for i in range(depth)]
    head = max(1, _block(shapes, 0, "attn", "pool_q", "kernel")[-1])
    heads = [shape[1] // 3 // head for shape in qkv]
    stages = tuple(i for i in range(1, depth) if heads[i] > heads[i - 1])
    fields: Fields = {
        "width": width,
        "depth": depth,
        "heads": heads[0],
        "stages": stages,
        "widen_in": "attention" if _widens_in_attention(shapes) else "mlp",
        "mlp_ratio": _block(shapes, 0, "mlp", "fc1", "kernel")[1] / width,
    }
    if hints.get("heads") not in (None, heads[0]):
        raise ConvertError(f"heads={hints['heads']}, but the tensors have {heads[0]} heads")
    if hints.get("epsilon") not in (None, 1e-6):
        raise ConvertError(f"epsilon={hints['epsilon']}: the layer norms of an MViT have 1e-6 here")
    if hints.get("activation") not in (None, "gelu"):
        raise ConvertError(f"activation={hints['activation']!r}: an MViT has 'gelu' here")
    frames = (_block(shapes, 0, "attn", "rel_pos_t")[0] + 1) // 2 * PATCH[0]
    side = (_block(shapes, 0, "attn", "rel_pos_h")[0] + 1) // 2 * PATCH[1]
    clip = hints.get("clip") or (frames, side, side)
    tables = [_block(shapes, i, "attn", "rel_pos_h")[0] for i in range(depth)]
    known = _strides(fields, clip, tables, hints)
    return {**fields, **known}, (clip[0], clip[1], clip[2])


def tubelets(stages: Sequence[int]) -> list[Size3]:
    """Possible sizes of an output token of an MViT, largest first."""
    halvings = range(len(stages), -1, -1)
    return [(PATCH[0], PATCH[1] << halved, PATCH[2] << halved) for halved in halvings]


def _strides(fields: Fields, clip: Size3, tables: list[int], hints: Hints) -> Fields:
    """Where the grid is halved, inferred from the lengths of the relative position tables."""
    stages = fields["stages"]
    kv_strides = (hints["kv_stride"],) if hints.get("kv_stride") else KV_STRIDES
    sizes = [tuple(hints["tubelet"])] if hints.get("tubelet") else tubelets(stages)
    for kv_stride, tubelet in itertools.product(kv_strides, sizes):
        chosen: Fields = {"tubelet": tubelet, "kv_stride": kv_stride}
        blocks = MViT(**fields, **chosen).block_fields(clip)
        if [block["rows"][1] for block in blocks] == tables:
            return chosen
    raise ConvertError(
        f"no MViT with stages at {stages} has {tables} relative positions in height "
        f"for clips of {'x'.join(map(str, clip))}"
    )


def _head(shapes: Shapes, form: Form, hints: Hints, grid: Size3) -> Fields:
    head: Fields = {"name": form.head}
    class_token = ("encoder", "cls_token") in shapes
    if form.head == "features":
        return {**head, "pool": hints.get("pool") or ("class" if class_token else "mean")}
    projection = ("projection",) if form.head != "mae" else ("decoder", "projection")
    out = _shape(shapes, (*projection, "kernel"))[1]
    last = {} if form.last_epsilon is None else {"last_epsilon": form.last_epsilon}
    if form.head == "maskfeat":
        return {**head, "dim": out}
    if form.head == "boxes":
        bins = {"bins": hints["bins"]} if "bins" in hints else {}
        return {**head, "num_classes": out, **bins}
    if form.head in ("classifier", "linear_probe"):
        return {**head, "num_classes": out, **_pool(shapes, form, hints), **last}
    _, width = _shape(shapes, ("decoder", "embed", "kernel"))
    own = ("decoder", "cls_token") in shapes
    tokens = math.prod(grid)
    t = _shape(shapes, ("encoder", "patch_embed", "kernel"))[0]
    ratio = hints.get("mask_ratio") or MASK_RATIOS[min(t, 2)]
    fields: Fields = {
        "dim": out,
        "visible": max(1, int(tokens * (1 - ratio) + 1e-9)),
        "width": width,
        "depth": _blocks(shapes, "decoder"),
        "positions": _positions(shapes, "decoder"),
        "heads": max(1, width // 64),
        **{name: v(width) if callable(v) else v for name, v in form.fields.items()},
        "class_token": "own" if own else "encoder" if class_token else "none",
    }
    return {**head, **fields, "heads": hints.get("decoder_heads") or fields["heads"], **last}


def _check_cell(hints: Hints, tubelet: Size3) -> None:
    """Raises ConvertError if settings place boxes elsewhere on the map than a `BoxClassifier`."""
    if hints.get("cell") not in (None, tubelet[1]):
        raise ConvertError(
            f"boxes are divided by {hints['cell']} pixels (DETECTION.SPATIAL_SCALE_FACTOR), but "
            f"a token has {tubelet[1]}, so they are not where they belong; such a head is not "
            "supported, the parameters are read with head=classifier (--head=classifier)"
        )


def _pool(shapes: Shapes, form: Form, hints: Hints) -> Fields:
    """Pooling and norm of a classifier; a supervised MViT reads the class token."""
    given, order = hints.get("pool"), hints.get("norm_of", form.norm_of)
    if given not in (None, form.pool) and form.pool and not form.other_pool:
        raise ConvertError(f"pool={given!r}, but the names are those of pool={form.pool!r}")
    if order != form.norm_of:
        raise ConvertError(
            f"norm_of={order!r} in the settings (fc_norm of timm), but the names are those of "
            f"norm_of={form.norm_of!r}"
        )
    usual = form.pool
    if usual is None:
        supervised = form.encoder == "mvit" and _widens_in_attention(shapes)
        usual = "class" if supervised else "mean"
    elif form.other_pool and ("encoder", "cls_token") not in shapes:
        usual = "mean"
    pool = given or usual
    of_tokens = pool == "mean" and order == "tokens"
    return {"pool": pool, **({"norm_of": order} if of_tokens else {})}


def _widens_in_attention(shapes: Shapes) -> bool:
    sides = [_block(shapes, i, "attn", "qkv", "kernel") for i in range(_blocks(shapes, "encoder"))]
    return any(out != 3 * inner for inner, out in sides)


def check_size(clip: Size3, grid: Size3, width: int) -> None:
    """Raises ConvertError if position tables would not fit in memory."""
    if math.prod(grid) * width > MOST_NUMBERS:
        size = "x".join(map(str, clip))
        raise ConvertError(f"a clip of {size} has {math.prod(grid)} tokens, which is too many")


def _block(shapes: Shapes, number: int, *name: str) -> tuple[int, ...]:
    return _shape(shapes, ("encoder", "blocks", str(number), *name))


def _shape(shapes: Shapes, name: Name) -> tuple[int, ...]:
    if name not in shapes:
        raise Undetermined(name)
    return shapes[name]
