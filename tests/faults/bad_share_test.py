from __future__ import annotations

import pytest

from bench.faults.bad_share import by_share, run


@pytest.mark.parametrize(("share", "judged"), [(0.009, "recovered"), (0.5, "clean stop")])
def test_allowed_shares_finish_with_exact_counts_and_others_stop(share, judged):
    found, details = by_share(share, passes=2, count=1500)
    assert found == judged
    assert details["stopped"] == (share > 0.01)


@pytest.mark.parametrize("fault", ["E8", "E11", "E12"])
def test_files_that_change_in_evaluation_or_with_their_folder(fault):
    outcomes, _ = run(fault, 2)
    assert set(outcomes) <= {"recovered", "clean stop"}
