"""Whole runs on other numbers of processes and devices: the same examples, the same losses.

    python -m bench.faults.topologies            # the table of docs/scaling.md
    python -m bench.faults.topologies --record   # and D1, D2, D3 of the catalogue

Every run is `main.py`, started as often as it has processes; each process has so many forced CPU
devices. A run that is to go on elsewhere gets a SIGTERM in process 0 before an update.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bench.faults.recipe import STEPS_PER_EPOCH
from bench.faults.results import record
from bench.faults.runner import Case, Forks

EPOCHS = 25
STEPS = STEPS_PER_EPOCH * EPOCHS
TOLERANCE = 1e-5  # of the loss, relative
TRIES = 3  # of a part that wants to be run again and should not
AGAIN = {75, -signal.SIGABRT}  # JAX aborts the others of a lost process
LIMIT_SECONDS = 1500.0  # of a busy machine


class Topology(NamedTuple):
    """Processes, devices of each, and the sizes of the mesh."""

    processes: int = 1
    devices: int = 1
    parameters: int = 1
    tensor: int = 1

    def __str__(self) -> str:
        text = f"{self.processes} x {self.devices}"
        if self.parameters * self.tensor > 1:
            text += f", parameters {self.parameters}, tensor {self.tensor}"
        return text


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What the processes of one run, or of a part of it, left.

    Attributes:
      codes: exit codes, in the order of the processes; None for one that did not end.
      losses: by number of updates, of the whole work directory.
      ids: examples by number of updates, in the order of the batch.
      saved: digests of saved states by number of updates, as each process saw them.
      restored: of restored ones.
      evaluation: what STATUS.json says of the end.
      output: what the processes printed.
    """

    codes: list[int | None]
    losses: dict[int, float]
    ids: dict[int, list[int]]
    saved: dict[int, set[str]]
    restored: dict[int, set[str]]
    evaluation: dict[str, Any]
    output: str


def run(
    folder: pathlib.Path,
    topology: Topology,
    *,
    epochs: int = EPOCHS,
    faults: Mapping[int, str] | None = None,
    words_of: Mapping[int, Sequence[str]] | None = None,
    absent: Collection[int] = (),
    forks: Forks | None = None,
) -> Outcome:
    """Runs `main.py` in `<folder>/run` to its end.

    Args:
      folder: for all files of the run; a part that was run before goes on.
      topology: what to run on.
      epochs: of the whole run.
      faults: plans for `MASKFEAT_FAULTS` by process.
      words_of: more words for `main.py` by process.
      absent: processes that are not started.
      forks: starts the processes; None: each has a Python of its own.
    """
    part = folder / f"part{len(list(folder.glob('part*')))}"
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    words = ["--config.run.log_every_steps=1", f"--config.run.epochs={epochs}"]
    words += [f"--config.mesh.parameters={topology.parameters}"]
    words += [f"--config.mesh.tensor={topology.tensor}"]
    if topology.processes > 1:
        words += [f"--coordinator=localhost:{port}", f"--num_processes={topology.processes}"]
        words += ["--start_seconds=120"]
    devices = f"--xla_force_host_platform_device_count={topology.devices}"
    env = {"XLA_FLAGS": f"{devices} --xla_cpu_multi_thread_eigen=false"}
    children = []
    try:
        for number in sorted({*range(topology.processes)} - {*absent}):
            own = [f"--process_id={number}"] if topology.processes > 1 else []
            own += (words_of or {}).get(number, ())
            notes = {"ids": None, "notes": str(part / f"notes{number}.jsonl")}
            case = Case(part / str(number), directory=folder / "run", spec=notes, forks=forks)
            fault = (faults or {}).get(number, "")
            children.append(case.start(fault, words=[*words, *own], env=env))
        ended = [child.wait(LIMIT_SECONDS) for child in children]
    finally:
        for child in children:
            child.send(signal.SIGKILL)
    return _outcome(folder, [one.code for one in ended], "".join(one.output for one in ended))


def _outcome(folder: pathlib.Path, codes: list[int | None], output: str) -> Outcome:
    losses: dict[int, float] = {}
    log = folder / "run" / "metrics.jsonl"
    for row in map(json.loads, log.read_text().splitlines() if log.exists() else ()):
        if "train/loss" in row:
            losses[row["step"]] = row["train/loss"]
    ids: dict[int, list[int]] = {}
    states: dict[str, dict[int, set[str]]] = {"saved": {}, "restored": {}}
    for part in sorted(folder.glob("part*")):
        batches: dict[int, list[int]] = {}
        for notes in sorted(part.glob("notes*.jsonl")):
            for kind, step, what in map(json.loads, notes.read_text().splitlines()):
                if kind == "ids":
                    batches.setdefault(step, []).extend(what)
                else:
                    states[kind].setdefault(step, set()).add(what)
        ids.update(batches)
    status = folder / "run" / "STATUS.json"
    evaluation = json.loads(status.read_text()) if status.exists() else {}
    return Outcome(codes, losses, ids, states["saved"], states["restored"], evaluation, output)


def chain(
    folder: pathlib.Path,
    parts: Sequence[tuple[Topology, int]],
    begun: pathlib.Path | None = None,
    **options: Any,
) -> tuple[Outcome, list[str]]:
    """Runs one run in parts, each on a topology for so many updates, 0 for the rest.

    Args:
      folder: for all files of the run.
      parts: where and how long.
      begun: folder of a run of the first part, to save it.
      **options: of `run`.

    Returns:
      The last part's outcome, and what was wrong on the way.
    """
    wrong: list[str] = []
    for number, (topology, updates) in enumerate(parts):
        if number == 0 and begun is not None:
            shutil.copytree(begun, folder)
            continue
        faults = {0: f"step:term@{updates + 1}"} if updates else {}
        expected = [75 if updates else 0] * topology.processes
        for _ in range(TRIES):
            outcome = run(folder, topology, faults=faults, **options)
            if updates or not {*outcome.codes} <= AGAIN:
                break  # else it says that it wants to be run again
        if outcome.codes != expected:
            wrong.append(f"{topology}: codes {outcome.codes}; {outcome.output[-2000:]}")
            break
    for step, digests in outcome.restored.items():
        if digests != outcome.saved.get(step):
            wrong.append(f"the state of step {step} was restored otherwise than it was saved")
    if len(outcome.restored) < len(parts) - 1:
        wrong.append(f"restored at {sorted(outcome.restored)}, expected {len(parts) - 1} or more")
    return outcome, wrong


def difference(outcome: Outcome, reference: Outcome, steps: int = STEPS) -> float:
    """The largest relative difference of a loss; infinite where one is missing."""
    if not {*outcome.losses} == {*reference.losses} == {*range(1, steps + 1)}:
        return float("inf")
    a, b = (np.array([o.losses[i] for i in sorted(o.losses)]) for o in (outcome, reference))
    return float(np.max(np.abs(a - b) / np.abs(b)))


def compared(outcome: Outcome, reference: Outcome, steps: int = STEPS) -> list[str]:
    """What is wrong with a run that should equal another."""
    wrong = []
    if not difference(outcome, reference, steps) <= TOLERANCE:
        wrong.append(f"losses differ by {difference(outcome, reference, steps):.1e}")
    batches = [{i: o.ids.get(i) for i in range(steps)} for o in (outcome, reference)]
    if batches[0] != batches[1]:
        differ = [i for i in range(steps) if batches[0][i] != batches[1][i]]
        wrong.append(f"other examples in updates {differ}")
    used = [outcome.evaluation.get(name) for name in ("used", "expected")]
    if used != [21, 21]:
        wrong.append(f"evaluated on {used[0]} of {used[1]} examples, expected 21 of 21")
    return wrong


ONE = Topology()
PLACES = [Topology(1, n) for n in (2, 4, 8)] + [Topology(n) for n in (2, 4)]
PLACES += [Topology(1, 8, parameters=8), Topology(2, 2, tensor=2), Topology(4, 2, 2, 2)]
EIGHT = Topology(1, 8)
SERIES = {
    "D1": (
        "saved on 8 devices, loaded on {}, and back",
        {str(n): [(EIGHT, 25), (Topology(1, n), 25), (EIGHT, 0)] for n in (1, 2, 4, 16)},
    ),
    "D2": (
        "saved by so many processes, loaded by the next number of them: {}",
        {
            "4, 2, 1, 4": [(Topology(4), 15), (Topology(2), 20), (ONE, 20), (Topology(4), 0)],
            "1, 4, 2 x 2 devices": [(ONE, 25), (Topology(4), 25), (Topology(2, 2), 0)],
        },
    ),
    "D3": (
        "another mesh at each start: {}",
        {
            "data 8, parameters 8, tensor 2 x parameters 2, data 8": [
                (EIGHT, 25),
                (Topology(1, 8, parameters=8), 15),
                (Topology(1, 8, parameters=2, tensor=2), 15),
                (EIGHT, 0),
            ],
            "2 processes: tensor 2, parameters 4, data 4": [
                (Topology(2, 2, tensor=2), 25),
                (Topology(2, 2, parameters=4), 25),
                (Topology(2, 2), 0),
            ],
        },
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="run D1 to D3 and keep their rows")
    parser.add_argument("--only", default="", help="one of table, D1, D2, D3")
    arguments = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory(prefix="topologies-") as name, Forks() as forks:
        folder = pathlib.Path(name)
        reference = run(folder / "reference", ONE, forks=forks)
        assert reference.codes == [0], reference.output
        if arguments.only in ("", "table"):
            print("| processes x devices | largest relative difference of a loss | examples |")
            print("|---|---|---|", flush=True)
            for number, place in enumerate(PLACES):
                outcome = run(folder / f"table{number}", place, forks=forks)
                wrong = compared(outcome, reference) or ["the same"]
                line = f"| {place} | {difference(outcome, reference):.1e} | {'; '.join(wrong)} |"
                print(line, flush=True)
                failed |= wrong != ["the same"] or outcome.codes != [0] * place.processes
                if any(outcome.codes):
                    print(outcome.output[-3000:])
        for fault, (what, chains) in SERIES.items() if arguments.record else ():
            if arguments.only in ("", fault):
                failed |= _series(fault, what, chains, folder, reference, forks)
    sys.exit(failed)


def _series(
    fault: str,
    what: str,
    chains: dict[str, Any],
    folder: pathlib.Path,
    reference: Outcome,
    forks: Forks,
) -> bool:
    """Runs and records a series; whether anything was wrong."""
    found: dict[str, list[str]] = {}
    largest = 0.0
    for number, (name, parts) in enumerate(chains.items()):
        begun = None
        if parts[0] == (EIGHT, 25):
            begun = folder / "begun"
            if not begun.exists():
                assert run(begun, EIGHT, faults={0: "step:term@26"}, forks=forks).codes == [75]
        outcome, wrong = chain(folder / f"{fault}-{number}", parts, begun, forks=forks)
        found[name] = wrong + compared(outcome, reference)
        largest = max(largest, difference(outcome, reference))
        print(f"{fault} {name}: {difference(outcome, reference):.1e} {found[name]}", flush=True)
    good = sum(not wrong for wrong in found.values())
    outcomes = {"recovered": good, "wrong in silence": len(found) - good}
    record(
        fault,
        what.format("; ".join(chains)),
        {kind: count for kind, count in outcomes.items() if count},
        command=f"python -m bench.faults.topologies --record --only={fault}",
        note="states bitwise as saved, the same examples, losses of 75 updates within "
        f"{largest:.0e} of the unbroken run on one device, 21 of 21 examples evaluated",
        largest_difference=largest,
        problems={name: wrong for name, wrong in found.items() if wrong},
    )
    return good != len(found)


if __name__ == "__main__":
    main()
