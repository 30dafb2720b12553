"""Recipes by name or file: `configs/maskfeat_vit_in1k.py:b16` -> a ConfigDict."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from maskfeat_jax import configs

SHIPPED = Path(configs.__path__[0])


class RecipeNotFound(LookupError):
    """There is no such recipe, or it has no such size; says what there is."""


def load(name: str) -> ConfigDict:
    """What `get_config` of a recipe's file returns.

    Args:
      name: path of the file, then after a colon what `get_config` takes, such as a size. Where no
        such file exists, the recipe of that name that this package brings: `smoke`, `smoke.py` and
        `configs/smoke.py` are the same then.

    Raises:
      RecipeNotFound: there is no such file, or the recipe does not know what follows the colon.
    """
    path, _, argument = name.partition(":")
    file = Path(path)
    if not file.is_file():
        file = SHIPPED / Path(path).with_suffix(".py").name
    if not file.is_file() or file.name in ("__init__.py", "common.py"):
        there_are = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.py") if p.stem != "common"))
        raise RecipeNotFound(f"{path} does not exist; name a file, or one of {there_are}")
    spec = importlib.util.spec_from_file_location(f"recipe_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument) if argument else module.get_config()


def override(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    """Sets `section.key` of a recipe, and returns it; sections that it does not have are made."""
    for key, value in values.items():
        *sections, field = key.split(".")
        place = config
        for section in sections:
            if place.get(section) is None:
                place[section] = ConfigDict()
            place = place[section]
        with place.ignore_type():
            place[field] = value
    return config
