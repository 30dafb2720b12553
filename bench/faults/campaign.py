"""What the campaigns of whole runs share: command line, unbroken run, jobs side by side, rows."""

from __future__ import annotations

import argparse
import pathlib
import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from bench.faults import oracles, results
from bench.faults.oracles import Verdict
from bench.faults.runner import Case, Forks

AT_ONCE = 2


class Job(NamedTuple):
    """A fault to be put into a run.

    Attributes:
      name: what is printed.
      do: gets the run and the unbroken one to compare it with.
      recipe: a name of bench/faults/recipe.py.
      spec: more entries for child.py.
    """

    name: str
    do: Callable[[Case, Case], Any]
    recipe: str = "pretrain"
    spec: dict[str, Any] = {}  # noqa: RUF012  # never changed


def arguments(
    about: str | None, series: Collection[str] = (), **defaults: int | str
) -> argparse.Namespace:
    """The command line: one of the series, if there are some, and options by their defaults."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if series:
        parser.add_argument("series", choices=series)
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    return parser.parse_args()


def reference(folder: pathlib.Path, forks: Forks | None, recipe: str = "pretrain") -> Case:
    case = Case(folder / f"reference-{recipe}", recipe, forks=forks)
    ended = case.run()
    assert ended.code == 0, ended.output
    assert not (problems := oracles.tidy(case)), problems
    return case


def tried(jobs: Sequence[Job]) -> list[Any]:
    """What came of the jobs, some at a time, in order."""
    with tempfile.TemporaryDirectory(prefix="faults-") as name, Forks() as forks:
        folder = pathlib.Path(name)
        unbroken = {recipe: reference(folder, forks, recipe) for recipe in {j.recipe for j in jobs}}

        def one(number: int, job: Job) -> Any:
            case = Case(folder / str(number), job.recipe, spec=job.spec, forks=forks)
            found = job.do(case, unbroken[job.recipe])
            print(f"{job.name}: {found}", flush=True)
            return found

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(one, range(len(jobs)), jobs))


def record(fault: str, what: str, verdicts: Iterable[Verdict], note: str = "", **details: Any):
    """Keeps the row of a series in docs/faults.jsonl."""
    verdicts = list(verdicts)
    problems = sorted({verdict.why for verdict in verdicts if verdict.why})
    outcomes = oracles.outcomes(verdicts)
    results.record(fault, what, outcomes, note=note, problems=problems, **details)
