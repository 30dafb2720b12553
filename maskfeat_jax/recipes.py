"""Recipes by name or file: `configs/maskfeat_vit_in1k.py:b16` -> a ConfigDict."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import sys
import traceback
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from maskfeat_jax import configs
from maskfeat_jax.sections import RecipeError, nearest, shorten

SHIPPED = Path(configs.__path__[0])


class RecipeNotFound(LookupError):
    """There is no such recipe, or it has no sizes; says what there is."""


def load(name: str) -> ConfigDict:
    """What `get_config` of a recipe's file returns.

    Args:
      name: path of the file, then after a colon what `get_config` takes, such as a size. Where no
        such file exists, the recipe of that name that this package brings: `smoke`, `smoke.py` and
        `configs/smoke.py` are the same then.

    Raises:
      RecipeNotFound: there is no such file, or it is something else than a recipe.
      LookupError: the recipe does not know what follows the colon.
      RecipeError: the file cannot be run; says where.
    """
    if "://" in name:
        raise RecipeNotFound(f"{name} is a URL; expected a file")
    path, _, argument = name.partition(":")
    file = _file_of(path)
    spec = importlib.util.spec_from_file_location(f"recipe_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise RecipeNotFound(f"{path} is not a recipe, that is a file of Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    with _errors_located_in(module):
        spec.loader.exec_module(module)
    get_config = getattr(module, "get_config", None)
    if get_config is None:
        raise RecipeError(f"{path} has no function get_config, so it is not a recipe")
    if argument and not inspect.signature(get_config).parameters:
        raise RecipeNotFound(f"{path} has no sizes, and {argument!r} was given")
    with _errors_located_in(module):
        config = get_config(argument) if argument else get_config()
        if isinstance(config, ConfigDict):
            config.to_dict()  # raises for a required placeholder
    if not isinstance(config, ConfigDict):
        raise RecipeError(f"{path}: get_config returned {shorten(config)}, not a ConfigDict")
    return config


def _file_of(path: str) -> Path:
    """The file of a recipe."""
    file = Path(os.path.expanduser(path))
    if file.is_file():
        return file
    if (file / "config.json").is_file():
        raise RecipeNotFound(f"{path} is the directory of a run; expected a recipe")
    shipped = {
        each.relative_to(SHIPPED).as_posix().removesuffix(".py"): each
        for each in SHIPPED.rglob("*.py")
    }
    for other in ("__init__", "common"):
        shipped.pop(other, None)
    if (name := path.removeprefix("configs/").removesuffix(".py")) in shipped:
        return shipped[name]
    raise RecipeNotFound(f"{path} does not exist{nearest(file.stem, shipped)}")


@contextlib.contextmanager
def _errors_located_in(module: types.ModuleType) -> Iterator[None]:
    """Adds file and line to what the code of a recipe raises, but for its own messages."""
    try:
        yield
    except Exception as error:
        slip = isinstance(error, KeyError | IndexError)  # which are LookupErrors too
        if isinstance(error, LookupError | RecipeError) and not slip:
            raise
        at = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == module.__file__]
        file, line = module.__file__, at[-1].lineno if at else None
        if isinstance(error, SyntaxError):
            file, line = error.filename or file, error.lineno
        what = error.msg if isinstance(error, SyntaxError) else error
        where = f"{file}, line {line}" if line else file
        raise RecipeError(f"{where}: {type(error).__name__}: {what}") from error


def override(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    """Sets `section.key` of a recipe, and returns it; sections that it does not have are made."""
    for key, value in values.items():
        section = section_of(config, key)
        with section.ignore_type():
            section[key.rpartition(".")[2]] = value
    return config


def section_of(config: ConfigDict, key: str) -> ConfigDict:
    """The section that a dotted key is in; it is made where the recipe does not have it.

    Raises:
      RecipeError: what should be the section is a value.
    """
    section = config
    for name in key.split(".")[:-1]:
        if section.get(name) is None:
            section[name] = ConfigDict()
        section = section[name]
        if not isinstance(section, ConfigDict):
            raise RecipeError(f"{key}: {name}={shorten(section)} has no keys")
    return section
