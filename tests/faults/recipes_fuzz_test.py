from __future__ import annotations

import pytest

from bench.faults import isolation
from bench.faults.recipes_fuzz import Edit, edit, series, verdict


@pytest.mark.slow
def test_random_mistakes_are_refused_or_build():
    bad: list[str] = []
    outcomes, _ = series(range(40), bad.append)
    assert not bad
    assert sum(outcomes.values()) == 40
    assert outcomes["clean stop"] > 20


def test_the_same_seed_is_the_same_edit():
    assert edit(3) == edit(3)
    assert edit(3) != edit(4)


RIGHT, WRONG = (Edit("a", (), ("mask", "ratio"), wrong, {"mask": {}}) for wrong in (False, True))


@pytest.mark.parametrize(
    ("tried", "outcome", "judged"),
    [
        (RIGHT, ("built", "", 0.1), "recovered"),
        (WRONG, ("built", "", 0.1), "wrong in silence"),
        (WRONG, ("refused", "mask.ratio=2: expected", 0.1), "clean stop"),
        (WRONG, ("refused", "mask.ratio=2: expected", 9.0), "noticed late"),
        (WRONG, ("refused", "something is wrong", 0.1), "noticed late"),
        (RIGHT, "TypeError: no", "hang or damage"),
        (RIGHT, isolation.Hung(60), "hang or damage"),
        (RIGHT, isolation.Died(-11), "hang or damage"),
    ],
)
def test_verdicts(tried, outcome, judged):
    assert verdict(tried, outcome) == judged
