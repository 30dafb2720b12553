"""The harness itself: its oracles on made-up results, its table, its points; and a short series of
the faults that the long ones of docs/reliability.md put in by the hundred."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from bench.faults import (
    campaign,
    kills,
    mutants,
    oracles,
    planted,
    refusals,
    results,
    signals,
    table,
)
from bench.faults.recipe import EXAMPLES, STEPS, STEPS_PER_EPOCH
from bench.faults.runner import ROOT, Case, Ended, Forks
from maskfeat_jax.faults import POINTS


def a_result(**changes):
    """A whole run as it should be, with changes."""
    rows = [{"step": step, "train/loss": 1 / step} for step in range(5, STEPS + 1, 5)]
    size = EXAMPLES // STEPS_PER_EPOCH
    ids = {
        step: list(range(step % STEPS_PER_EPOCH * size, (step % STEPS_PER_EPOCH + 1) * size))
        for step in range(STEPS)
    }
    arrays = {"params": np.linspace(0, 1, 7, dtype=np.float32), "count": np.int32(STEPS)}
    return oracles.Result(**{"arrays": arrays, "metrics": rows, "ids": ids, **changes})


def test_the_least_bit_shows():
    assert oracles.bitwise(a_result(), a_result()) == []
    arrays = dict(a_result().arrays)
    arrays["params"] = np.nextafter(arrays["params"], np.float32(2))
    assert "params differs" in oracles.bitwise(a_result(arrays=arrays), a_result())[0]
    arrays["params"] = a_result().arrays["params"].astype(np.float64)
    assert "params differs" in oracles.bitwise(a_result(arrays=arrays), a_result())[0]
    del arrays["params"]
    assert oracles.bitwise(a_result(arrays=arrays), a_result()) == ["arrays ['params']"]


def test_metrics_that_are_lost_doubled_or_changed_show():
    rows = a_result().metrics
    other = [{**rows[0], "train/loss": 0.2 + 1e-17}, *rows[1:]]
    assert oracles.bitwise(a_result(metrics=other), a_result()) == []  # the same float
    other = [{**rows[0], "train/loss": np.nextafter(0.2, 1)}, *rows[1:]]
    for changed in (other, rows[:-1], [*rows, rows[-1]]):
        assert "metrics" in oracles.bitwise(a_result(metrics=changed), a_result())[0]


@pytest.mark.parametrize("change", ["dropped", "swapped", "twice"])
def test_examples_that_are_not_where_they_belong_show(change):
    assert oracles.examples(a_result(), a_result()) == []
    ids = {step: list(row) for step, row in a_result().ids.items()}
    if change == "dropped":
        del ids[STEPS - 1]
    elif change == "swapped":
        ids[4][0], ids[5][0] = ids[5][0], ids[4][0]
    else:
        ids[4][0] = ids[4][1]
    assert oracles.examples(a_result(ids=ids), a_result())


def an_end(**changes):
    good = dict(code=75, at=0.0, output="stopped: SIGTERM", points=[], ids=[])
    good |= {"status": {"state": "stopped", "exit_code": 75}, "left": []}
    return Ended(**{**good, **changes})


def test_ends_that_are_not_in_order_show():
    assert oracles.stopped(an_end(), 75, "SIGTERM") == oracles.reported(an_end(), "stopped") == []
    assert oracles.stopped(an_end(code=0), 75)
    assert oracles.stopped(an_end(code=None), 75)
    assert oracles.stopped(an_end(), 75, "mask.ratio")
    assert oracles.stopped(an_end(code=78, output='  File "/a/maskfeat_jax/loop.py", line 3'), 78)
    assert oracles.reported(an_end(status=None), "stopped")
    assert oracles.reported(an_end(status={"state": "running"}), "stopped")
    assert oracles.reported(an_end(status={"state": "stopped", "exit_code": 1}), "stopped")
    assert oracles.left_processes(an_end(left=[123]))


def test_the_gravest_outcome_is_reported():
    problem = ["so"]
    assert oracles.verdict(recovered=True) == ("recovered", "")
    assert oracles.verdict(recovered=False) == ("clean stop", "")
    assert oracles.verdict(late=problem, recovered=True).outcome == "noticed late"
    assert oracles.verdict(late=problem, silent=problem, recovered=True).outcome == (
        "wrong in silence"
    )
    assert oracles.verdict(damage=problem, silent=problem, recovered=True).outcome == (
        "hang or damage"
    )


def test_planted_bugs_fit_the_code():
    assert planted.stale(planted.BUGS) == []
    plant = (
        "[m.plant() for name, m in mutants.MUTANTS.items() if name != 'a process is left behind']"
    )
    command = [sys.executable, "-c", f"from bench.faults import mutants; {plant}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def test_every_point_is_passed_somewhere_and_every_passed_point_is_named():
    files = [ROOT / "main.py", *(ROOT / "maskfeat_jax").rglob("*.py")]
    text = "".join(p.read_text() for p in files if p.name != "faults.py")
    assert set(re.findall(r'fault_point\("([a-z_.]+)"\)', text)) == set(POINTS)
    assert len(re.findall(r"fault_point\(", text)) == len(re.findall(r'fault_point\("', text))


def test_a_row_becomes_a_line_with_its_note(tmp_path):
    file = tmp_path / "faults.jsonl"
    for kills_made in (3, 5):  # the second takes the place of the first
        results.record(
            "A1", "killed | hit", {"recovered": kills_made}, command="x", note="all", file=file
        )
    text = table.render(table.read(file))
    assert "| A1 | killed \\| hit [1] | 5 | 5 | 0 | 0 | 0 | 0 | `x` |" in text
    assert "1. A1, killed | hit: all." in text
    document = f"a\n{table.BEGIN}\nold\n{table.END}\nb\n"
    assert table.filled(document, text).count("killed") == 2
    assert "old" not in table.filled(document, text)
    assert table.filled(table.filled(document, text), text) == table.filled(document, text)
    with pytest.raises(ValueError, match="once each"):
        table.filled("no marks", text)


def test_the_table_of_the_document_is_that_of_the_results():
    for line in results.FILE.read_text().splitlines():
        row = json.loads(line)
        assert sum(row["outcomes"].values()) == row["n"]
        assert set(row["outcomes"]) <= set(results.OUTCOMES)
    text = table.DOCUMENT.read_text()
    assert table.filled(text, table.render(table.read())) == text, "python -m bench.faults.table"


def test_the_plan_of_stops_meets_each_phase_in_an_order_that_can_be():
    for number in range(20):
        phases = [phase for phase, _ in signals.plan(random.Random(number), number)]
        assert sorted(phases) == sorted(signals.PHASES)
        assert phases[:3] == ["B1", "B2", "B3"]
        assert phases[-1] == "B9"
        assert phases[3] != "B8"


@pytest.fixture(scope="module")
def forks():
    with Forks() as server:
        yield server


@pytest.fixture(scope="module")
def unbroken(forks, tmp_path_factory):
    return campaign.reference(tmp_path_factory.mktemp("unbroken"), forks)


@pytest.mark.slow
def test_killed_at_random_and_in_a_save_a_run_ends_as_if_nothing_had_been(
    forks, unbroken, tmp_path
):
    rng = random.Random(0)

    def at_random(child):
        child.until(lambda c: c.updates() > rng.randint(1, 9))
        child.send(signal.SIGKILL)

    plan = [at_random, "save.before_manifest:kill@2", at_random, "save.deleting:kill"]
    found = kills.chain(Case(tmp_path / "a", forks=forks), unbroken, plan)
    assert found.verdict == ("recovered", "")
    assert len(found.places) == 4
    assert found.rubbish == []


@pytest.mark.slow
def test_asked_to_stop_in_several_phases_it_saves_and_goes_on(forks, unbroken, tmp_path):
    plan = [("B2", "compile:term"), ("B4", "step:term@9"), ("B6", "evaluate.batch:term@2")]
    plan += [("B7", "save.before_data:term"), ("B9", "shutdown:term")]
    found = signals.stops(Case(tmp_path / "a", forks=forks), unbroken, plan, cold=False)
    assert [stop.verdict for stop in found] == [("recovered", "")] * 5


@pytest.mark.slow
def test_a_full_disk_ends_it_with_its_code_and_costs_nothing_that_was_saved(
    forks, unbroken, tmp_path
):
    case = Case(tmp_path / "a", forks=forks)
    verdict = refusals.full_disk(case, unbroken, refusals.FAILURES[0])
    assert verdict == ("recovered", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["the count of Adam is lost", "another exit code"])
def test_a_planted_bug_is_found(name, forks, unbroken, tmp_path):
    case = Case(tmp_path / "a", spec={"mutant": name}, forks=forks)
    assert mutants.MUTANTS[name].scenario(case, unbroken)
