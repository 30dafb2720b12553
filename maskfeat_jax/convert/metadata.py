"""`maskfeat_jax.json`: what lies beside weights that this package wrote.

It says what the model is, where it came from, and the SHA-256 of each file.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn

from maskfeat_jax.augment import Normalise
from maskfeat_jax.convert.files import Contents, sha256
from maskfeat_jax.convert.trained import Params, Trained
from maskfeat_jax.files import write_atomically
from maskfeat_jax.models import MODELS, VARIANTS
from maskfeat_jax.sections import choose
from maskfeat_jax.tasks.base import encoder_of

FILE = "maskfeat_jax.json"
FORMAT = 1
_NOT_FIELDS = ("parent", "name", "encoder")


def write(
    folder: Path, trained: Trained, layout: str, files: Sequence[Path], left_out: Sequence[str]
) -> None:
    """Describes weights that have been written to a folder.

    Args:
      folder: of the files.
      trained: what they hold.
      layout: how they are named.
      files: what was written.
      left_out: what they do not hold of the original, a sentence each.
    """
    body = {
        "format": FORMAT,
        "layout": layout,
        "origin": trained.origin,
        **sections_of(trained.model),
        "clip": trained.clip,
        "normalise": dataclasses.asdict(trained.normalise),
        "class_names": trained.class_names,
        "recipe": trained.recipe,
        "left_out": left_out,
        "sha256": {path.relative_to(folder).as_posix(): sha256(path) for path in files},
    }
    write_atomically(folder / FILE, json.dumps(body, indent=2) + "\n")


def about(contents: Contents) -> Mapping[str, Any] | None:
    """What `write` wrote beside a file, if it is about this very file."""
    document = contents.documents.get(FILE)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        return None
    head = document.get("head")
    if not isinstance(head, dict) or "name" not in head:
        return None
    sums = document.get("sha256")
    said = sums.get(contents.path.name) if isinstance(sums, dict) else None
    return document if said == sha256(contents.path) else None


def trained_of(document: Mapping[str, Any], params: Params, origin: str) -> Trained:
    """A model as a document describes it.

    Raises:
      KeyError, TypeError, ValueError: the document is not one that `write` writes.
    """
    names = document["class_names"]
    frames, height, width = document["clip"]
    return Trained(
        model=model_of(document["model"], document["head"]),
        params=params,
        clip=(frames, height, width),
        normalise=Normalise(**{k: tuple(v) for k, v in document["normalise"].items()}),
        recipe=document["recipe"],
        origin=origin,
        class_names=names and tuple(names),
    )


def corrected(document: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A document with some of `HINTS` in the place of what it says."""
    model, head = dict(document["model"]), dict(document["head"])
    model |= {name: given[name] for name in ("heads", "kv_stride") if name in given}
    if "decoder_heads" in given:
        head["heads"] = given["decoder_heads"]
    if "pool" in given:
        head["pool"] = given["pool"]
    body = {**document, "model": model, "head": head}
    if "clip" in given:
        body["clip"] = given["clip"]
    if "normalise" in given:
        body["normalise"] = dataclasses.asdict(given["normalise"])
    return body


def model_of(section: Mapping[str, Any], head: Mapping[str, Any]) -> nn.Module:
    """The model of sections `model` and `head` that leave nothing to a task.

    Raises:
      RecipeError: they do not describe one.
    """
    return choose("head", MODELS, head, encoder=encoder_of({"model": section}))


def sections_of(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The inverse of `model_of`; `model` says how it differs from the nearest variant."""
    encoder = model.encoder
    name = next(name for name, kind in MODELS.items() if type(model) is kind)
    return {
        "model": section_of(type(encoder), _fields(encoder)),
        "head": {"name": name, **_fields(model)},
    }


def section_of(family: type, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The section `model` of an encoder: the nearest variant, and what differs from it."""

    def differing(variant: str) -> dict[str, Any]:
        sizes = VARIANTS[variant][1]
        usual = {key: sizes.get(key, getattr(family, key, None)) for key in fields}
        return {key: value for key, value in fields.items() if usual[key] != value}

    names = [name for name, (kind, _) in VARIANTS.items() if kind is family]
    best = min(names, key=lambda name: len(differing(name)))
    return {"encoder": best, **differing(best)}


def _fields(module: nn.Module) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(module)]
    return {name: getattr(module, name) for name in names if name not in _NOT_FIELDS}
