"""`--flag False` is False: every truth value of every recipe, both ways, from the command line."""

from __future__ import annotations

import sys

import pytest
from absl import flags
from ml_collections import config_flags

from maskfeat_jax.models import ViT
from maskfeat_jax.sections import RecipeError, call
from tests.recipes import CONFIGS, ROOT, recipe

WORDS = {True: ("true", "True", "1"), False: ("false", "False", "0")}


def from_command_line(monkeypatch, name: str, *words: str) -> dict:
    """A recipe as main.py gets it."""
    argv = ["main.py", f"--config={ROOT}/configs/{name}.py", *words]
    monkeypatch.setattr(sys, "argv", argv)
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file(
        "config", flag_values=values, lock_config=False, accept_new_attributes=True
    )
    values(argv)
    return config.value.to_dict()


PLACES = [
    (name, section, key)
    for name in CONFIGS
    for section, values in recipe(name).items()
    if isinstance(values, dict)
    for key, value in values.items()
    if isinstance(value, bool)
]


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize(("name", "section", "key"), PLACES)
def test_truth_values_both_ways(name, section, key, wanted, monkeypatch):
    for word in WORDS[wanted]:
        got = from_command_line(monkeypatch, name, f"--config.{section}.{key}={word}")
        assert got[section][key] is wanted


SIZES = {"width": 8, "depth": 1, "heads": 1}


@pytest.mark.parametrize("key", ["scan", "remat", "class_token"])
def test_truth_values_that_a_recipe_leaves_at_their_default(key, monkeypatch):
    for word, wanted in (("true", True), ("False", False)):
        model = from_command_line(monkeypatch, "smoke", f"--config.model.{key}={word}")["model"]
        assert getattr(call("model", ViT, {**SIZES, key: model[key]}), key) is wanted
    for word in ("no", "0", "falsch"):
        model = from_command_line(monkeypatch, "smoke", f"--config.model.{key}={word}")["model"]
        with pytest.raises(RecipeError, match=f"model.{key}=.*: expected True or False"):
            call("model", ViT, {**SIZES, key: model[key]})
