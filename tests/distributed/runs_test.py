"""Whole runs of several processes, each a `main.py` of its own."""

from __future__ import annotations

import pytest

from bench.faults.topologies import ONE, Topology, chain, compared, run

pytestmark = pytest.mark.slow
EPOCHS, STEPS = 6, 18


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    outcome = run(tmp_path_factory.mktemp("reference"), ONE, epochs=EPOCHS)
    assert outcome.codes == [0], outcome.output
    return outcome


def test_four_processes_then_two_then_one_then_four_equal_one(tmp_path, reference):
    """Training, evaluation, saving and resuming; the SIGTERM comes to process 0 alone."""
    parts = [(Topology(4), 3), (Topology(2), 3), (ONE, 3), (Topology(4), 0)]
    outcome, wrong = chain(tmp_path, parts, epochs=EPOCHS)
    assert wrong + compared(outcome, reference, STEPS) == []


def test_a_killed_process_stops_the_others_and_the_run_goes_on(tmp_path, reference):
    outcome = run(tmp_path, Topology(2), epochs=EPOCHS, faults={1: "step:kill@12"})
    assert outcome.codes == [75, -9], outcome.output
    assert outcome.evaluation["state"] == "stopped"
    assert outcome.evaluation["exit_code"] == 75
    assert not (tmp_path / "run" / "lock").exists()
    outcome = run(tmp_path, Topology(2), epochs=EPOCHS)
    assert outcome.codes == [0, 0], outcome.output
    # Saved every seven; the writing may not have been complete when the process was killed.
    assert list(outcome.restored) in ([], [7])
    assert all(outcome.saved[step] >= digests for step, digests in outcome.restored.items())
    assert compared(outcome, reference, STEPS) == []


def test_another_recipe_in_one_process_stops_all_before_anything_is_written(tmp_path):
    outcome = run(tmp_path, Topology(2), words_of={1: ["--config.mask.ratio=0.3"]})
    assert outcome.codes == [78, 78], outcome.output
    assert outcome.output.count("recipe.mask.ratio:\n    0.4: process 0 (") == 2
    assert not (tmp_path / "run").exists()


def test_who_does_not_come_is_named(tmp_path):
    words = {0: ["--start_seconds=3"], 2: ["--start_seconds=30"]}
    outcome = run(tmp_path, Topology(3), words_of=words, absent=[1])
    assert outcome.codes == [75, 75], outcome.output
    assert outcome.output.count("2 of 3 processes after 3 s; missing: 1") == 2
