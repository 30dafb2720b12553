"""What a run should be after a fault. Each oracle gives the sentences that say what is not so.

They look at files and processes, not at the code that is tested: arrays are read with Orbax alone.
"""

from __future__ import annotations

import collections
import fcntl
import functools
import hashlib
import json
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from bench.faults.recipe import EXAMPLES, STEPS, STEPS_PER_EPOCH
from bench.faults.results import GOOD, OUTCOMES
from bench.faults.runner import Case, Ended

# Of a line of metrics: how long things took.
_TIMES = re.compile(r"time|.*(clips_per_sec|input_wait|_seconds|_ms|_per_sec).*")
# Orbax leaves stack traces of its own behind ("Event loop is closed") when it cannot write.
_OUR_FRAMES = re.compile(r'File ".*/(main|(maskfeat_jax|input_pipeline)/[\w/]+)\.py", line')
Problems = list[str]


class Verdict(NamedTuple):
    """An outcome of `OUTCOMES`, and why."""

    outcome: str
    why: str = ""


class Result(NamedTuple):
    """What a whole run left."""

    arrays: dict[str, np.ndarray]  # of the last step, by path
    metrics: list[dict[str, Any]]  # lines of metrics.jsonl, without times
    ids: dict[int, list[int]]  # by step


def result(case: Case, steps: int = STEPS) -> Result:
    """What a run left.

    Raises:
      OSError: something is not there.
      ValueError: a step was computed from different examples at different times.
    """
    ids: dict[int, list[int]] = {}
    for _, step, row in case.updates():
        if ids.setdefault(step, row) != row:
            raise ValueError(f"step {step} had the examples {ids[step]}, and another time {row}")
    text = (case.workdir / "metrics.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    metrics = [{k: v for k, v in row.items() if not _TIMES.fullmatch(k)} for row in rows]
    return Result(arrays(case.workdir / "checkpoints" / str(steps)), metrics, ids)


def arrays(step: pathlib.Path) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(ocp.load(step / "arrays"))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def good_steps(workdir: pathlib.Path) -> list[int]:
    """Steps whose files are what their manifests say, ascending."""
    found = (workdir / "checkpoints").glob("[0-9]*")
    return sorted(int(step.name) for step in found if step.name.isdigit() and is_good(step))


def is_good(step: pathlib.Path) -> bool:
    """Whether the files of a step are exactly those of its manifest, and that one is whole."""
    try:
        document = json.loads((step / "manifest.json").read_text())
        text = json.dumps(document["body"], indent=1, sort_keys=True)
        if hashlib.sha256(text.encode()).hexdigest() != document["sha256"]:
            return False
        for name, expected in document["body"]["files"].items():
            data = (step / name).read_bytes()
            found = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            if found != expected:
                return False
        return document["body"]["step"] == int(step.name)
    except (OSError, ValueError, KeyError):
        return False


def bitwise(found: Result, expected: Result) -> Problems:
    """B: parameters, optimiser and metrics equal those of the unbroken run in each bit."""
    problems = []
    if found.arrays.keys() != expected.arrays.keys():
        problems.append(f"arrays {sorted(found.arrays.keys() ^ expected.arrays.keys())}")
    for name in found.arrays.keys() & expected.arrays.keys():
        a, b = found.arrays[name], expected.arrays[name]
        if a.dtype != b.dtype or a.shape != b.shape or a.tobytes() != b.tobytes():
            problems.append(f"{name} differs by up to {_distance(a, b)}")
    if len(problems) > 3:
        problems = [*problems[:3], f"and {len(problems) - 3} more arrays"]
    for one, other in zip(found.metrics, expected.metrics, strict=False):
        if one != other:
            keys = [key for key in one.keys() | other.keys() if one.get(key) != other.get(key)]
            problems.append(f"metrics of step {one['step']}: {sorted(keys)}")
    if len(found.metrics) != len(expected.metrics):
        lines = [_missing(a.metrics, b.metrics) for a, b in ((found, expected), (expected, found))]
        problems.append(f"metrics: too many {lines[0]}, too few {lines[1]}")
    return problems


def _distance(a: np.ndarray, b: np.ndarray) -> str:
    if a.shape != b.shape:
        return f"{a.shape} and {b.shape}"
    return f"{np.abs(a.astype(np.float64) - b.astype(np.float64)).max():.2g}"


def _missing(rows: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> list[str]:
    count = collections.Counter(f"{row['step']} {sorted(row)[-1]}" for row in rows)
    count.subtract(f"{row['step']} {sorted(row)[-1]}" for row in others)
    return sorted(count.elements())


def examples(found: Result, expected: Result) -> Problems:
    """I: each update saw the examples it should see; none twice in an epoch, none lost."""
    problems = []
    for step in sorted(found.ids.keys() | expected.ids.keys()):
        if found.ids.get(step) != expected.ids.get(step):
            problems.append(f"examples of step {step}: {found.ids.get(step)}")
            break
    for epoch in range(STEPS // STEPS_PER_EPOCH):
        steps = range(epoch * STEPS_PER_EPOCH, (epoch + 1) * STEPS_PER_EPOCH)
        seen = [i for step in steps for i in found.ids.get(step, [])]
        if sorted(seen) != list(range(EXAMPLES)):
            problems.append(f"epoch {epoch} has {len(set(seen))} examples in {len(seen)} places")
            break
    return problems


def kept(workdir: pathlib.Path, least: int) -> Problems:
    """K: a good step that can be read, not older than `least`, which was there before (0: none)."""
    good = good_steps(workdir)
    if max([0, *good]) < least:
        return [f"step {least} was good before, now there are {good}"]
    if good:
        leaves = arrays(workdir / "checkpoints" / str(good[-1]))
        leaves.pop("['recent']", None)  # losses of the steps before, not finite until there are any
        if not all(np.isfinite(leaf).all() for leaf in leaves.values()):
            return [f"step {good[-1]} is not finite"]
    return []


def whole(workdir: pathlib.Path) -> Problems:
    """K: a process that dies leaves no half of a step under the name of a whole one."""
    steps = (workdir / "checkpoints").glob("[0-9]*")
    half = [step.name for step in steps if step.name.isdigit() and not is_good(step)]
    half += [f"bad/{step.name}" for step in (workdir / "checkpoints" / "bad").glob("*")]
    return [f"steps that are not whole: {half}"] if half else []


def tidy(case: Case) -> Problems:
    """L: nothing unfinished is left by a run that came to its end."""
    names = [p.relative_to(case.workdir).as_posix() for p in case.workdir.rglob("*")]
    left = [n for n in names if re.search(r"\.saving|\.tmp$|\.deleting|\.restoring", n)]
    return ([f"left behind: {left}"] if left else []) + unlocked(case.workdir)


def unlocked(workdir: pathlib.Path) -> Problems:
    """L: nobody holds the lock of a directory."""
    if not (workdir / "lock").exists():
        return []
    with open(workdir / "lock") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return ["the lock is held"]
    return []


def left_processes(ended: Ended) -> Problems:
    """L: no process outlives the one that was started."""
    return [f"processes left: {ended.left}"] if ended.left else []


def stopped(ended: Ended, code: int, *words: str) -> Problems:
    """X, M: the exit code, and what is said at the end; a stack trace says nothing to people."""
    problems = []
    if ended.code != code:
        problems.append(f"exit code {ended.code}, not {code}: {ended.output[-300:]!r}")
    said = ended.output + json.dumps(ended.status or {})
    problems += [
        f"{word!r} is missing in the output" for word in words if not re.search(word, said)
    ]
    if code in (65, 74, 78) and _OUR_FRAMES.search(ended.output):
        problems.append("a stack trace")
    return problems


def reported(ended: Ended, state: str) -> Problems:
    """X: STATUS.json has the state and exit code of the run."""
    found = ended.status or {}
    if found.get("state") != state:
        return [f"STATUS.json says {found.get('state')!r}, not {state!r}"]
    if state != "finished" and found.get("exit_code") != ended.code:
        return [f"STATUS.json says exit code {found.get('exit_code')}, it was {ended.code}"]
    return []


def same_run(case: Case, reference: Case) -> Problems:
    """B and I of a run that came to its end."""
    try:
        found = result(case)
    except (OSError, ValueError) as error:
        return [f"no result: {error}"]
    expected = reference_result(reference)
    return bitwise(found, expected) + examples(found, expected)


@functools.lru_cache(maxsize=8)
def reference_result(reference: Case) -> Result:
    """The result of an unbroken run, read once."""
    return result(reference)


def verdict(
    *,
    silent: Problems = [],  # noqa: B006  # never changed
    damage: Problems = [],  # noqa: B006
    late: Problems = [],  # noqa: B006
    recovered: bool,
) -> Verdict:
    """The outcome, from the gravest on.

    Args:
      silent: a run that ended as if all were well, but is not what it should be.
      damage: hangs, wrong ends, lost steps, rubbish.
      late: what was noticed after the stated time.
      recovered: whether the run went on to its end; else it stopped as it should.
    """
    for outcome, problems in zip(reversed(OUTCOMES[2:]), (damage, silent, late), strict=True):
        if problems:
            return Verdict(outcome, "; ".join(problems))
    return Verdict(GOOD[0] if recovered else GOOD[1])


def outcomes(verdicts: Iterable[Verdict]) -> dict[str, int]:
    return dict(collections.Counter(verdict.outcome for verdict in verdicts))
