"""The manifest of a saved step: what its files are, so that damage is seen before it is loaded.

`manifest.json` lies in the directory it describes and holds a body of the caller's (at least
`format` and `step`), length and SHA-256 of each file, and the SHA-256 of all that.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from typing import Any

from maskfeat_jax.workdir import write_atomically

FORMAT = 1
FILE = "manifest.json"


class Damaged(Exception):
    """What is wrong with a directory, naming the file."""


def check_body(body: dict[str, Any]) -> None:
    """Raises ValueError if the body holds something that JSON cannot."""
    _render(body)


def write(directory: pathlib.Path, body: dict[str, Any]) -> None:
    """Writes the manifest of all files that lie in a directory now, in one piece."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    listed = {path.relative_to(directory).as_posix(): _fingerprint(path) for path in files}
    write_atomically(directory / FILE, _render({**body, "format": FORMAT, "files": listed}))


def verify(directory: pathlib.Path, step: int | None, *, contents: bool = True) -> dict[str, Any]:
    """Checks a step against its manifest and returns the body of that.

    Args:
      directory: of the step.
      step: the number it should have; None: any.
      contents: check SHA-256 of each file, not only its length.

    Raises:
      Damaged: the first thing found wrong.
    """
    body = _read(directory)
    if step is not None and body["step"] != step:
        raise Damaged(f"{FILE} belongs to step {body['step']}")
    if body["format"] != FORMAT:
        raise Damaged(f"{FILE} has format {body['format']}, this version reads {FORMAT}")
    for name, expected in body["files"].items():
        path = directory / name
        try:
            length = path.stat().st_size
            if length != expected["bytes"]:
                raise Damaged(f"{name} has {length} bytes instead of {expected['bytes']}")
            if contents and _fingerprint(path) != expected:
                raise Damaged(f"{name} has other contents than were saved (SHA-256 differs)")
        except FileNotFoundError as error:
            raise Damaged(f"{name} is missing") from error
        except OSError as error:
            raise Damaged(f"{name} cannot be read ({error.strerror})") from error
    return body


def _read(directory: pathlib.Path) -> dict[str, Any]:
    try:
        text = (directory / FILE).read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        what = f"{FILE} is missing" if directory.is_dir() else "there is no such step"
        raise Damaged(what) from error
    except OSError as error:
        raise Damaged(f"{FILE} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise Damaged(f"{FILE} is not UTF-8 text") from error
    try:
        body = json.loads(text)["body"]
        intact = _render(body) == text
    except (ValueError, TypeError, KeyError, RecursionError):
        intact = False
    if not intact:
        raise Damaged(f"{FILE} has other contents than were saved")
    return body


def _fingerprint(path: pathlib.Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def _render(body: dict[str, Any]) -> str:
    """The one spelling of a manifest: a file that is not exactly this is damaged."""
    try:
        plain = json.loads(json.dumps(body, allow_nan=False))  # keys become strings, then sort
        text = json.dumps(plain, indent=1, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"facts must be what JSON can hold: {error}") from error
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f'{{"sha256": "{digest}",\n"body": {text}}}\n'
