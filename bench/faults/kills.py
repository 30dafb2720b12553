"""Processes that die: at random times, at each point of a save, while restoring, by a bad read.

python -m bench.faults.kills random --kills=300
python -m bench.faults.kills saves --times=10
python -m bench.faults.kills restore --times=3
python -m bench.faults.kills segv --times=3
"""

from __future__ import annotations

import argparse
import collections
import itertools
import pathlib
import random
import signal
import tempfile
import time
from typing import Any, NamedTuple

from bench.faults import oracles, results
from bench.faults.oracles import Verdict
from bench.faults.recipe import SAVE_EVERY, STEPS
from bench.faults.runner import Case, Child, Ended, Forks, side_by_side

SAVE_POINTS = ("save.begin", "save.before_data", "save.before_manifest", "save.before_rename")
SAVE_POINTS += ("save.after_rename", "save.deleting", "save.end")
START_SECONDS, RUN_SECONDS = 4.0, 2.0  # of a forked process, until its first update and after it
FROM_START = 0.4  # part of the kills whose time counts from the start, not from the first update


class Chain(NamedTuple):
    """A run that was killed some times.

    Attributes:
      verdict: of the whole: B, I, K.
      rubbish: L: what is left behind at its end.
      places: the last fault point before each kill.
      redone: updates that were made again after each kill.
    """

    verdict: Verdict
    rubbish: list[str]
    places: list[str]
    redone: list[int]


def reference(folder: pathlib.Path, forks: Forks | None, recipe: str = "pretrain") -> Case:
    """The unbroken run."""
    case = Case(folder / f"reference-{recipe}", recipe, forks=forks)
    ended = case.run()
    assert ended.code == 0, ended.output
    assert not (problems := oracles.tidy(case)), problems
    return case


def random_chain(case: Case, unbroken: Case, rng: random.Random, kills: int) -> Chain:
    """Kills a run at random times, up to so many, until it comes to its end."""

    def kill(child: Child) -> None:
        if rng.random() < FROM_START:
            wait = rng.uniform(0, START_SECONDS)
        else:
            child.until(Child.updates)
            wait = rng.expovariate(1 / RUN_SECONDS)
        time.sleep(wait)
        child.send(signal.SIGKILL)

    return chain(case, unbroken, [kill] * kills)


def chain(case: Case, unbroken: Case, kills: list[Any]) -> Chain:
    """Starts a run again and again, with another kill each time, then lets it come to its end."""
    places: list[str] = []
    redone: list[int] = []
    damage: list[str] = []
    least = made = 0
    for kill in [*kills, None]:
        child = case.start(kill if isinstance(kill, str) else "", pause=0.02)
        if callable(kill):
            kill(child)
        ended = child.wait()
        if made and ended.ids:
            redone.append(made - ended.ids[0][0])
        made = max([made, *(step + 1 for step, _ in ended.ids)])
        damage += after(ended, case, least)
        least = max([0, *oracles.good_steps(case.workdir)])
        if ended.code == 0:
            break
        if ended.code not in (-signal.SIGKILL, -signal.SIGSEGV) or kill is None:
            damage.append(f"ended with {ended.code}: {ended.output[-500:]}")
            break
        places.append(place(ended))
    damage += [f"{n} updates were lost" for n in redone if n > 2 * SAVE_EVERY + 1]
    silent = [] if damage else oracles.same_run(case, unbroken)
    verdict = oracles.verdict(silent=silent, damage=damage, recovered=True)
    return Chain(verdict, oracles.tidy(case), places, redone)


def after(ended: Ended, case: Case, least: int) -> oracles.Problems:
    """What is wrong with the files and processes after a process died; see `oracles.kept`."""
    return (
        oracles.left_processes(ended)
        + oracles.kept(case.workdir, least)
        + oracles.whole(case.workdir)
    )


def place(ended: Ended) -> str:
    """The last point that a process came to."""
    return ended.points[-1].name if ended.points else "before start.imported"


def random_kills(kills: int, seed: int, folder: pathlib.Path) -> None:
    """A1."""
    with Forks() as forks:
        unbroken = {name: reference(folder, forks, name) for name in ("pretrain", "finetune")}
        done: list[Chain] = []

        def one(number: int) -> None:
            if sum(len(chain.places) for chain in done) >= kills:
                return
            name = sorted(unbroken)[number % 2]
            case = Case(folder / f"chain{number}", name, forks=forks)
            rng = random.Random(1000 * seed + number)
            done.append(random_chain(case, unbroken[name], rng, rng.randint(3, 12)))
            tell(f"{number}", done[-1])

        started = time.time()
        side_by_side(one, range(kills))
    places = collections.Counter(place for chain in done for place in chain.places)
    verdicts = [chain.verdict for chain in done for _ in chain.places]
    rubbish = [words for chain in done for words in chain.rubbish]
    results.record(
        "A1",
        "SIGKILL at a random time, again and again until the run is done",
        oracles.outcomes(verdicts),
        command=f"python -m bench.faults.kills random --kills={kills} --seed={seed}",
        note=f"{len(done)} runs, compared with the unbroken run in every bit and example"
        + (f"; {len(rubbish)} of them left a file behind" if rubbish else ""),
        rubbish=rubbish,
        problems=oracles.problems(verdicts),
        places=dict(places.most_common()),
        runs=len(done),
        minutes=round((time.time() - started) / 60, 1),
        most_updates_lost=max([0, *(n for chain in done for n in chain.redone)]),
    )


def at_points(
    fault: str, what: str, plans: list[list[str]], command: str, folder: pathlib.Path
) -> None:
    """A2, A3, A4: runs killed at named points."""
    with Forks() as forks:
        unbroken = reference(folder, forks)

        def one(numbered: tuple[int, list[str]]) -> Chain:
            number, plan = numbered
            case = Case(folder / f"point{number}", forks=forks)
            found = chain(case, unbroken, list(plan))
            if found.rubbish and found.verdict.outcome in results.GOOD:
                found = found._replace(verdict=Verdict("hang or damage", str(found.rubbish)))
            if len(found.places) != len(plan) and found.verdict.outcome in results.GOOD:
                found = found._replace(
                    verdict=Verdict("noticed late", f"only {found.places} of {plan} happened")
                )
            tell(str(plan), found)
            return found

        done = side_by_side(one, enumerate(plans))
    results.record(
        fault,
        what,
        oracles.outcomes(chain.verdict for chain in done for _ in range(max(1, len(chain.places)))),
        command=command,
        problems=oracles.problems(chain.verdict for chain in done),
        places=dict(collections.Counter(place for chain in done for place in chain.places)),
    )


def tell(name: str, found: Chain) -> None:
    """Prints a line about a run."""
    print(
        f"{name}: {found.verdict.outcome} {found.verdict.why} {found.rubbish or ''} {found.places}",
        flush=True,
    )


def main() -> None:
    """Does what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("series", choices=("random", "saves", "restore", "segv"))
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    command = f"python -m bench.faults.kills {args.series} --times={args.times}"
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        folder = pathlib.Path(name)
        if args.series == "random":
            random_kills(args.kills, args.seed, folder)
        elif args.series == "saves":
            # Several kills in one run: at this save, and at the one after it in the next process.
            counts = range(1, args.times + 1)
            pairs = itertools.product(SAVE_POINTS, counts)
            plans = [[f"{point}:kill@{n % 3 + 1}", f"{point}:kill@1"] for point, n in pairs]
            what = f"SIGKILL at {len(SAVE_POINTS)} points of a save"
            at_points("A2", what, plans, command, folder)
        elif args.series == "restore":
            plan = [f"step:kill@{STEPS // 2}", "restore.before:kill", "restore.after:kill"]
            what = "SIGKILL while restoring, and again at the next start"
            at_points("A3", what, [plan + plan[1:]] * args.times, command, folder)
        else:
            plans = [[f"step:segv@{9 * n + 4}"] for n in range(args.times)]
            at_points("A4", "reading of address 0 in a library", plans, command, folder)


if __name__ == "__main__":
    main()
