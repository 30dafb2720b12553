"""Hostile archives wherever a user may name a file: nothing is unpacked, nothing written.

    python -m bench.faults.archives --damaged=2000 --record

No code of the project unpacks archives; files of `torch.save` are zip archives that PyTorch reads
in place. What is written or run is seen by an audit hook and by comparing the folder around before
and after.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import gzip
import hashlib
import io
import json
import os
import pathlib
import random
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

from bench.faults import isolation, results
from bench.faults.damage import damage
from input_pipeline import DATASETS, EvalView, Loader
from input_pipeline.datasets.media import media_source
from input_pipeline.prepare import __main__ as prepare
from maskfeat_jax import convert
from maskfeat_jax.sections import RecipeError, choose

SECONDS, MEMORY = 300.0, 4 << 30  # of time, most is for making them
MOST_MEGABYTES = 200.0
OUTSIDE = ("../outside", "/tmp/maskfeat-outside", "a/../../outside", "..\\outside", "C:\\outside")
OUTSIDE += ("~/outside", "a" * 5000, "nul\0name", "x\x1b[31m", "con.txt")


def tar(*members: tuple[str, bytes, dict[str, Any]], mode: str = "w") -> bytes:
    """A tar archive of any members: name, content, fields."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=tarfile.GNU_FORMAT) as archive:
        for name, data, fields in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for field, value in fields.items():
                setattr(member, field, value)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def packed(*members: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip archive."""
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", compression) as archive:
        warnings.simplefilter("ignore")  # names that come twice
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return file.getvalue()


def linked_zip() -> bytes:
    """A symbolic link out, and a member behind it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/tmp")
        archive.writestr("link/outside", b"x")
    return file.getvalue()


def wrong_sizes() -> bytes:
    """A zip archive that says its member is 4 GB."""
    data = bytearray(packed(("x/data.pkl", b"x" * 100), compression=zipfile.ZIP_STORED))
    central = data.index(b"PK\x01\x02")
    data[central + 24 : central + 28] = b"\xfe\xff\xff\xff"
    data[central + 20 : central + 24] = b"\xfe\xff\xff\xff"
    return bytes(data)


def overlapping() -> bytes:
    """Many names for the same bytes."""
    one = packed(*((f"m{i}", b"x") for i in range(200)), compression=zipfile.ZIP_STORED)
    data, at = bytearray(one), one.index(b"PK\x01\x02")
    while (at := data.find(b"PK\x01\x02", at)) >= 0:
        data[at + 42 : at + 46] = bytes(4)
        at += 46
    return bytes(data)


KINDS = {
    "hard link": {"type": tarfile.LNKTYPE, "linkname": "../outside"},
    "link": {"type": tarfile.SYMTYPE, "linkname": "/tmp"},
    "device": {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5},
    "FIFO": {"type": tarfile.FIFOTYPE},
    "setuid": {"mode": 0o4777},
}
PICKLE = ("x/data.pkl", b"\x80\x02}q\x00.")
ARCHIVES: dict[str, Callable[[], bytes]] = {
    **{f"tar, {n[:20]!r}": functools.partial(tar, (n, b"x", {})) for n in OUTSIDE if "\0" not in n},
    **{f"tar, {kind}": functools.partial(tar, ("x", b"", f)) for kind, f in KINDS.items()},
    "tar, through a link": lambda: tar(("x", b"", KINDS["link"]), ("x/outside", b"x", {})),
    "tar.gz": lambda: tar(("../outside", b"x", {}), mode="w:gz"),
    "tar.xz": lambda: tar(("../outside", b"x", {}), mode="w:xz"),
    "tar, twice the same name": lambda: tar(("x", b"1", {}), ("X", b"2", {}), ("x", b"3", {})),
    "tar, 20,000 members": lambda: tar(*((f"{i}", b"", {}) for i in range(20_000))),
    "tar, other size": lambda: tar(("x", b"1", {})).replace(b"00000000001\0", b"77777777777\0", 1),
    "tar in tar": lambda: functools.reduce(lambda t, _: tar(("x.tar", t, {})), range(30), b""),
    "gzip of 500 MB": lambda: gzip.compress(bytes(500_000_000), 9),
    **{f"zip, {name[:20]!r}": functools.partial(packed, (name, b"x"), PICKLE) for name in OUTSIDE},
    "zip, link": linked_zip,
    "zip, 500 MB in one member": lambda: packed(("x/data.pkl", bytes(500_000_000))),
    "zip, twice the same name": lambda: packed(PICKLE, ("x/data.pkl", b"other")),
    "zip, 20,000 members": lambda: packed(*((f"{i}", b"") for i in range(20_000))),
    "zip, other sizes": wrong_sizes,
    "zip, overlapping members": overlapping,
    "zip in zip": lambda: functools.reduce(lambda z, _: packed(("x.zip", z)), range(30), b""),
    "zip, encrypted": lambda: packed(PICKLE).replace(
        b"PK\x01\x02\x14\0\x14\0\0\0", b"PK\x01\x02\x14\0\x14\0\1\0"
    ),
    "zip, after a program": lambda: b"#!/bin/sh\n" + packed(("../outside", b"x"), PICKLE),
    "7z": lambda: b"7z\xbc\xaf\x27\x1c" + bytes(500),
    "rar": lambda: b"Rar!\x1a\x07\x01\0" + bytes(500),
}


class Read(NamedTuple):
    """What became of it.

    Attributes:
      refused: class of the error with its words, or of failure; "read" where there was none.
      written: what the process tried to write, make or run.
      megabytes: by which memory grew.
    """

    refused: str
    written: list[str]
    megabytes: float


def _weights(path: pathlib.Path) -> str:
    """As `convert FILE` and `model.init_from`."""
    try:
        convert.load_torch(path)
    except convert.ConvertError as error:
        return f"ConvertError: {error}"
    return "read"


def _weights_of(suffix: str) -> Callable[[pathlib.Path], str]:
    return lambda path: _weights(path.rename(path.with_suffix(suffix)))


def _data(name: str) -> Callable[[pathlib.Path], str]:
    """As `data.path`."""

    def read(path: pathlib.Path) -> str:
        try:
            choose("data", DATASETS, {"name": name, "path": str(path)})
        except RecipeError as error:
            return f"RecipeError: {error}"
        return "read"

    return read


def _media(suffix: str, name: str) -> Callable[[pathlib.Path], str]:
    """As one of the images or videos of a folder."""

    def read(path: pathlib.Path) -> str:
        path.rename(path.with_suffix(suffix))
        source = DATASETS[name](path=str(path.parent))
        problem = Loader(source, EvalView(size=16), batch_size=1).load(0, 0).problem
        return "read" if problem is None else f"{problem.kind}: {problem.reason}"

    return read


def _extract(path: pathlib.Path) -> str:
    """As `python -m maskfeat_jax.extract RUN FILE`."""
    source = media_source(path)
    problem = Loader(source, EvalView(size=16), batch_size=1).load(0, 0).problem
    return "read" if problem is None else f"{problem.kind}: {problem.reason}"


def _prepare(path: pathlib.Path) -> str:
    """As `python -m input_pipeline.prepare FILE OUT`."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            prepare.main([str(path), str(path.parent / "out")])
        except SystemExit as end:
            return f"SystemExit: {end.code} {said.getvalue()[-200:]}"
    return "read"


DOORS: dict[str, Callable[[pathlib.Path], str]] = {
    "weights": _weights,
    "weights, .pth": _weights_of(".pth"),
    "weights, .safetensors": _weights_of(".safetensors"),
    **{f"data.path of {n}": _data(n) for n in ("image_folder", "video_folder", "video_list")},
    **{f"data.path of {n}": _data(n) for n in ("video_records", "ssv2")},
    "an image": _media(".jpg", "image_folder"),
    "a video": _media(".mp4", "video_folder"),
    "extract": _extract,
    "prepare": _prepare,
}
_events: list[str] = []
_heard = False


def _listen(event: str, arguments: tuple) -> None:
    """Notes what writes, makes, moves or runs."""
    if not _heard:
        return
    writes = event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if (
        writes
        or event.split(".")[0] in ("subprocess", "tarfile", "shutil")
        or event
        in (
            "os.mkdir",
            "os.symlink",
            "os.link",
            "os.remove",
            "os.system",
            "os.exec",
            "os.chmod",
            "os.posix_spawn",
            "os.fork",
        )
    ):
        _events.append(f"{event} {arguments!r:.200}")


@functools.cache
def _audit() -> None:
    sys.addaudithook(_listen)


Job = tuple[str, str, int | None]  # archive, door, seed of damage or None


def attempt(job: Job) -> Read:
    """Lays an archive before a door."""
    global _heard
    name, door, seed = job
    _audit()
    data = _made(name)
    if seed is not None:
        data = damage(data, random.Random(seed), [_made("7z"), _made("tar, link")])[1]
    with tempfile.TemporaryDirectory() as temporary:
        place = pathlib.Path(temporary) / "place"
        place.mkdir()
        path = place / "archive.zip"
        path.write_bytes(data)
        before, memory = _tree(pathlib.Path(temporary)), _peak(reset=True)
        _events.clear()
        _heard = True
        try:
            refused = DOORS[door](path)
        except Exception as error:
            refused = f"not expected: {type(error).__name__}: {error}"
        finally:
            _heard = False
        rise = _peak() - memory
        after = _tree(pathlib.Path(temporary))
    written = [*_events, *(f"tree: {x}" for x in sorted(after ^ before))]
    return Read(refused[:300], written[:5], rise)


@functools.lru_cache(maxsize=4)
def _made(name: str) -> bytes:
    return ARCHIVES[name]()


def _tree(folder: pathlib.Path) -> set[str]:
    """Contents and kinds of all that is there, whatever it is called."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    found = {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return found | {f"{len(files)} files", f"{len(list(folder.rglob('*')))} entries"}


def _peak(reset: bool = False) -> float:
    """Most memory so far or since the last reset, MB."""
    if reset:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def verdict(outcome: Any) -> str:
    """One of the five outcomes."""
    if not isinstance(outcome, Read) or outcome.written:
        return "hang or damage"
    if outcome.refused == "read":
        return "wrong in silence"
    cheap = outcome.megabytes < MOST_MEGABYTES
    return "clean stop" if cheap and "not expected" not in outcome.refused else "noticed late"


def series(jobs: list[Job], log: Callable[[str], None] = print) -> tuple[dict, dict[str, Any]]:
    """Outcomes; details: how much memory, and how it was refused."""
    outcomes: collections.Counter[str] = collections.Counter()
    how: collections.Counter[str] = collections.Counter()
    most = 0.0
    for job, outcome in isolation.each(attempt, jobs, SECONDS, MEMORY):
        judged = verdict(outcome)
        outcomes[judged] += 1
        if isinstance(outcome, Read):
            how[outcome.refused.split(":")[0]] += 1
            most = max(most, outcome.megabytes)
        if judged not in results.GOOD:
            log(f"{job}: {judged}: {outcome}")
    return dict(outcomes), {"refused": dict(how), "megabytes": round(most)}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--damaged", type=int, default=0, help="archives with random damage, too")
    parser.add_argument("--record", action="store_true", help="in docs/faults.jsonl")
    chosen = parser.parse_args()
    jobs: list[Job] = [(name, door, None) for name in ARCHIVES for door in DOORS]
    small = [name for name in ARCHIVES if "20,000" not in name and "500 MB" not in name]
    for seed in range(chosen.damaged):
        draws = random.Random(seed)
        jobs.append((draws.choice(small), draws.choice(sorted(DOORS)), seed))
    start = time.monotonic()
    outcomes, details = series(jobs)
    print(json.dumps([outcomes, details]), f"{time.monotonic() - start:.0f} s")
    if chosen.record:
        with_torch = "torch" in sys.modules or _has_torch()
        results.record(
            "L1",
            f"{len(ARCHIVES)} hostile archives before {len(DOORS)} doors, and damaged ones"
            + (", with PyTorch" if with_torch else ", without PyTorch"),
            outcomes,
            command=f"python -m bench.faults.archives --damaged={chosen.damaged} --record",
            note="no code of the project unpacks; nothing written, made or run, by an audit hook "
            "and the tree before and after",
            **details,
        )


def _has_torch() -> bool:
    import importlib.util

    return importlib.util.find_spec("torch") is not None


if __name__ == "__main__":
    main()
