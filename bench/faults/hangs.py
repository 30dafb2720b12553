"""Runs that hang, in four ways (H1): exit code 1 and stacks, by `faulthandler`.

python -m bench.faults.hangs --times=3
"""

from __future__ import annotations

import functools

from bench.faults import oracles
from bench.faults.campaign import Job, arguments, record, tried
from bench.faults.oracles import Verdict
from bench.faults.runner import LIMIT_SECONDS, Case
from bench.faults.signals import signalled

STEP_SECONDS, START_SECONDS = 5.0, 60.0
MORE_SECONDS = 5.0  # that noticing may take
HANGS = {
    "a step that never ends": "step:sleep@20",
    "a loader that never returns": "data.wait:sleep@20",
    "C code that keeps Python's lock": "step:spin@20",
    "a report that never returns": "report:sleep@4",
}


def hang(
    case: Case, unbroken: Case, fault: str, wait_s: float = LIMIT_SECONDS
) -> tuple[Verdict, float]:
    """What came of a hang, and seconds until the process ended."""
    words = [f"--config.run.hang_seconds={STEP_SECONDS}"]
    words += [f"--config.run.hang_start_seconds={START_SECONDS}"]
    ended = case.start(fault, words=words).wait(wait_s)
    seconds = signalled(ended, fault)
    damage = oracles.stopped(ended, 1) + oracles.left_processes(ended)
    damage += oracles.whole(case.workdir)
    # Nobody could write any more with Python's lock gone, not even the step that was being saved.
    damage += oracles.kept(case.workdir, 7 if "spin" in fault else 14)
    if (ended.status or {}).get("state") != "running":  # nothing runs after a hang
        damage.append(f"STATUS.json says {ended.status}")
    stacks = case.workdir / "stacks_0.txt"
    if not stacks.exists() or "hread 0x" not in stacks.read_text():
        damage.append("no stacks")
    if damage:
        return oracles.verdict(damage=damage, recovered=True), seconds
    last = case.run(words=words)
    silent = oracles.stopped(last, 0) or oracles.same_run(case, unbroken)
    damage = oracles.tidy(case)
    late = [f"{seconds:.1f} s"] if seconds > STEP_SECONDS + MORE_SECONDS else []
    return oracles.verdict(silent=silent, damage=damage, late=late, recovered=True), seconds


def main() -> None:
    times = arguments(__doc__, times=3).times
    jobs = [Job(what, functools.partial(hang, fault=HANGS[what])) for what in HANGS]
    done = tried(jobs * times)
    for number, what in enumerate(HANGS):
        mine = done[number :: len(HANGS)]
        seconds = [round(s, 1) for _, s in mine]
        note = f"limit {STEP_SECONDS:g} s: ended after {max(seconds):.1f} s at most, stacks "
        note += "written; then the same command to the end"
        record("H1", what, [verdict for verdict, _ in mine], note, seconds=seconds)


if __name__ == "__main__":
    main()
