"""Creates, checks and locks the work directory of a run, and writes its small files.

Layout: `config.json` (the recipe), `environment.json`, `STATUS.json`, `lock`, and files of other
modules (`checkpoints/`, `metrics.jsonl`, `log.txt`, `pictures/`, ...). Supports local disks and
shared mounts, but not object stores (`gs://`).
"""

from __future__ import annotations

import contextlib
import csv
import errno
import fnmatch
import io
import json
import math
import os
import pathlib
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax

from maskfeat_jax.distributed.collectives import on_first_process
from maskfeat_jax.distributed.compare import PACKAGES, version
from maskfeat_jax.files import local_path, replacing, write_atomically
from maskfeat_jax.sections import differences, flatten
from maskfeat_jax.workdir import lock as run_lock

_BROKEN = (errno.ENOSPC, errno.EDQUOT, errno.EIO)

State = Literal["running", "finished", "failed", "stopped"]


class WorkdirError(ValueError):
    """The work directory cannot be used: not of a run, not writable, or used by another run."""


class StorageError(RuntimeError):
    """The disk of the work directory is full or broken."""


class RecipeChanged(WorkdirError):
    """The recipe differs from the one this work directory was started with."""


def open_workdir(
    path: str | os.PathLike[str], recipe: Mapping[str, Any], harmless: Sequence[str] = ()
) -> pathlib.Path:
    """Creates the work directory of a run, or reopens it to continue with the same recipe.

    Process 0 does the work and holds the lock until `close_workdir` or the end of the process;
    an error there is raised in every process.

    Args:
      path: the directory; made, with its parents, if it does not exist.
      recipe: the resolved recipe; nested dictionaries, JSON-serialisable.
      harmless: dotted keys (`run.log_every_steps`, or a whole section `input`) that may differ
        from the stored recipe. The stored recipe is then replaced by the new one.

    Returns:
      The absolute path.

    Raises:
      WorkdirError: a non-empty directory that is not of a run, not writable, or in use.
      RecipeChanged: a key outside `harmless` differs; lists every such key, old and new.
      StorageError: the disk is full or broken.
      ValueError: a URL, or the recipe is not JSON-serialisable.
    """
    directory = local_path(path).absolute()

    def prepare() -> int:
        check_workdir(directory, recipe, harmless)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            run_lock.take(directory)
            for torn in directory.glob(".*.tmp"):  # left by a run that was killed while writing
                torn.unlink(missing_ok=True)
            text = _as_json(recipe)
            if (
                not (config := directory / "config.json").exists()
                or config.read_text("utf-8") != text
            ):
                write_atomically(config, text)
        except run_lock.InUse as error:
            raise WorkdirError(str(error)) from None
        except OSError as error:
            kind = StorageError if error.errno in _BROKEN else WorkdirError
            raise kind(
                f"{directory}: not writable ({error.strerror or error}); "
                "choose another --workdir, make room or correct its permissions"
            ) from error
        with warn_on_oserror("environment.json"):
            write_atomically(directory / "environment.json", _as_json(environment()))
        return 0

    on_first_process(prepare)
    return directory


def close_workdir(workdir: pathlib.Path) -> None:
    """Releases the lock, if this process holds it; from any thread, never raises.

    The end of the process does so, too.
    """
    run_lock.release(workdir)


def check_workdir(
    path: str | os.PathLike[str], recipe: Mapping[str, Any], harmless: Sequence[str] = ()
) -> None:
    """The checks of `open_workdir` that need neither a device nor a write; raises the same errors.

    For a program that reports every problem before it uses a device.
    """
    directory = local_path(path)
    text = _as_json(recipe)
    try:
        str(directory.absolute()).encode()
    except UnicodeEncodeError:
        raise WorkdirError(
            f"{directory}: the name is not UTF-8, as checkpoints need it; choose another --workdir"
        ) from None
    if directory.exists() and not directory.is_dir():
        raise WorkdirError(f"{directory} is a file; --workdir must be a directory")
    if not directory.exists():
        return
    if not os.access(directory, os.W_OK | os.X_OK):
        raise WorkdirError(f"{directory}: not writable; choose another --workdir")
    if (directory / "config.json").exists():
        changed = differences(flatten(read_recipe(directory)), flatten(json.loads(text)))
        changed = {k: line for k, line in changed.items() if not is_harmless(k, harmless)}
        if changed:
            raise RecipeChanged(
                f"{directory} was started with another recipe, stored -> now:\n  "
                + "\n  ".join(changed.values())
                + "\nRestore these values to continue this run; or, to start from what it has "
                f"learned, choose a new --workdir and add --config.model.init_from={path}. "
                f"Keys that may change in a run: {', '.join(harmless)}."
            )
        return
    foreign = sorted(p.name for p in directory.iterdir() if not _is_own_leftover(p.name))
    if foreign:
        raise WorkdirError(
            f"{directory} is not empty and not a work directory (it has {foreign[0]!r} but no "
            "config.json); choose an empty or new --workdir"
        )


def is_harmless(key: str, harmless: Sequence[str]) -> bool:
    """Whether a dotted key is one of some keys (`*` is any name), or in one of some sections."""
    return any(fnmatch.fnmatchcase(key, safe) or key.startswith(f"{safe}.") for safe in harmless)


def read_recipe(workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """The recipe stored in a work directory.

    Raises:
      WorkdirError: there is none, or it is not a JSON object.
    """
    path = pathlib.Path(workdir) / "config.json"
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WorkdirError(
            f"{path} does not exist: {path.parent} is not a work directory"
        ) from error
    except ValueError as error:
        raise WorkdirError(
            f"{path} is damaged ({error}); restore it, or choose a new --workdir"
        ) from error
    if not isinstance(recipe, dict):
        raise WorkdirError(f"{path} holds a {type(recipe).__name__}, expected an object")
    return recipe


def write_status(workdir: pathlib.Path, state: State, **facts: Any) -> None:
    """Writes `STATUS.json` atomically (process 0 only); a failure only causes a warning.

    Args:
      workdir: the work directory.
      state: of the run.
      **facts: more entries, for instance `step`, `reason` and `exit_code`. Other values
        than JSON's become text.
    """
    if jax.process_index() == 0:
        status: dict[str, Any] = {"state": state, "time": time.time(), "host": socket.gethostname()}
        for name, value in facts.items():
            unfit = isinstance(value, float) and not math.isfinite(value)
            status[name] = str(value) if unfit else value
        text = json.dumps(status, indent=2, sort_keys=True, default=str)
        with warn_on_oserror("STATUS.json"):
            write_atomically(workdir / "STATUS.json", text + "\n")


def write_table(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows with the same keys as CSV, atomically (process 0 only); no rows, no file.

    A failure only causes a warning.
    """
    if rows and jax.process_index() == 0:
        lines = [list(rows[0]), *([row[name] for name in rows[0]] for row in rows)]
        with warn_on_oserror(path.name):
            write_atomically(path, "".join(map(_csv_line, lines)))


def write_text(path: pathlib.Path, lines: Iterable[str]) -> None:
    """Writes lines one by one, otherwise as `write_table` does."""
    if jax.process_index() == 0:
        with (
            warn_on_oserror(path.name),
            replacing(path) as new,
            new.open("w", encoding="utf-8", errors="surrogateescape") as file,
        ):
            file.writelines(lines)


def _csv_line(values: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(values)  # "\n" would not quote "a\rb"
    return line.getvalue().removesuffix("\r\n") + "\n"


@contextlib.contextmanager
def warn_on_oserror(name: str) -> Iterator[None]:
    """Turns an OSError inside into a warning on stderr, for files that a run can do without."""
    try:
        yield
    except OSError as error:
        print(f"warning: {name} could not be written: {error}", file=sys.stderr)


def environment() -> dict[str, Any]:
    """Versions, devices and source revision of this process, for `environment.json`."""
    devices = jax.devices()
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: version(name) for name in PACKAGES},
        "backend": jax.default_backend(),
        "device_kind": devices[0].device_kind,
        "device_count": len(devices),
        "process_count": jax.process_count(),
        "git_commit": _git_commit(),
    }


def _as_json(value: Mapping[str, Any]) -> str:
    try:
        return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"only numbers, strings, booleans, None, lists and dictionaries can be stored: {error}"
        ) from error


def _is_own_leftover(name: str) -> bool:
    """Whether an interrupted start can leave this name before `config.json` exists."""
    return name == "lock" or (name.startswith(".") and name.endswith(".tmp"))


def _git_commit() -> str | None:
    """Commit of the checkout this file is tracked in, `+changes` if edited; None outside one."""
    here = pathlib.Path(__file__).resolve()

    def git(*words: str) -> str:
        command = ["git", "-C", str(here.parent), *words]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        edited = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if edited else "")
    except (OSError, subprocess.SubprocessError):
        return None
