"""`--flag False` is False: every truth value of every recipe, both ways, from the command line."""

from __future__ import annotations

import pytest

from maskfeat_jax.commands.command_line import parse
from maskfeat_jax.models import ViT
from maskfeat_jax.sections import RecipeError, call
from tests.recipes import CONFIGS, recipe

WORDS = {"true": True, "True": True, "1": True, "false": False, "False": False, "0": False}


def from_command_line(name: str, *words: str) -> dict:
    """A recipe as main.py gets it."""
    return parse([f"--config={name}", *words]).options.recipe


# Keys of truth values, by section and recipe.
SECTIONS: dict[str, dict[str, list[str]]] = {}
for _name in CONFIGS:
    for _section, _values in recipe(_name).items():
        _keys = (
            [k for k, v in _values.items() if isinstance(v, bool)]
            if isinstance(_values, dict)
            else []
        )
        if _keys:
            SECTIONS.setdefault(_section, {})[_name] = _keys


@pytest.mark.parametrize("section", SECTIONS)
def test_truth_values_both_ways(section):
    wrong = []
    for name, keys in SECTIONS[section].items():
        for word, wanted in WORDS.items():
            flagged = [f"--config.{section}.{key}={word}" for key in keys]
            got = from_command_line(name, *flagged)[section]
            wrong += [f"{name}: {key}={word}" for key in keys if got[key] is not wanted]
    assert not wrong


SIZES = {"width": 8, "depth": 1, "heads": 1}


@pytest.mark.parametrize("key", ["scan", "remat", "class_token"])
def test_truth_values_that_a_recipe_leaves_at_their_default(key):
    for word, wanted in (("true", True), ("False", False)):
        model = from_command_line("smoke", f"--config.model.{key}={word}")["model"]
        assert getattr(call("model", ViT, {**SIZES, key: model[key]}), key) is wanted
    for word in ("no", "0", "falsch"):
        model = from_command_line("smoke", f"--config.model.{key}={word}")["model"]
        with pytest.raises(RecipeError, match=f"model.{key}=.*: expected True or False"):
            call("model", ViT, {**SIZES, key: model[key]})
