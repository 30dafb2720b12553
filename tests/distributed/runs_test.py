"""Whole runs of several processes, each a `main.py` of its own."""

from __future__ import annotations

import socket

import pytest

from bench.faults.topologies import ONE, Topology, chain, compared, run

EPOCHS, STEPS = 6, 18


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    outcome = run(tmp_path_factory.mktemp("reference"), ONE, epochs=EPOCHS)
    assert outcome.codes == [0], outcome.output
    return outcome


def test_a_run_of_two_is_stopped_loses_a_process_and_ends_on_one_as_if_nothing_was(
    tmp_path, reference
):
    """Training, evaluation and saving; the SIGTERM comes to process 0 alone."""
    outcome = run(tmp_path, Topology(2), epochs=EPOCHS, faults={0: "step:term@5"})
    assert outcome.codes == [75, 75], outcome.output
    assert outcome.evaluation["state"] == "stopped"
    stopped_at = max(outcome.saved)
    outcome = run(tmp_path, Topology(2), epochs=EPOCHS, faults={1: "step:kill@8"})
    assert outcome.codes == [75, -9], outcome.output
    assert outcome.evaluation["state"] == "stopped"
    assert outcome.evaluation["exit_code"] == 75
    outcome = run(tmp_path, ONE, epochs=EPOCHS)
    assert outcome.codes == [0], outcome.output
    assert stopped_at in outcome.restored
    assert all(outcome.saved[step] >= digests for step, digests in outcome.restored.items())
    assert compared(outcome, reference, STEPS) == []


@pytest.mark.slow
def test_four_processes_then_two_then_one_then_four_equal_one(tmp_path, reference):
    parts = [(Topology(4), 3), (Topology(2), 3), (ONE, 3), (Topology(4), 0)]
    outcome, wrong = chain(tmp_path, parts, epochs=EPOCHS)
    assert wrong + compared(outcome, reference, STEPS) == []


@pytest.mark.slow
def test_four_processes_of_which_one_is_killed_end_and_go_on(tmp_path, reference):
    outcome = run(tmp_path, Topology(4), epochs=EPOCHS, faults={2: "step:kill@12"})
    assert outcome.codes[2] == -9
    assert {*outcome.codes} <= {75, -6, -9}, outcome.output
    outcome = run(tmp_path, Topology(4), epochs=EPOCHS)
    assert outcome.codes == [0] * 4, outcome.output
    assert compared(outcome, reference, STEPS) == []


def test_another_recipe_in_one_process_stops_all_before_anything_is_written(tmp_path):
    outcome = run(tmp_path, Topology(2), words_of={1: ["--config.mask.ratio=0.3"]})
    assert outcome.codes == [78, 78], outcome.output
    assert outcome.output.count("recipe.mask.ratio:\n    0.4: process 0 (") == 2
    assert not (tmp_path / "run").exists()


def test_a_process_without_its_data_ends_the_others_which_name_it(tmp_path):
    """Also process 0, without which JAX aborts the others: it ends last."""
    outcome = run(tmp_path, Topology(2), words_of={0: ["--config.data.split=none"]})
    assert outcome.codes == [78, 75], outcome.output
    named = f"process 0 on {socket.gethostname()} failed: RecipeError: "
    assert named in outcome.output
    assert "data: split 'none'" in outcome.output.split(named)[1].splitlines()[0]
    assert not (tmp_path / "run").exists()
