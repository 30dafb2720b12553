"""Converts between a model and the sections `model` and `head` of a recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from maskfeat_jax.models import MODELS, VARIANTS
from maskfeat_jax.sections import Reader
from maskfeat_jax.tasks.base import encoder_of

_NOT_FIELDS = ("parent", "name", "encoder")


def model_of(section: Mapping[str, Any], head: Mapping[str, Any]) -> nn.Module:
    """Builds the model of complete sections; RecipeError if they are invalid."""
    reader = Reader({"task": "", "model": section, "head": head})
    return reader.choose("head", MODELS, encoder=encoder_of(reader))


def sections_of(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The inverse of `model_of`, with `model` as differences from the nearest variant."""
    encoder = model.encoder
    name = next(name for name, kind in MODELS.items() if type(model) is kind)
    return {
        "model": section_of(type(encoder), fields_of(encoder)),
        "head": {"name": name, **fields_of(model)},
    }


def section_of(family: type, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The section `model` of an encoder: the nearest variant and the fields that differ."""

    def differing(variant: str) -> dict[str, Any]:
        sizes = VARIANTS[variant][1]
        usual = {key: sizes.get(key, getattr(family, key, None)) for key in fields}
        return {key: value for key, value in fields.items() if usual[key] != value}

    names = [name for name, (kind, _) in VARIANTS.items() if kind is family]
    best = min(names, key=lambda name: len(differing(name)))
    return {"encoder": best, **differing(best)}


def fields_of(module: nn.Module) -> dict[str, Any]:
    """The settings of a module, as keys of a recipe's section."""
    names = [field.name for field in dataclasses.fields(module)]
    return {name: getattr(module, name) for name in names if name not in _NOT_FIELDS}
