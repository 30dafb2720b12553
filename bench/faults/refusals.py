"""Whole runs on a disk that fails, on a directory in use, with a recipe that has changed.

python -m bench.faults.refusals disk --times=3      # C6, C7, C9
python -m bench.faults.refusals recipe              # D4, D5
python -m bench.faults.refusals two --times=3       # C10
"""

from __future__ import annotations

import argparse
import errno
import os
import pathlib
import tempfile
from typing import NamedTuple

from bench.faults import oracles, results
from bench.faults.disk import Disk
from bench.faults.kills import reference
from bench.faults.oracles import Verdict
from bench.faults.recipe import SAVE_EVERY
from bench.faults.runner import Case, Forks, side_by_side


class Failure(NamedTuple):
    """A disk that fails: number in the catalogue, what fails, with which error, where."""

    fault: str
    what: str
    number: int
    ops: str
    match: str = ""


FAILURES = (
    Failure("C6", "no space left, in the arrays", errno.ENOSPC, "write", "arrays"),
    Failure("C6", "no space left, in the manifest", errno.ENOSPC, "write", "manifest.json"),
    Failure("C6", "no space left, at the rename", errno.ENOSPC, "rename", ".saving"),
    Failure("C7", "EIO at a write", errno.EIO, "write,fsync"),
    Failure("C7", "EROFS when a file or directory is made", errno.EROFS, "open,mkdir,rename"),
    Failure("C7", "EACCES when a file or directory is made", errno.EACCES, "open,mkdir,rename"),
)
CHANGES = {
    "--config.seed=1": "seed: 0 -> 1",
    "--config.run.batch_size=8": "run.batch_size: 16 -> 8",
    "--config.run.epochs=17": "run.epochs: 16 -> 17",
    "--config.mask.ratio=0.5": "mask.ratio: 0.4 -> 0.5",
    "--config.target.bins=8": "target.bins: 9 -> 8",
    "--config.model.width=48": "model.width: 32 -> 48",
    "--config.model.dtype=bfloat16": 'model.dtype: "float32" -> "bfloat16"',
    "--config.optim.lr=0.02": "optim.lr: 0.03 -> 0.02",
}
HARMLESS = ["--config.input.workers=1", "--config.run.keep_checkpoints=2"]
HARMLESS += ["--config.run.hang_seconds=200.0"]


def full_disk(case: Case, unbroken: Case, failure: Failure) -> Verdict:
    """The disk fails after the first save; later it is well again."""
    disk = Disk(case.folder)
    child = case.start(cold=True, env=disk.environment, pause=0.05)
    child.until(lambda _: oracles.good_steps(case.workdir))
    match = {"match": failure.match} if failure.match else {}
    checkpoints = case.workdir / "checkpoints"
    disk.fail(checkpoints, ops=failure.ops, errno=failure.number, **match)
    ended = child.wait()
    damage = oracles.stopped(ended, 74, os.strerror(failure.number), "checkpoints")
    damage += oracles.told(ended, "failed") + oracles.left_processes(ended)
    damage += oracles.kept(case.workdir, SAVE_EVERY) + oracles.whole(case.workdir)
    disk.heal()
    return _then(case, unbroken, damage)


def failed_write(case: Case, unbroken: Case) -> Verdict:
    """C9: the thread that writes fails, and fails again."""
    plan = "; ".join(f"save.before_manifest:raise=EIO@{n}" for n in (2, 3))
    ended = case.run(plan)
    damage = oracles.stopped(ended, 74, "Input/output error", "checkpoints")
    damage += oracles.told(ended, "failed") + oracles.left_processes(ended)
    damage += oracles.kept(case.workdir, SAVE_EVERY) + oracles.whole(case.workdir)
    last = ended.ids[-1][0]
    if last >= 3 * SAVE_EVERY:
        damage.append(f"noticed only after step {last}")
    return _then(case, unbroken, damage)


def _then(case: Case, unbroken: Case, damage: list[str]) -> Verdict:
    """The same command goes on, to the same end."""
    last = case.run()
    silent = oracles.stopped(last, 0) or oracles.same_run(case, unbroken)
    return oracles.verdict(silent=silent, damage=damage + oracles.tidy(case), recovered=True)


def two_runs(case: Case, unbroken: Case) -> Verdict:
    """C10: a second run on the same directory."""
    first = case.start(pause=0.15)
    first.until(lambda child: child.updates() > 3)
    second = case.run()
    damage = oracles.stopped(second, 78, f"process {first.process}", "in use")
    damage += ["the second one trained"] if second.ids else []
    ended = first.wait()
    damage += oracles.stopped(ended, 0) + oracles.left_processes(ended)
    silent = [] if damage else oracles.same_run(case, unbroken)
    damage += oracles.tidy(case)
    verdict = oracles.verdict(silent=silent, damage=damage, recovered=False)
    return verdict


def changed(folder: pathlib.Path, forks: Forks, command: str) -> None:
    """D4, D5."""
    unbroken = reference(folder, forks)
    case = Case(folder / "changed", forks=forks)
    assert case.run("step:term@16").code == 75
    refused = []
    for word, difference in CHANGES.items():
        ended = case.run(words=[word])
        damage = oracles.stopped(ended, 78, difference.replace("(", r"\("))
        damage += ["it trained"] if ended.ids else []
        damage += oracles.kept(case.workdir, 15) + oracles.whole(case.workdir)
        refused.append(oracles.verdict(damage=damage, recovered=False))
        print(word, *refused[-1], flush=True)
    what = "seed, batch, epochs, mask, target, model, precision or optimiser changed"
    note = "stops with code 78 and `key: old -> new`"
    results.record("D4", what, oracles.outcomes(refused), command=command, note=note)
    last = case.run(words=HARMLESS)
    silent = oracles.stopped(last, 0) or oracles.same_run(case, unbroken)
    verdict = oracles.verdict(silent=silent, recovered=True)
    print(*HARMLESS, *verdict)
    what = "threads, number of checkpoints or watchdog's limit changed"
    results.record("D5", what, oracles.outcomes([verdict]), command=command, note="goes on")


def series(name: str, times: int, folder: pathlib.Path, forks: Forks, command: str) -> None:
    """C6, C7 and C9, or C10."""
    unbroken = reference(folder, forks)
    if name == "two":
        jobs = [("C10", "two runs in one directory", two_runs, ())]
    else:
        jobs = [(f.fault, f.what, full_disk, (f,)) for f in FAILURES]
        jobs.append(("C9", "the writing thread fails twice", failed_write, ()))

    def one(numbered) -> Verdict:
        number, (_, what, job, more) = numbered
        verdict = job(Case(folder / str(number), forks=forks), unbroken, *more)
        print(what, *verdict, flush=True)
        return verdict

    found = side_by_side(one, enumerate(jobs * times))
    notes = {"C10": "the second stops with code 78 and names the first; the first is unharmed"}
    for number, (fault, what, *_) in enumerate(jobs):
        note = notes.get(fault, "code 74; the good step stays; on the mended disk the run goes on")
        mine = found[number :: len(jobs)]
        results.record(
            fault,
            f"{what} (whole runs)",
            oracles.outcomes(mine),
            command=command,
            note=note,
            problems=oracles.problems(mine),
        )


def main() -> None:
    """Does what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("series", choices=("disk", "recipe", "two"))
    parser.add_argument("--times", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faults-") as name, Forks() as forks:
        folder = pathlib.Path(name)
        if args.series == "recipe":
            changed(folder, forks, "python -m bench.faults.refusals recipe")
        else:
            command = f"python -m bench.faults.refusals {args.series} --times={args.times}"
            series(args.series, args.times, folder, forks, command)


if __name__ == "__main__":
    main()
