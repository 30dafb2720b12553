"""Storage that fails, at length: what `Checkpoints` makes of it. See docs/reliability.md.

python -m bench.faults.storage --flips=1000 --record

In this process bits are flipped and files damaged (C1, C2, C3, C5); a child process saves on a disk
that is full, fails, is slow or stalls (C6, C7, C8, C9).
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import errno
import os
import pathlib
import random
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from bench.faults.results import record
from bench.faults.saver import ARRAYS, Saver, saver, state_of
from maskfeat_jax.checkpoints.checkpointer import CheckpointError, Checkpoints
from maskfeat_jax.checkpoints.manifest import verify

FLOATS = 500_000  # 2 MB of array data
OLD, NEW = 1, 2
Counts = collections.Counter[str]


def files_of(directory: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


class Steps:
    """A directory with two good steps, the newer of which is damaged again and again."""

    def __init__(self, folder: pathlib.Path):
        self.directory = folder / "checkpoints"
        with Checkpoints(self.directory) as checkpoints:
            for step in (OLD, NEW):
                checkpoints.save(step, state_of(step, FLOATS), {"seed": step})
        self.newest = self.directory / str(NEW)
        self._old = state_of(OLD, FLOATS)

    def outcome(self, name: pathlib.Path | None) -> str:
        """What is made of a damaged newest step, whose file the message must name; None: any."""
        checkpoints = Checkpoints(self.directory)
        like = jax.eval_shape(lambda: self._old)
        try:
            checkpoints.restore(NEW, like)
        except CheckpointError as error:
            refused = name is None or str(name) in str(error)
        else:
            return "wrong in silence"
        found = checkpoints.latest_good()
        aside = self.directory / "bad" / str(NEW)
        if found != OLD or not aside.is_dir():
            return "wrong in silence"
        aside.rename(self.newest)
        restored, _ = checkpoints.restore(OLD, like)
        same = all(map(np.array_equal, jax.tree.leaves(restored), jax.tree.leaves(self._old)))
        reported = name is None or any(str(name) in sentence for sentence in checkpoints.messages())
        return "recovered" if same and refused and reported else "noticed late"

    def is_whole(self) -> None:
        """Makes sure that whatever was done has been undone."""
        assert Checkpoints(self.directory).latest_good() == NEW


def flips(steps: Steps, count: int, seed: int) -> tuple[Counts, dict[str, Any]]:
    """C1: one bit of one file at a time; each file is hit as often."""
    draws = random.Random(seed)
    files = [path for path in files_of(steps.newest) if path.stat().st_size]
    outcomes, of_file = Counts(), Counts()
    for i in range(count):
        path = files[i % len(files)]
        place, bit = draws.randrange(path.stat().st_size), 1 << draws.randrange(8)
        with open(path, "r+b") as file:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ bit]))
        outcomes[steps.outcome(path.relative_to(steps.newest))] += 1
        of_file[path.relative_to(steps.newest).parts[0]] += 1
        with open(path, "r+b") as file:
            file.seek(place)
            file.write(bytes([byte]))
    steps.is_whole()
    return outcomes, {"seed": seed, "files": len(files), "flips by top entry": dict(of_file)}


def whole_files(steps: Steps) -> Counts:
    """C2: each file truncated, emptied, longer, deleted, and exchanged with the other step's."""
    outcomes = Counts()
    for path in files_of(steps.newest):
        good = path.read_bytes()
        name = path.relative_to(steps.newest)
        other = steps.directory / str(OLD) / name
        damages: list[bytes | None] = [good[: len(good) // 2], good[:-1], b"", good + b"\0", None]
        damages += [other.read_bytes()] if other.exists() else []
        for data in damages:
            if data == good:
                continue
            path.unlink() if data is None else path.write_bytes(data)
            outcomes[steps.outcome(name)] += 1
            path.write_bytes(good)
    steps.is_whole()
    return outcomes


def half_copies(steps: Steps, count: int, seed: int) -> Counts:
    """C3: of the newest step only some files are there, the last of them perhaps in part."""
    draws = random.Random(seed)
    outcomes = Counts()
    whole = steps.directory.parent / "whole"
    shutil.copytree(steps.newest, whole)
    for _ in range(count):
        names = [path.relative_to(whole) for path in files_of(whole)]
        draws.shuffle(names)
        copied = names[: draws.randrange(len(names))]
        shutil.rmtree(steps.newest)
        steps.newest.mkdir()
        for name in copied:
            (steps.newest / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(whole / name, steps.newest / name)
        if copied and draws.random() < 0.5:
            size = (whole / copied[-1]).stat().st_size
            os.truncate(steps.newest / copied[-1], draws.randrange(size) if size else 0)
        outcomes[steps.outcome(None)] += 1
    shutil.rmtree(steps.newest)
    whole.rename(steps.newest)
    steps.is_whole()
    return outcomes


def none_good(steps: Steps, count: int, seed: int) -> Counts:
    """C5: a bit flipped in every step; the run must stop, now and again, and delete nothing."""
    draws = random.Random(seed)
    outcomes = Counts()
    for i in range(count):
        copy = pathlib.Path(shutil.copytree(steps.directory, steps.directory.parent / f"none-{i}"))
        for step in (OLD, NEW):
            path = draws.choice([p for p in files_of(copy / str(step)) if p.stat().st_size])
            data = bytearray(path.read_bytes())
            data[draws.randrange(len(data))] ^= 1 << draws.randrange(8)
            path.write_bytes(data)
        before = len(files_of(copy))
        stops = 0
        for _ in range(2):
            with contextlib.suppress(CheckpointError):
                Checkpoints(copy).latest_good()
                continue
            stops += 1
        kept = len(files_of(copy)) == before
        outcomes["clean stop" if stops == 2 and kept else "wrong in silence"] += 1
        shutil.rmtree(copy)
    return outcomes


@contextlib.contextmanager
def child(floats: int = FLOATS) -> Iterator[Saver]:
    """A process that saves, with one good step."""
    with tempfile.TemporaryDirectory() as folder, saver(pathlib.Path(folder), floats) as process:
        assert process.ask(step=1)["ok"]
        yield process


def disk_fails(cases: list[dict[str, Any]], *, again: bool) -> Counts:
    """C6, C7: the disk fails by rules of `disk.c` while a step is saved, and is well for the next.

    With `again` the second try of the same save must succeed.
    """
    outcomes = Counts()
    with child() as process:
        good = 1
        for step, rules in enumerate(cases, start=2):
            process.disk.fail(process.directory, **rules)
            answer = process.ask(step=step)
            words = os.strerror(int(rules["errno"]))
            reported = words in " ".join([answer.get("error", ""), *answer["messages"]])
            process.disk.heal()
            found = process.ask(find=True)["found"]
            verify(process.directory / str(found), found)
            if again and answer.get("ok"):
                fine, good = found == step, step
            else:
                fine = not again and "error" in answer and found == good
            result = "recovered" if again else "clean stop"
            outcomes[result if fine and reported else "wrong in silence"] += 1
        later = process.ask(step=1000)
        assert later["ok"], later  # with a disk that is well it goes on, and nothing is left behind
        assert not any(process.directory.glob("*.saving"))
    return outcomes


def slow_disk(rules: dict[str, Any], *, seconds: float) -> tuple[Counts, dict[str, Any]]:
    """C8: work goes on at its pace while a save is written, and the next save waits for it."""
    with child(8 * FLOATS) as process:
        process.ask(step=2, work_s=0.1)
        alone = process.ask(step=2, work_s=seconds)["work_s"]  # step 2 is there: nothing is written
        process.disk.fail(process.directory, **rules)
        answer = process.ask(step=3, work_s=seconds)
        while_writing, blocked = answer["work_s"], answer["blocked_s"]
        overlapping = answer["steps_meanwhile"]
        answer = process.ask(step=4)
        process.disk.heal()
        found = process.ask(find=True)["found"]
    medians = [statistics.median(times) * 1e3 for times in (alone, while_writing)]
    waits = [sentence for sentence in answer["messages"] if "waited" in sentence]
    fine = found == 4 and overlapping == [1, 2] and blocked < 0.5 and bool(waits)
    details = {
        "blocked_s": round(blocked, 3),
        "step_ms_alone": round(medians[0], 3),
        "step_ms_while_writing": round(medians[1], 3),
        "waited_s": round(answer["waited_s"], 1),
        "message": waits[0] if waits else "",
    }
    return Counts({"recovered" if fine else "noticed late": 1}), details


def late_errors() -> Counts:
    """C9: a save that fails in the background is reported by the next one; the old step is kept."""
    outcomes = Counts()
    with child() as process:
        for step in range(2, 22, 2):
            process.disk.fail(process.directory, ops="write", errno=errno.EIO, match=ARRAYS)
            begun = process.ask(step=step, work_s=0.5)  # returns before the error is known
            answer = process.ask(step=step + 1)
            process.disk.heal()
            found = process.ask(find=True)["found"]
            reported = f"step {step} could not be saved" in answer.get("error", "")
            fine = begun.get("ok") and reported and found == 1
            outcomes["clean stop" if fine else "wrong in silence"] += 1
    return outcomes


FULL = {"errno": errno.ENOSPC}
IN_DATA = [{**FULL, "ops": "write", "after": n, "match": ARRAYS} for n in range(0, 10**6, 10**5)]
IN_MANIFEST = {**FULL, "ops": "write", "match": "manifest.json"}
# Number in the catalogue, what fails, the rules of `disk.c`, whether the second try must succeed.
DISKS: list[tuple[str, str, list[dict[str, Any]], bool]] = [
    ("C6", "disk full in data", IN_DATA, False),
    ("C6", "disk full in manifest", [{**IN_MANIFEST, "after": n} for n in range(9)], False),
    (
        "C6",
        "disk full at rename, mkdir or open",
        [{**FULL, "ops": "rename,mkdir,open"}, {**FULL, "ops": "rename"}] * 5,
        False,
    ),
    (
        "C6",
        "disk full in data or manifest, the second try finds room",
        [{**rules, "times": 1} for rules in [*IN_DATA, *[IN_MANIFEST] * 5]],
        True,
    ),
    (
        "C7",
        "EIO, EROFS, EACCES at write, fsync, open, rename",
        [
            {"errno": number, "ops": ops, "match": match}
            for number in (errno.EIO, errno.EROFS, errno.EACCES)
            for ops in ("write", "fsync", "open", "rename")
            for match in (ARRAYS, "manifest")
            if (ops, match) != ("rename", ARRAYS)  # these files are not renamed
        ],
        False,
    ),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--copies", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stall", type=float, default=60, help="seconds")
    parser.add_argument("--record", action="store_true", help="in docs/faults.jsonl")
    words = parser.parse_args()

    def tell(fault: str, what: str, outcomes: Counts, **details: Any) -> None:
        print(fault, what, dict(outcomes), details or "", flush=True)
        if words.record:
            record(fault, what, outcomes, **details)

    with tempfile.TemporaryDirectory() as folder:
        steps = Steps(pathlib.Path(folder))
        outcomes, details = flips(steps, words.flips, words.seed)
        tell("C1", "one bit flipped in a file of the newest step", outcomes, **details)
        tell("C2", "a file cut, emptied, longer, deleted or of another step", whole_files(steps))
        tell("C3", "the newest step half copied", half_copies(steps, words.copies, words.seed))
        tell("C5", "a bit flipped in every step", none_good(steps, 50, words.seed))
    for fault, what, cases, again in DISKS:
        tell(fault, what, disk_fails(cases, again=again))
    outcomes, details = slow_disk({"rate": 1e6}, seconds=5)
    tell("C8", "disk of 1 MB/s, a step of 16 MB", outcomes, **details)
    outcomes, details = slow_disk({"stall": words.stall}, seconds=min(words.stall / 2, 10))
    tell("C8", f"disk that stalls for {words.stall:.0f} s", outcomes, **details)
    tell("C9", "save fails in the background (EIO)", late_errors())


if __name__ == "__main__":
    main()
