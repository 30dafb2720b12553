"""Processes that die: at random times, at each point of a save, while restoring, by a bad read.

python -m bench.faults.kills random --kills=300
python -m bench.faults.kills saves --times=10
python -m bench.faults.kills restore --times=3
python -m bench.faults.kills segv --times=3
"""

from __future__ import annotations

import collections
import functools
import itertools
import random
import signal
import time
from typing import Any, NamedTuple

from bench.faults import oracles, results
from bench.faults.campaign import Job, arguments, record, tried
from bench.faults.oracles import Verdict
from bench.faults.recipe import SAVE_EVERY, STEPS
from bench.faults.runner import Case, Child

SAVE_POINTS = ("save.begin", "save.before_data", "save.before_manifest", "save.before_rename")
SAVE_POINTS += ("save.after_rename", "save.deleting", "save.end")
START_SECONDS, RUN_SECONDS = 4.0, 2.0  # of a forked process, until its first update and after it
FROM_START = 0.4  # part of the kills whose time counts from the start, not from the first update


class Chain(NamedTuple):
    """A run that was killed some times."""

    verdict: Verdict  # of the whole: B, I, K
    rubbish: list[str]  # L: what is left behind at its end
    places: list[str]  # the last fault point before each kill
    redone: list[int]  # updates that were made again after each kill


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
        damage += oracles.left_processes(ended) + oracles.kept(case.workdir, least)
        damage += oracles.whole(case.workdir)
        least = max([0, *oracles.good_steps(case.workdir)])
        if ended.code == 0:
            break
        if ended.code not in (-signal.SIGKILL, -signal.SIGSEGV) or kill is None:
            damage.append(f"ended with {ended.code}: {ended.output[-500:]}")
            break
        places.append(ended.points[-1].name if ended.points else "before start.imported")
    damage += [f"{n} updates were lost" for n in redone if n > 2 * SAVE_EVERY + 1]
    silent = [] if damage else oracles.same_run(case, unbroken)
    verdict = oracles.verdict(silent=silent, damage=damage, recovered=True)
    return Chain(verdict, oracles.tidy(case), places, redone)


def random_kills(kills: int, seed: int) -> None:
    done: list[Chain] = []

    def kill(number: int, case: Case, unbroken: Case) -> Chain | None:
        if sum(len(chain.places) for chain in done) >= kills:
            return None
        rng = random.Random(1000 * seed + number)
        done.append(random_chain(case, unbroken, rng, rng.randint(3, 12)))
        return done[-1]

    recipes, started = ("finetune", "pretrain"), time.time()
    tried([Job(f"{n}", functools.partial(kill, n), recipes[n % 2]) for n in range(kills)])
    rubbish = [words for chain in done for words in chain.rubbish]
    record(
        "A1",
        "SIGKILL at a random time, again and again until the run is done",
        [chain.verdict for chain in done for _ in chain.places],
        f"{len(done)} runs, compared with the unbroken run in every bit and example"
        + (f"; {len(rubbish)} of them left a file behind" if rubbish else ""),
        rubbish=rubbish,
        places=_places(done),
        runs=len(done),
        minutes=round((time.time() - started) / 60, 1),
        most_updates_lost=max([0, *(n for chain in done for n in chain.redone)]),
    )


def at_points(fault: str, what: str, plans: list[list[str]]) -> None:
    """A2, A3, A4: runs killed at named points."""
    done = tried([Job(f"{plan}", functools.partial(killed_at, plan=plan)) for plan in plans])
    verdicts = [chain.verdict for chain in done for _ in range(max(1, len(chain.places)))]
    record(fault, what, verdicts, places=_places(done))


def killed_at(case: Case, unbroken: Case, plan: list[str]) -> Chain:
    """A run killed at each point of a plan, which leaves no rubbish."""
    found = chain(case, unbroken, plan)
    if found.verdict.outcome not in results.GOOD:
        return found
    if found.rubbish:
        return found._replace(verdict=Verdict("hang or damage", str(found.rubbish)))
    if len(found.places) != len(plan):
        why = f"only {found.places} of {plan} happened"
        return found._replace(verdict=Verdict("noticed late", why))
    return found


def _places(done: list[Chain]) -> dict[str, int]:
    places = collections.Counter(place for chain in done for place in chain.places)
    return dict(places.most_common())


def main() -> None:
    series = ("random", "saves", "restore", "segv")
    args = arguments(__doc__, series, kills=300, times=3, seed=0)
    if args.series == "random":
        random_kills(args.kills, args.seed)
    elif args.series == "saves":
        # Several kills in one run: at this save, and at the one after it in the next process.
        pairs = itertools.product(SAVE_POINTS, range(1, args.times + 1))
        plans = [[f"{point}:kill@{n % 3 + 1}", f"{point}:kill@1"] for point, n in pairs]
        at_points("A2", f"SIGKILL at {len(SAVE_POINTS)} points of a save", plans)
    elif args.series == "restore":
        plan = [f"step:kill@{STEPS // 2}", *["restore.before:kill", "restore.after:kill"] * 2]
        what = "SIGKILL while restoring, and again at the next start"
        at_points("A3", what, [plan] * args.times)
    else:
        plans = [[f"step:segv@{9 * n + 4}"] for n in range(args.times)]
        at_points("A4", "reading of address 0 in a library", plans)


if __name__ == "__main__":
    main()
