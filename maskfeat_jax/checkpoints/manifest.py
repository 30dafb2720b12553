"""The manifest of a saved step, by which damage is detected before it is loaded.

`manifest.json` is in the directory it describes and contains a body from the caller (at least
`step`), length and SHA-256 of each file, and the SHA-256 of all this.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from maskfeat_jax.files import write_atomically

FORMAT = 1
FILE = "manifest.json"

# What is compared with the manifest: the contents of each file, its length only, or the contents
# up to AUTO_BYTES of all files and the length only above that.
LEVELS = ("auto", "full", "length")
AUTO_BYTES = 5_000_000_000

_THREADS = 4  # SHA-256 of one core is slower than most disks


class Damaged(Exception):
    """A directory does not match its manifest; names the file."""


def write(directory: pathlib.Path, body: dict[str, Any]) -> None:
    """Writes the manifest of all files in a directory, atomically; OSError if it cannot."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    names = [path.relative_to(directory).as_posix() for path in files]
    listed = dict(zip(names, _fingerprints(files), strict=True))
    write_atomically(directory / FILE, render({**body, "format": FORMAT, "files": listed}))


def verify(directory: pathlib.Path, step: int | None, level: str = "full") -> dict[str, Any]:
    """Checks a step against its manifest and returns the body of the manifest.

    Args:
      directory: of the step.
      step: the number it should have, if any.
      level: one of `LEVELS`.

    Raises:
      Damaged: the first thing found wrong.
    """
    body = _read(directory)
    if step is not None and body["step"] != step:
        raise Damaged(f"{FILE} belongs to step {body['step']}")
    if body["format"] != FORMAT:
        raise Damaged(f"{FILE} has format {body['format']}, this version reads {FORMAT}")
    for name, expected in body["files"].items():
        try:
            length = (directory / name).stat().st_size
        except OSError as error:
            raise _unreadable(name, error) from error
        if length != expected["bytes"]:
            raise Damaged(f"{name} has {length} bytes instead of {expected['bytes']}")
    if level == "full" or (level == "auto" and size(body) <= AUTO_BYTES):
        found = _fingerprints(directory / name for name in body["files"])
        for name, expected in body["files"].items():
            try:
                if next(found) != expected:
                    raise Damaged(f"{name} has other contents than were saved (SHA-256 differs)")
            except OSError as error:
                raise _unreadable(name, error) from error
    return body


def size(body: dict[str, Any]) -> int:
    """Bytes of all files that a manifest lists."""
    return sum(file["bytes"] for file in body["files"].values())


def render(body: dict[str, Any]) -> str:
    """The text of a manifest; ValueError if the body is not JSON-serialisable."""
    try:
        plain = json.loads(json.dumps(body, allow_nan=False))  # keys become strings, then sort
        text = json.dumps(plain, indent=1, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"facts must be JSON-serialisable: {error}") from error
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f'{{"sha256": "{digest}",\n"body": {text}}}\n'


def sha256(path: pathlib.Path) -> str:
    """SHA-256 of the contents of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(directory: pathlib.Path) -> dict[str, Any]:
    try:
        text = (directory / FILE).read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        what = f"{FILE} is missing" if directory.is_dir() else "there is no such step"
        raise Damaged(what) from error
    except OSError as error:
        raise _unreadable(FILE, error) from error
    except ValueError as error:
        raise Damaged(f"{FILE} is not UTF-8 text") from error
    try:
        body = json.loads(text)["body"]
        intact = render(body) == text
    except (ValueError, TypeError, KeyError, RecursionError):
        intact = False
    if not intact:
        raise Damaged(f"{FILE} has other contents than were saved")
    return body


def _unreadable(name: str, error: OSError) -> Damaged:
    missing = isinstance(error, FileNotFoundError)
    return Damaged(f"{name} is missing" if missing else f"{name} cannot be read ({error.strerror})")


def _fingerprints(paths: Iterable[pathlib.Path]) -> Iterator[dict[str, Any]]:
    """Length and SHA-256 of each file, in order; several are read at a time."""

    def fingerprint(path: pathlib.Path) -> dict[str, Any]:
        return {"bytes": path.stat().st_size, "sha256": sha256(path)}

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        yield from threads.map(fingerprint, paths)
