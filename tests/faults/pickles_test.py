from __future__ import annotations

import pickle

import pytest

from bench.faults import isolation, pickles

LIVE = (
    "os.system",
    "subprocess",
    "eval",
    "exec",
    "open",
    "map",
    "pickle in pickle",
    "numpy",
    "state",
)


@pytest.mark.parametrize("name", LIVE)
@pytest.mark.parametrize("depth", pickles.DEPTHS)
def test_payloads_are_live(name, depth, tmp_path):
    """Whoever unpickles them without care runs them."""
    canary = tmp_path / "canary"
    saved = pickles.DEPTHS[depth](pickles.payloads(str(canary))[name])
    data = pickle.dumps(saved)
    canary.unlink(missing_ok=True)
    try:
        pickle.loads(data)
    except TypeError:
        assert depth == "as a key"  # what comes out cannot be one
    assert canary.exists()


def test_nothing_runs():
    bad: list[str] = []
    jobs = pickles.all_jobs()[::11]
    outcomes, _ = pickles.series(jobs, bad.append)
    assert not bad
    assert outcomes == {"clean stop": len(jobs)}


def test_verdicts():
    for outcome, judged in (
        (pickles.Read("ConvertError: no", []), "clean stop"),
        (pickles.Read("ConvertError: no", ["canary"]), "hang or damage"),
        (pickles.Read("loaded", []), "wrong in silence"),
        ("TypeError: no", "hang or damage"),
        (isolation.Died(3), "hang or damage"),
    ):
        assert pickles.verdict(outcome) == judged
