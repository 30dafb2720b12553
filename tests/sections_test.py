from __future__ import annotations

import dataclasses
import errno
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest

from input_pipeline import DATASETS, BadInputs, EvalView, TrainView
from maskfeat_jax.masking import MASKERS
from maskfeat_jax.models import MODELS, VARIANTS
from maskfeat_jax.optim import OPTIMIZERS
from maskfeat_jax.sections import (
    Problems,
    Reader,
    RecipeError,
    call,
    choose,
    expected,
    fits,
    flatten,
    hints_of,
    shorten,
)
from maskfeat_jax.targets import TARGETS

SECTIONS = [*DATASETS.values(), *MASKERS.values(), *MODELS.values(), *OPTIMIZERS.values()]
SECTIONS += [*TARGETS.values(), BadInputs, EvalView, TrainView]
SECTIONS += [family for family, _ in VARIANTS.values()]


@dataclasses.dataclass(frozen=True)
class Thing:
    size: int
    ratios: tuple[float, ...] = (1.0,)
    given: str = ""

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"size={self.size} must be positive")


def test_a_section_is_a_call():
    assert call("thing", Thing, {"size": 3, "ratios": [1, 2]}) == Thing(3, (1, 2))
    assert choose("thing", {"a": Thing}, {"name": "a", "size": 3}, given="x") == Thing(3, given="x")


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"size": 1, "ratio": 2}, "thing.ratio: no such key; did you mean 'ratios'"),
        ({"ratios": [1]}, "thing.size: missing"),
        ({"size": 0}, "thing: size=0 must be positive"),
        ({"size": 1, "given": "x"}, "thing.given: no such key"),
        ({"size": "3"}, "thing.size='3': expected an integer"),
        ({"size": 3, "ratios": [1, math.nan]}, "nan.*: expected a list, each a finite number"),
        ({"size": None}, "thing.size: missing"),
        ("size=3", "thing='size=3': expected a section"),
    ],
)
def test_errors_name_the_section(section, words):
    with pytest.raises(RecipeError, match=words):
        call("thing", Thing, section, given="y")


def test_choose_names_what_there_is():
    with pytest.raises(RecipeError, match=r"thing\.name='bee' does not exist.* Choices: a, bees"):
        choose("thing", {"a": Thing, "bees": Thing}, {"name": "bee"})
    with pytest.raises(RecipeError, match=r"thing\.name: missing; choices: a$"):
        choose("thing", {"a": Thing}, {})
    with pytest.raises(RecipeError, match=r"thing\.name=3: expected one of a"):
        choose("thing", {"a": Thing}, {"name": 3})


def reader(**sections):
    return Reader({"task": "pretrain", **sections})


def test_unknown_sections():
    found = reader(modle={}, sead=1)
    found.check_sections(("model", "run"))
    assert len(found.problems) == 2
    assert "modle: no such section of task='pretrain'; did you mean 'model'" in found.problems[0]
    assert "sead: no such section of task='pretrain'; did you mean 'seed'" in found.problems[1]


def test_missing_keys_are_defaults_and_are_resolved():
    found = reader(thing={"name": "a", "ratios": [1, 2]})
    assert found.choose("thing", {"a": Thing}, size=3) == Thing(3, (1.0, 2.0))
    assert found.resolved == {
        "seed": 0,
        "task": "pretrain",
        "thing": {"name": "a", "ratios": [1.0, 2.0], "given": ""},
    }
    again = Reader(found.resolved)
    assert again.choose("thing", {"a": Thing}, size=3) == Thing(3, (1, 2))
    assert again.resolved == found.resolved
    json.dumps(found.resolved, allow_nan=False)
    other = reader(other={"size": 3})
    other.call("other", Thing)
    assert flatten(other.resolved)["other.ratios"] == "[1.0]"


class Own:
    pass


def test_in_python_some_sections_may_be_objects():
    own, found = Own(), Reader({"task": "pretrain", "target": Own(), "data": Thing(1)})
    assert found.choose("data", {}, Thing) == Thing(1)
    assert isinstance(found.choose("target", {}, Own), Own)
    assert found.resolved["target"] == f"{__name__}.Own"
    assert found.resolved["data"] == "Thing(size=1, ratios=(1.0,), given='')"
    with pytest.raises(
        RecipeError, match="target: expected an object with the members of Thing, got .*Own"
    ):
        found.choose("target", {}, Thing)
    with pytest.raises(RecipeError, match="optim=.*Own.*: expected a section"):
        _ = Reader({"task": "pretrain", "optim": own})["optim"]


def test_problems_are_gathered_and_other_errors_are_not():
    problems = Problems()
    problems.stop()
    for words in ("one", "two"):
        with problems.gather():
            raise ValueError(words)
    with pytest.raises(RecipeError, match="2 problems:\n- one\n- two"):
        problems.stop()
    with pytest.raises(ZeroDivisionError), problems.gather():
        _ = 1 / 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1.5}, "seed=1.5: expected an integer"),
        ({"task": None}, "task=None: expected a string"),
        ({"model": ["vit"]}, r"model=\['vit'\]: expected a section"),
    ],
)
def test_sections_are_sections_and_settings_are_values(changes, words):
    recipe = {"task": "pretrain", "model": {}}

    def check(recipe):
        found = Reader(recipe)
        found.check_sections(("model",))
        found.problems.stop()

    check(recipe)
    with pytest.raises(RecipeError, match=words):
        check({**recipe, **changes})


def test_the_task_is_required():
    with pytest.raises(RecipeError, match="task: missing in the recipe"):
        Reader({})


def test_wrong_paths_are_recipe_errors_and_failing_disks_are_not(tmp_path):
    def read(path: str) -> str:
        if path == "broken":
            raise OSError(errno.EIO, "Input/output error")
        return open(path).read()

    for path in (str(tmp_path), "x" * 5000, str(tmp_path / "gone"), "\0"):
        with pytest.raises(RecipeError, match=r"^data: "):
            call("data", read, {"path": path})
    with pytest.raises(OSError, match="Input/output"):
        call("data", read, {"path": "broken"})


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
        (int | None, "an integer or None"),
        (tuple[float, float], "a pair: a finite number and a finite number"),
        (tuple[int, int, int], "3 values, each an integer"),
        (tuple[str, ...], "a list, each a string"),
        (Literal["a", "b"], "'a' or 'b'"),
        (bool, "True or False"),
    ],
)
def test_types_in_words(hint, words):
    assert expected(hint) == words


def test_each_section_is_annotated_and_its_defaults_fit():
    offenders = []
    for section in SECTIONS:
        hints = hints_of(section)
        if not set(hints) - {"return"}:
            offenders.append(section.__name__)
        for field in dataclasses.fields(section) if dataclasses.is_dataclass(section) else ():
            given = field.init and field.name != "parent"
            if given and field.default is not dataclasses.MISSING:
                offenders += [field.name] * (not fits(field.default, hints[field.name]))
    assert not offenders


def test_long_values_are_cut():
    assert shorten("a" * 1000) == "'" + "a" * 49 + "... (1002 characters)"
