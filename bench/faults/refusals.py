"""Whole runs on a disk that fails, on a directory in use, with a recipe that has changed.

python -m bench.faults.refusals disk --times=3      # C6, C7, C9
python -m bench.faults.refusals recipe              # D4, D5
python -m bench.faults.refusals two --times=3       # C10
"""

from __future__ import annotations

import errno
import functools
import os
from typing import NamedTuple

from bench.faults import oracles
from bench.faults.campaign import Job, arguments, record, tried
from bench.faults.disk import Disk
from bench.faults.oracles import Verdict
from bench.faults.recipe import SAVE_EVERY
from bench.faults.runner import Case


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
    "--config.run.epochs=17": "run.epochs: 16.0 -> 17.0",
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
    damage += oracles.reported(ended, "failed") + oracles.left_processes(ended)
    damage += oracles.kept(case.workdir, SAVE_EVERY) + oracles.whole(case.workdir)
    disk.heal()
    return _then(case, unbroken, damage)


def failed_write(case: Case, unbroken: Case) -> Verdict:
    """C9: the thread that writes fails, and fails again."""
    plan = "; ".join(f"save.before_manifest:raise=EIO@{n}" for n in (2, 3))
    ended = case.run(plan)
    damage = oracles.stopped(ended, 74, "Input/output error", "checkpoints")
    damage += oracles.reported(ended, "failed") + oracles.left_processes(ended)
    damage += oracles.kept(case.workdir, SAVE_EVERY) + oracles.whole(case.workdir)
    last = ended.ids[-1][0]
    if last >= 3 * SAVE_EVERY:
        damage.append(f"noticed only after step {last}")
    return _then(case, unbroken, damage)


def _then(case: Case, unbroken: Case, damage: list[str]) -> Verdict:
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
    return oracles.verdict(silent=silent, damage=damage, recovered=False)


def changed(case: Case, unbroken: Case) -> tuple[list[Verdict], Verdict]:
    """D4, of each change, and D5."""
    assert case.run("step:term@16").code == 75
    refused = []
    for word, difference in CHANGES.items():
        ended = case.run(words=[word])
        damage = oracles.stopped(ended, 78, difference.replace("(", r"\("))
        damage += ["it trained"] if ended.ids else []
        damage += oracles.kept(case.workdir, 15) + oracles.whole(case.workdir)
        refused.append(oracles.verdict(damage=damage, recovered=False))
    last = case.run(words=HARMLESS)
    silent = oracles.stopped(last, 0) or oracles.same_run(case, unbroken)
    return refused, oracles.verdict(silent=silent, recovered=True)


def main() -> None:
    args = arguments(__doc__, ("disk", "recipe", "two"), times=3)
    if args.series == "recipe":
        [(refused, harmless)] = tried([Job("recipe", changed)])
        what = "seed, batch, epochs, mask, target, model, precision or optimiser changed"
        record("D4", what, refused, "stops with code 78 and `key: old -> new`")
        what = "threads, number of checkpoints or watchdog's limit changed"
        record("D5", what, [harmless], "goes on")
        return
    if args.series == "two":
        rows = [("C10", Job("two runs in one directory", two_runs))]
        note = "the second stops with code 78 and names the first; the first is unharmed"
    else:
        rows = [(f.fault, Job(f.what, functools.partial(full_disk, failure=f))) for f in FAILURES]
        rows.append(("C9", Job("the writing thread fails twice", failed_write)))
        note = "code 74; the good step stays; on the mended disk the run goes on"
    done = tried([job for _, job in rows] * args.times)
    for number, (fault, job) in enumerate(rows):
        record(fault, f"{job.name} (whole runs)", done[number :: len(rows)], note)


if __name__ == "__main__":
    main()
