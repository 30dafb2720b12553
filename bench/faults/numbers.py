"""Numbers that are not finite, in whole runs.

python -m bench.faults.numbers once --times=5       # G1: single updates
python -m bench.faults.numbers always --times=3     # G2: from an update on
python -m bench.faults.numbers parameters --times=3 # C13: in what is to be saved
"""

from __future__ import annotations

import functools
import json
import random
from typing import Any

import numpy as np

from bench.faults import oracles
from bench.faults.campaign import Job, arguments, record, tried
from bench.faults.oracles import Problems, Verdict
from bench.faults.recipe import BATCH, STEPS
from bench.faults.runner import ENVIRONMENT, Case

DEVICES = {"XLA_FLAGS": ENVIRONMENT["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8"}
KINDS = ("input", "gradient", "loss")
NEVER = 10**6


def doses(rng: random.Random) -> list[dict[str, Any]]:
    """One of each kind, at different updates."""
    steps = rng.sample(range(STEPS), len(KINDS))
    return [
        {"kind": kind, "from": step, "to": step + 1, "row": rng.randrange(BATCH)}
        for kind, step in zip(KINDS, steps, strict=True)
    ]


def once(case: Case, _: Case | None, number: int) -> list[Verdict]:
    """Poisons single updates; the run must equal one from which these were left out.

    Both run the same program: the poison of the second comes after its end.
    """
    poison = doses(random.Random(number))
    options = {"env": DEVICES} if number % 2 else {}
    loose = ["--config.run.max_nonfinite_fraction=0.1"]
    ended = case.run(poison=poison, words=loose, **options)
    other = Case(case.folder / "left-out", forks=case.forks)
    never = [{**dose, "from": NEVER, "to": NEVER} for dose in poison]
    steps = sorted(dose["from"] for dose in poison)
    unbroken = other.run(poison=never, leave_out=steps, words=loose, **options)
    damage = oracles.stopped(ended, 0) + oracles.stopped(unbroken, 0)
    silent = [] if damage else same(case, other, steps)
    damage += oracles.tidy(case)
    return [oracles.verdict(silent=silent, damage=damage, recovered=True)] * len(poison)


def same(case: Case, other: Case, steps: list[int]) -> Problems:
    """B, I, C: the same state and examples; as many updates counted as were poisoned."""
    found, expected = oracles.result(case), oracles.result(other)
    blank = [row for row in expected.metrics if "eval/loss" in row]
    kept = [row for row in found.metrics if "eval/loss" in row]
    problems = oracles.bitwise(found._replace(metrics=kept), expected._replace(metrics=blank))
    problems += oracles.examples(found, expected)
    counted = sum(row.get("train/nonfinite", 0) for row in found.metrics)
    skipped = next(int(x) for name, x in found.arrays.items() if "skipped" in name)
    if not counted == skipped == len(steps):
        problems.append(f"{counted} in the metrics, {skipped} in the state, {len(steps)} put in")
    return problems


def always(case: Case, _: Case | None, number: int) -> list[Verdict]:
    """Poisons every update from one on: a stop, a good checkpoint, and evidence to repeat."""
    rng = random.Random(number)
    first = rng.randrange(10, STEPS - 10)
    kind = KINDS[number % len(KINDS)]
    dose = {"kind": kind, "from": first, "to": NEVER, "row": rng.randrange(BATCH)}
    ended = case.run(poison=[dose])
    damage = oracles.stopped(ended, 70, "5 steps in a row", "again not finite")
    damage += oracles.reported(ended, "failed") + oracles.left_processes(ended)
    damage += oracles.kept(case.workdir, 7) + oracles.whole(case.workdir)
    damage += evidence(case, first)
    last = ended.ids[-1][0]
    late = [f"went on until step {last}"] if last >= first + 5 + 7 else []
    return [oracles.verdict(damage=damage, late=late, recovered=False)]


def evidence(case: Case, first: int) -> Problems:
    """M: state and batch of the first bad update are there, and are those of that update."""
    folder = case.workdir / "nonfinite"
    try:
        found = json.loads((folder / f"{first}.json").read_text())
        batch = np.load(folder / f"batch_{first}_0.npz")
        state = oracles.arrays(folder / str(first))
    except (OSError, ValueError) as error:
        return [f"evidence: {error}"]
    examples = next(ids for _, step, ids in case.updates() if step == first)
    problems = []
    if not found["examples"] == batch["index"].tolist() == examples:
        problems.append(f"evidence of the examples {found['examples']}, they were {examples}")
    if "nan" not in (found["repeated"]["loss"], found["repeated"]["grad_norm"]):
        problems.append(f"repeated: {found['repeated']}")
    if not oracles.is_good(folder / str(first)) or state["['step']"] != first:
        problems.append("the state of the evidence is not that before the update")
    return problems


def parameters(case: Case, _: Case | None, number: int) -> list[Verdict]:
    """Poisons the parameters themselves: they must not be saved."""
    step = random.Random(number).randrange(8, STEPS)
    dose = {"kind": "parameters", "from": step, "to": step + 1}
    ended = case.run(poison=[dose])
    damage = oracles.stopped(ended, 70, "not finite")
    damage += oracles.reported(ended, "failed") + oracles.left_processes(ended)
    damage += oracles.kept(case.workdir, 7) + oracles.whole(case.workdir)
    damage += [f"step {s} was saved" for s in oracles.good_steps(case.workdir) if s > step]
    return [oracles.verdict(damage=damage, recovered=False)]


SERIES = {
    "once": (
        "G1",
        "NaN in a clip of one device, in a gradient, in the loss; 1 and 8 devices",
        "left out and counted; else equal to a run without these updates in every bit",
        once,
    ),
    "always": (
        "G2",
        "NaN in every update from a random one on",
        "stops after 5; the first of them is kept, made again and found in `nonfinite/`",
        always,
    ),
    "parameters": ("C13", "NaN in the parameters", "not saved; stops with code 70", parameters),
}


def main() -> None:
    args = arguments(__doc__, SERIES, times=3)
    fault, what, note, do = SERIES[args.series]
    seeds = range(args.times)
    done = tried([Job(f"{seed}", functools.partial(do, number=seed)) for seed in seeds])
    record(fault, what, [verdict for verdicts in done for verdict in verdicts], note)


if __name__ == "__main__":
    main()
