from __future__ import annotations

import dataclasses

import pytest

from maskfeat_jax.build import Problems, RecipeError, call, check_sections, choose


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
