from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest

from input_pipeline import DATASETS, BadInputs, EvalView, TrainView
from maskfeat_jax.masking import MASKERS
from maskfeat_jax.models import MODELS, VARIANTS
from maskfeat_jax.optim import OPTIMIZERS
from maskfeat_jax.sections import expected, fits, hints_of, shown
from maskfeat_jax.targets import TARGETS

PARTS = [*DATASETS.values(), *MASKERS.values(), *MODELS.values(), *OPTIMIZERS.values()]
PARTS += [*TARGETS.values(), BadInputs, EvalView, TrainView]
PARTS += [family for family, _ in VARIANTS.values()]


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (int, [0, -3, 2**62], [True, 1.0, "1", None, 2**63, 10**30]),
        (float, [0.5, 3], [True, "0.5", math.nan, math.inf, 10**400]),
        (bool, [True, False], [0, 1, "False", None]),
        (str, ["", "a"], [3, None, ("a",)]),
        (int | None, [3, None], ["3", 0.5]),
        (str | int | None, ["a", 1, None], [1.5, ()]),
        (Literal["auto", "none", 1], ["auto", 1], ["other", True, None]),
        (tuple[float, float], [(1, 0.5), [0.5, 1]], [(1,), (1, 2, 3), "ab", 1, (1, "2")]),
        (tuple[int, ...], [(), (1, 2)], [(1, 0.5), "12", {1: 2}]),
        (Sequence[str], [("a",), []], ["abc", (1,)]),
        (Mapping, [{}, {"a": 1}], [[], "a", None]),
        (Any, [None, 3, "a"], []),
    ],
)
def test_values_fit_their_types(hint, good, bad):
    assert [value for value in good if not fits(value, hint)] == []
    assert [value for value in bad if fits(value, hint)] == []


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int | None, "a whole number or None"),
        (tuple[float, float], "a pair: a finite number and a finite number"),
        (tuple[int, int, int], "3 values, each a whole number"),
        (tuple[str, ...], "a list, each text"),
        (Literal["a", "b"], "'a' or 'b'"),
        (bool, "True or False"),
    ],
)
def test_types_in_words(hint, words):
    assert expected(hint) == words


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_each_part_of_a_recipe_says_its_types_and_its_defaults_fit(part):
    hints = hints_of(part)
    assert set(hints) - {"return"}
    if dataclasses.is_dataclass(part):
        for field in dataclasses.fields(part):
            if field.init and field.default is not dataclasses.MISSING and field.name != "parent":
                assert fits(field.default, hints[field.name]), field.name


def test_long_values_are_cut():
    assert shown("a" * 1000) == "'" + "a" * 49 + "... (1002 characters)"
