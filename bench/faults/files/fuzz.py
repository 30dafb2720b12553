"""Makes files of a format, damages them, opens them in another process, and judges."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from bench.faults import isolation, results
from bench.faults.files import archives, media, odd, pickles
from bench.faults.files.damage import damage
from bench.faults.files.kinds import ERRORS, REFUSED, Format
from bench.faults.isolation import peak_megabytes
from input_pipeline.bad_inputs import BadMedia

FORMATS: dict[str, Format] = {
    "videos": media.VIDEOS,
    "images": media.IMAGES,
    "odd": odd.ODD,
    "bombs": odd.BOMBS,
    "pickles": pickles.PICKLES,
    "archives": archives.ARCHIVES,
}
SECONDS, MEMORY = 300.0, 4 << 30  # for a hang; our own limits are lower
MOST_SECONDS, MOST_MEGABYTES = 3.0, 200.0  # of the processors, for what is refused and bombs
_WRITES = ("os.mkdir", "os.symlink", "os.link", "os.remove", "os.chmod")
_RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.fork")
OUT = "out"  # folder next to that of the file, to which a reader may write


class Job(NamedTuple):
    """A file of a format before a door, damaged if there is a seed."""

    format: str
    file: str
    door: str
    seed: int | None = None


class Read(NamedTuple):
    """What came of opening a file."""

    kind: str  # class of the refusal, or what the door returned
    words: str = ""
    seconds: float = 0.0  # of the processors
    megabytes: float = 0.0  # by which the most memory rose
    trespasses: tuple[str, ...] = ()  # what was written, made or run


def jobs(name: str, n: int, seed: int = 0, only: str | None = None) -> Iterator[Job]:
    """Each file, or only one, at each door, unless they are sound; then `n` damaged ones."""
    this = FORMATS[name]
    for file in this.files:
        if not this.whole and only in (None, file):
            yield from (Job(name, file, door) for door in this.doors)
    for number in range(seed, seed + n):
        draws = random.Random(number)
        file = only or draws.choice(this.damaged)
        yield Job(name, file, draws.choice(sorted(this.doors)), number)


@functools.lru_cache(maxsize=32)
def _made(name: str, file: str) -> bytes:
    return FORMATS[name].files[file].make()


def content(job: Job) -> tuple[str, bytes]:
    """What is done to a file, and its bytes."""
    this, data = FORMATS[job.format], _made(job.format, job.file)
    if job.seed is None:
        return "as it is", data
    suffix = this.files[job.file].suffix
    others = [f for f in this.damaged if this.files[f].suffix != suffix] or this.warm
    draws = random.Random(-1 - job.seed)
    return damage(data, draws, [_made(job.format, draws.choice(others))])


def attempt(job: Job) -> Read:
    """Opens a file at a door; what it needs on first use has been loaded before."""
    _warm_up(job.format, job.door)
    return _attempt(job)


@functools.cache
def _warm_up(name: str, door: str) -> None:
    sys.addaudithook(_listen)
    for file in FORMATS[name].warm:
        _attempt(Job(name, file, door))


def _attempt(job: Job) -> Read:
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):
        root = pathlib.Path(temporary)
        _, data = content(job)
        pathlib.Path(pickles.CANARY).unlink(missing_ok=True)  # making a file may have run it
        (root / OUT).mkdir()
        path = root / "place" / f"x{FORMATS[job.format].files[job.file].suffix}"
        path.parent.mkdir()
        path.write_bytes(data)
        before = _tree(root)
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        memory, start = peak_megabytes(), time.process_time()
        with _hearing(root / OUT) as events:
            kind, words = _opened(FORMATS[job.format].doors[job.door], path, job.file)
        seconds, megabytes = time.process_time() - start, peak_megabytes() - memory
        changed = sorted(f"tree: {what}" for what in _tree(root) ^ before)
    return Read(kind, words[:300], seconds, megabytes, (*events[:5], *changed[:5]))


def _opened(door: Callable[[pathlib.Path, str], str], path: pathlib.Path, file: str) -> tuple:
    try:
        return door(path, file), ""
    except BadMedia as bad:
        return bad.kind, bad.reason
    except ERRORS as error:
        return type(error).__name__, str(error)


_heard: list[str] | None = None  # while a file is open
_allowed = ""


@contextlib.contextmanager
def _hearing(allowed: pathlib.Path) -> Iterator[list[str]]:
    global _heard, _allowed
    events: list[str] = []
    _heard, _allowed = events, str(allowed)
    try:
        yield events
    finally:
        _heard = None


def _listen(event: str, arguments: tuple) -> None:
    """Notes what writes, makes or moves outside the allowed folder, or runs something."""
    if _heard is None:
        return
    writes = event in _WRITES or (
        event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    )
    allowed = writes and str(arguments[0]).startswith(_allowed)
    runs = event in _RUNS or event.split(".")[0] in ("subprocess", "tarfile", "shutil")
    if runs or (writes and not allowed):
        _heard.append(f"{event} {arguments!r:.200}")


def _tree(folder: pathlib.Path) -> set[str]:
    """Contents and number of all that is there, but for `OUT`, whatever it is called."""
    paths = [path for path in folder.rglob("*") if path.relative_to(folder).parts[0] != OUT]
    files = [path for path in paths if path.is_file() and not path.is_symlink()]
    found = {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return found | {f"{len(files)} files", f"{len(paths)} entries"}


def verdict(job: Job, outcome: Any) -> str:
    if not isinstance(outcome, Read) or outcome.trespasses:
        return "hang or damage"
    if outcome.kind not in FORMATS[job.format].files[job.file].expected:
        return "wrong in silence"
    refused = outcome.kind in REFUSED
    cheap = outcome.seconds < MOST_SECONDS and outcome.megabytes < MOST_MEGABYTES
    if not cheap and (refused or job.format == "bombs"):
        return "noticed late"
    return "clean stop" if refused else "recovered"


@dataclasses.dataclass
class Series:
    """How many of each outcome and kind, and the most seconds and megabytes that one took."""

    outcomes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    kinds: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    seconds: float = 0.0
    megabytes: float = 0.0


def series(
    what: Iterable[Job], log: Callable[[str], None] = print, by_door: bool = True
) -> dict[str, Series]:
    """Outcomes of files, by door or together; those that are not good go to `log`."""
    found: dict[str, Series] = {}
    for job, outcome in isolation.each(attempt, what, SECONDS, MEMORY):
        judged = verdict(job, outcome)
        this = found.setdefault(job.door if by_door else "", Series())
        this.outcomes[judged] += 1
        if isinstance(outcome, Read):
            this.kinds[outcome.kind] += 1
            this.seconds = max(this.seconds, outcome.seconds)
            this.megabytes = max(this.megabytes, outcome.megabytes)
        if judged not in results.GOOD:
            log(f"{job} ({content(job)[0]}): {judged}: {outcome}")
    return found
