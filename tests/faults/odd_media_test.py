from __future__ import annotations

import pytest

from bench.faults import isolation
from bench.faults.odd_files import ODD
from bench.faults.odd_media import Read, series, verdict


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["E3", "E4"])
def test_odd_media_have_their_results(fault):
    outcomes, details, bad = series(fault)
    assert not bad
    assert sum(outcomes.values()) == len(details["results"]) >= 16


def test_verdicts():
    bomb, clip = ODD["500 streams"], ODD["1 frame"]
    for odd, outcome, judged in (
        (bomb, Read("too_large", "", 0.1, 3), "clean stop"),
        (bomb, Read("too_large", "", 9.0, 3), "noticed late"),
        (bomb, Read("too_large", "", 0.1, 900), "noticed late"),
        (bomb, Read("short", "", 0.1, 3), "wrong in silence"),
        (bomb, isolation.Died(-9), "hang or damage"),
        (clip, Read(1, "", 0.1, 3), "recovered"),
        (clip, Read(2, "", 0.1, 3), "wrong in silence"),
        (clip, "MemoryError: ", "hang or damage"),
    ):
        assert verdict(odd, outcome) == judged
