from __future__ import annotations

import dataclasses
import errno
import math

import pytest

from maskfeat_jax.sections import (
    Problems,
    RecipeError,
    call,
    check_sections,
    choose,
    require_sections,
)


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
        ({"size": "3"}, "thing.size='3': expected a whole number"),
        ({"size": 3, "ratios": [1, math.nan]}, "nan.*: expected a list, each a finite number"),
        ({"size": None}, "thing.size: missing"),
        ("size=3", "thing='size=3': expected a section"),
    ],
)
def test_errors_name_the_section(section, words):
    with pytest.raises(RecipeError, match=words):
        call("thing", Thing, section, given="y")


def test_choose_names_what_there_is():
    with pytest.raises(RecipeError, match=r"thing\.name='bee' does not exist.* There are: a, bees"):
        choose("thing", {"a": Thing, "bees": Thing}, {"name": "bee"})
    with pytest.raises(RecipeError, match=r"thing\.name='' does not exist"):
        choose("thing", {"a": Thing}, {})


def test_sections_nobody_reads():
    check_sections({"model": 1}, ("model", "run"))
    with pytest.raises(RecipeError, match="modle: no such section; did you mean 'model'"):
        check_sections({"modle": 1}, ("model", "run"))


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
        ({"seed": 1.5}, "seed=1.5: expected a whole number"),
        ({"task": None}, "task=None: expected text"),
        ({"model": ["vit"]}, r"model=\['vit'\]: expected a section"),
    ],
)
def test_sections_are_sections_and_settings_are_values(changes, words):
    recipe = {"seed": 0, "task": "pretrain", "model": {}}
    require_sections(recipe, recipe)
    with pytest.raises(RecipeError, match=words):
        require_sections({**recipe, **changes}, recipe)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"model": {"init_resize": "no"}}, r"model\.init_resize: 'no' is not True or False"),
        ({"model": {"init_from": 3}}, r"model\.init_from: 3 is not text or None"),
        ({"data": {}}, r"data\.name: missing"),
    ],
)
def test_keys_that_no_call_takes(section, words):
    require_sections(
        {"model": {"init_parts": ["encoder"]}, "data": {"name": ""}}, ("model", "data")
    )
    with pytest.raises(RecipeError, match=words):
        require_sections(section, section)


def test_names_of_members_are_text():
    with pytest.raises(RecipeError, match=r"thing\.name=3: expected one of a"):
        choose("thing", {"a": Thing}, {"name": 3})


def test_paths_that_cannot_be_are_the_recipes_and_disks_that_fail_are_not(tmp_path):
    def read(path: str) -> str:
        if path == "broken":
            raise OSError(errno.EIO, "Input/output error")
        return open(path).read()

    for path in (str(tmp_path), "x" * 5000, str(tmp_path / "gone"), "\0"):
        with pytest.raises(RecipeError, match=r"^data: "):
            call("data", read, {"path": path})
    with pytest.raises(OSError, match="Input/output"):
        call("data", read, {"path": "broken"})
