"""Signals that ask a run to stop, in each phase of it.

python -m bench.faults.signals phases --times=10     # B1 to B9
python -m bench.faults.signals others --times=3      # B10, B11, B13, B14
"""

from __future__ import annotations

import functools
import random
import signal
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

from bench.faults import oracles
from bench.faults.campaign import Job, arguments, record, tried
from bench.faults.oracles import Problems, Verdict
from bench.faults.runner import Case, Ended

GRACE_SECONDS = 25.0  # as documented
SHORT_GRACE_SECONDS = 3.0
AT_ONCE_SECONDS = 5.0
# In the order in which a run comes to them; those of `ANYWHERE` may be mixed.
PHASES = {
    "B1": ("start-up", ("start.imported", "start.built", "start.opened")),
    "B2": ("first compile", ("compile",)),
    "B3": ("data warm-up", ("data.first",)),
    "B4": ("a step", ("step",)),
    "B5": ("waiting for data", ("data.wait",)),
    "B6": ("an evaluation", ("evaluate.batch",)),
    "B7": ("a save", ("save.begin", "save.before_data", "save.before_manifest", "save.end")),
    "B8": ("restoring", ("restore.before", "restore.after")),
    "B9": ("shutdown", ("shutdown",)),
}
ANYWHERE = ["B4", "B5", "B6", "B7", "B8"]


class Stop(NamedTuple):
    phase: str
    verdict: Verdict
    seconds: float


def plan(rng: random.Random, number: int) -> list[tuple[str, str]]:
    """Phases in an order in which one run can meet them, and a fault for each."""
    middle = rng.sample(ANYWHERE, len(ANYWHERE))
    while middle[0] == "B8":  # nothing is there to be restored
        rng.shuffle(middle)
    faults = []
    for phase in ["B1", "B2", "B3", *middle, "B9"]:
        points = PHASES[phase][1]
        point = points[number % len(points)]
        # The first batches are waited for before the step is compiled.
        least, most = {"B4": (1, 5), "B5": (5, 8), "B6": (1, 2)}.get(phase, (1, 1))
        faults.append((phase, f"{point}:term@{rng.randint(least, most)}"))
    return faults


def stops(case: Case, unbroken: Case, faults: list[tuple[str, str]], cold: bool) -> list[Stop]:
    """One run that is asked to stop in each phase, and started again each time."""
    found: list[tuple[str, Problems, Problems, float]] = []
    for phase, fault in faults:
        options = {}
        if phase == "B1":
            options = {"cold": True}
        if phase == "B2" and cold:
            cache = {"JAX_COMPILATION_CACHE_DIR": str(case.folder / "xla")}
            options = {"cold": True, "env": cache}
        before = max([0, *oracles.good_steps(case.workdir)])
        ended = case.run(fault, **options)
        damage, late, seconds = stop(case, ended, fault, before)
        found.append((phase, damage, late, seconds))
    last = case.run()
    silent = oracles.stopped(last, 0) + oracles.reported(last, "finished")
    silent = silent or oracles.same_run(case, unbroken)
    rubbish = oracles.tidy(case)
    return [
        Stop(
            phase,
            oracles.verdict(silent=silent, damage=damage + rubbish, late=late, recovered=True),
            seconds,
        )
        for phase, damage, late, seconds in found
    ]


def stop(case: Case, ended: Ended, fault: str, before: int) -> tuple[Problems, Problems, float]:
    """What is wrong with the end of a process that a fault asked to stop, what was late, seconds.

    `before` is the newest good step before the process started.
    """
    point = fault.partition(":")[0]
    damage = oracles.stopped(ended, 75) + oracles.left_processes(ended)
    if point not in {p.name for p in ended.points}:
        return [f"{fault} did not happen", *damage], [], 0.0
    damage += oracles.whole(case.workdir)
    damage += oracles.kept(case.workdir, made(ended) or before)
    if case.workdir.exists():
        damage += oracles.reported(ended, "stopped")
        damage += [f"left: {p}" for p in (case.workdir / "checkpoints").glob("*.saving")]
        damage += oracles.unlocked(case.workdir)
    seconds = signalled(ended, fault)
    late = [f"took {seconds:.1f} s"] if seconds > GRACE_SECONDS else []
    return damage, late, seconds


def made(ended: Ended) -> int:
    """Updates behind the state of a process, 0 if it made none."""
    return ended.ids[-1][0] + 1 if ended.ids else 0


def signalled(ended: Ended, fault: str) -> float:
    """Seconds from the signal of a plan such as `step:term@3` to the end."""
    point, _, rest = fault.partition(":")
    count = int(rest.partition("@")[2] or 1)
    times = [p.time for p in ended.points if (p.name, p.count) == (point, count)]
    return ended.at - times[0] if times else 0.0


def phases(times: int, seed: int, only: str) -> None:
    """B1 to B9, or one of them."""
    jobs = []
    for number in range(times):
        faults = [
            fault
            for fault in plan(random.Random(1000 * seed + number), number)
            if only in ("", fault[0])
        ]
        do = functools.partial(stops, faults=faults, cold=number % 3 == 0)
        jobs.append(Job(f"{number}", do))
    done = [stop for stops in tried(jobs) for stop in stops]
    for phase, (what, points) in PHASES.items():
        mine = [stop for stop in done if stop.phase == phase]
        if not mine:
            continue
        seconds = [round(stop.seconds, 2) for stop in mine]
        note = f"exit code 75 after {statistics.median(seconds):.1f} s (at most "
        note += f"{max(seconds):.1f} s); then the same command to the end"
        verdicts = [stop.verdict for stop in mine]
        record(phase, f"SIGTERM in {what}", verdicts, note, points=points, seconds=seconds)


def two_signals(case: Case) -> tuple[Verdict, float]:
    """B10: the second ends the process at once, here while the first waits for a slow save."""
    child = case.start("save.before_manifest:sleep@2")
    child.until(lambda _: any(p[2:] == ("save.before_manifest", 2) for p in case.points()))
    least = max([0, *oracles.good_steps(case.workdir)])
    child.send(signal.SIGTERM)
    child.until(lambda _: False, 1.0)
    second = time.time()
    child.send(signal.SIGTERM)
    ended = child.wait()
    seconds = ended.at - second
    late = [f"took {seconds:.1f} s"] if seconds > AT_ONCE_SECONDS else []
    return _cut_short(case, ended, least, late), seconds


def short_grace(case: Case) -> tuple[Verdict, float]:
    """B11: a save that takes longer than the grace time: the end comes at the deadline."""
    fault = "step:term@13"
    words = [f"--config.run.grace_seconds={SHORT_GRACE_SECONDS}"]
    ended = case.run(f"save.before_manifest:sleep@2; {fault}", words=words)
    seconds = signalled(ended, fault)
    late = [f"took {seconds:.1f} s"] if seconds > SHORT_GRACE_SECONDS + AT_ONCE_SECONDS else []
    late += [] if "hread 0x" in ended.output else ["no stacks were written"]
    return _cut_short(case, ended, 7, late), seconds


def _cut_short(case: Case, ended: Ended, least: int, late: Problems) -> Verdict:
    """Of a process that could not save: what was there before is still there."""
    damage = oracles.stopped(ended, 75) + oracles.reported(ended, "stopped")
    damage += oracles.left_processes(ended)
    damage += oracles.kept(case.workdir, least) + oracles.whole(case.workdir)
    return oracles.verdict(damage=damage, late=late, recovered=True)


def interrupt(case: Case) -> tuple[Verdict, float]:
    """B13: Ctrl-C stops in good order as SIGTERM does."""
    fault = "step:int@11"
    ended = case.run(fault)
    damage, late, seconds = stop(case, ended, fault, 0)
    return oracles.verdict(damage=damage, late=late, recovered=True), seconds


def save_now(case: Case) -> tuple[Verdict, float]:
    """B14: SIGUSR1 saves, and the run goes on."""
    child = case.start(pause=0.1)
    child.until(lambda c: c.updates() >= 9)
    child.send(signal.SIGUSR1)
    child.until(lambda c: c.updates() >= 13)
    extra = [s for s in oracles.good_steps(case.workdir) if 8 <= s <= 12]
    ended = child.wait()
    damage = [] if extra else ["nothing was saved"]
    damage += oracles.stopped(ended, 0) + oracles.left_processes(ended)
    return oracles.verdict(damage=damage, recovered=True), 0.0


OTHERS = {
    "B10": ("SIGTERM twice, one second apart, during a slow save", two_signals),
    "B11": ("the save takes longer than the grace time (3 s)", short_grace),
    "B13": ("SIGINT", interrupt),
    "B14": ("SIGUSR1: saves and goes on", save_now),
}


def to_the_end(
    case: Case, unbroken: Case, stop: Callable[[Case], tuple[Verdict, float]]
) -> tuple[Verdict, float]:
    """Stops a run, lets it go on and compares it with the unbroken one."""
    verdict, seconds = stop(case)
    if verdict.outcome == "recovered":
        damage = oracles.stopped(case.run(), 0) + oracles.tidy(case)
        silent = [] if damage else oracles.same_run(case, unbroken)
        verdict = oracles.verdict(silent=silent, damage=damage, recovered=True)
    return verdict, seconds


def others(times: int) -> None:
    jobs = [Job(f, functools.partial(to_the_end, stop=OTHERS[f][1])) for f in OTHERS]
    done = tried(jobs * times)
    for number, (fault, (what, _)) in enumerate(OTHERS.items()):
        mine = done[number :: len(OTHERS)]
        seconds = [round(s, 2) for _, s in mine]
        record(fault, what, [verdict for verdict, _ in mine], seconds=seconds)


def main() -> None:
    args = arguments(__doc__, ("phases", "others"), times=10, seed=0, only="")
    if args.series == "phases":
        phases(args.times, args.seed, args.only)
    else:
        others(args.times)


if __name__ == "__main__":
    main()
