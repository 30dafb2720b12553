"""Manages the directory of saved steps: files only, no arrays.

A step is written as `<step>.saving` and renamed to `<step>` after its manifest is written. So a
numbered directory without a valid manifest is damaged: it is moved to `bad/<step>`, never loaded,
never deleted. Each attempt has its own directory (`<step>-1.saving`), as a failed one may still be
writing. A step is renamed to `<step>.deleting` before it is deleted, so that a crash in between
does not look like damage. Other files are not touched.

Contents are hashed when a step is saved, for its manifest, and again before it is used or deleted.
Hashing a second time right after the save would read the page cache, not the disk.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import itertools
import os
import pathlib
import re
import shutil
from typing import Any

from maskfeat_jax.checkpoints import manifest
from maskfeat_jax.faults import fault_point
from maskfeat_jax.files import sync_directory

ARRAYS = "arrays"  # in a step
_SAVING = ".saving"
_DELETING = ".deleting"
_LEFTOVER = re.compile(rf"(0|[1-9][0-9]*)(-[1-9][0-9]*)?({_SAVING}|{_DELETING})")
_OURS = re.compile(rf"{ARRAYS}(\.orbax-checkpoint-tmp.*)?|\.?{manifest.FILE}(\..*)?")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_TENSORSTORE_NUMBER = r"os_error_code='(\d+)'"
_TENSORSTORE_FILE = r'Failed (?:writing|to open): "([^"]+)"'


class CheckpointError(RuntimeError):
    """A step cannot be saved, is damaged, or does not fit; says which and why."""


class Storage:
    """Steps in a directory, see `Checkpoints`. Used by one process and one thread at a time."""

    def __init__(self, directory: pathlib.Path, *, keep_last: int = 1, level: str = "auto"):
        self.directory = directory  # made at the first save
        self.messages: list[str] = []  # for the log; the owner empties it
        self._keep_last = keep_last
        self._level = level
        self._attempts: collections.Counter[int] = collections.Counter()

    def steps(self) -> list[int]:
        """Every numbered step, ascending, good or not."""
        if not self.directory.is_dir():
            return []
        found = (p for p in self.directory.iterdir() if p.is_dir() and not p.is_symlink())
        return sorted(int(p.name) for p in found if re.fullmatch(r"0|[1-9][0-9]*", p.name))

    def set_aside(self) -> list[pathlib.Path]:
        """Everything in `bad/`."""
        return sorted(self.directory.glob("bad/*"))

    def leftovers(self) -> list[pathlib.Path]:
        """Leftovers of interrupted saves and deletions."""
        if not self.directory.is_dir():
            return []
        found = (path for path in self.directory.iterdir() if _LEFTOVER.fullmatch(path.name))
        return sorted(path for path in found if _is_ours(path))

    def newest_good(self, *, move: bool = True, fresh: bool = False) -> int:
        """The newest step that matches its manifest, -1 if nothing was ever saved.

        Args:
          move: move newer, damaged ones to `bad/`; when a good one is found, remove leftovers of
            interrupted saves.
          fresh: return -1 also if there are steps, but no good one.

        Raises:
          CheckpointError: there are, or were, steps, but no good one.
        """
        bad: list[str] = []
        if names := ", ".join(path.name for path in self.leftovers()):
            self.messages.append(f"{names}: of an interrupted save, not loaded")
        for step in reversed(self.steps()):
            if not (damage := self._damage(step, self._level)):
                self.messages += bad
                if move:
                    self.clear()
                return step
            where = self._move_aside(step) if move else "left in place"
            bad.append(f"step {step}: {damage}; not loaded, {where}")
        aside = self.set_aside()
        if not bad and not aside:
            return -1
        if fresh:
            self.messages += [*bad, f"{self.directory}: no good step, starting from scratch"]
            return -1
        lines = bad or [f"bad/{path.name}: moved there at an earlier start" for path in aside]
        fresh_start = ", choose a new --workdir, or start from scratch in this one with "
        fresh_start += "--config.run.allow_fresh_start=True"
        raise CheckpointError(
            f"none of the checkpoints in {self.directory} can be trusted:\n  "
            + "\n  ".join(lines)
            + f"\nNothing was deleted. Restore one from a backup{fresh_start if move else ''}."
        )

    def make_room(self, step: int, expected_bytes: int) -> int:
        """Removes leftovers and checks the free space; 0 if there is a good step of this number."""
        if (self.directory / str(step)).exists():
            if not (damage := self._damage(step, self._level)):
                return 0
            self.messages.append(f"step {step}: {damage}; {self._move_aside(step)}, saved again")
        self.directory.mkdir(parents=True, exist_ok=True)
        self.clear()
        self.check_space(expected_bytes)
        return 1

    def check_space(self, expected_bytes: int) -> None:
        """Adds a message if the disk has less than 1.5 times the size of a step free."""
        free = self.free_bytes()
        if free < 1.5 * expected_bytes:
            self.messages.append(
                f"{self.directory}: {free / 1e9:.2f} GB are free, a checkpoint needs "
                f"{expected_bytes / 1e9:.2f} GB; make room, or the next save may fail"
            )

    def free_bytes(self) -> int:
        """Free space of the disk that the directory is, or will be, on."""
        existing = next(p for p in (self.directory, *self.directory.parents) if p.exists())
        return shutil.disk_usage(existing).free

    def temporary(self, step: int, number: int) -> pathlib.Path:
        """The directory that an attempt writes a step to."""
        return self.directory / (f"{step}-{number}{_SAVING}" if number else f"{step}{_SAVING}")

    def begin(self, step: int) -> int:
        """Makes a new temporary directory; returns the number of the attempt."""
        while True:
            number = self._attempts[step]
            self._attempts[step] += 1
            with contextlib.suppress(FileExistsError):
                self.temporary(step, number).mkdir()
                return number

    def commit(self, step: int, temporary: pathlib.Path, body: dict[str, Any]) -> None:
        """Writes the manifest and renames a directory to its step. May be repeated if it failed."""
        fault_point("save.before_manifest")
        if temporary.exists():
            manifest.write(temporary, body)
            fault_point("save.before_rename")
            temporary.rename(self.directory / str(step))
        fault_point("save.after_rename")
        sync_directory(self.directory)

    def clear(self, keep: pathlib.Path | None = None) -> None:
        """Removes leftovers of interrupted saves and deletions, as far as possible."""
        for leftover in self.leftovers():
            if leftover != keep:
                try:
                    shutil.rmtree(leftover)
                except OSError as error:  # a failed attempt may still be writing
                    self.messages.append(f"{leftover} could not be removed ({error_text(error)})")

    def recover(self, step: int, error: Exception, keep: pathlib.Path | None) -> None:
        """Prepares the second attempt of a save: frees space if there was none.

        The second attempt needs the directory `keep`.
        """
        self.clear(keep)
        freed = self._free_oldest(step) if _error_number(error) in _FULL else ""
        self.messages.append(
            f"step {step} could not be saved ({error_text(error)}){freed}; trying again"
        )

    def drop_old(self, newest: int) -> None:
        """Deletes steps that are older than the `keep_last` newest good ones.

        Damaged steps neither count nor are deleted. A step counts if its files are complete; before
        one is deleted its contents are read, which detects a disk that loses data.

        Raises:
          CheckpointError: files of the newest differ from what was saved.
        """
        if damage := self._damage(newest, "length"):
            raise CheckpointError(
                f"step {newest} was saved but reads back wrong: {damage}. The disk in "
                f"{self.directory} cannot be trusted. No older step was deleted."
            )
        good = 1
        for step in reversed([step for step in self.steps() if step != newest]):
            kept = good < self._keep_last
            if damage := self._damage(step, "length" if kept else self._level):
                self.messages.append(f"step {step}: {damage}; left in place")
                continue
            good += 1
            if not kept:
                self._delete(step)

    def _damage(self, step: int, level: str) -> str:
        """What is wrong with a step; empty if it is good."""
        try:
            manifest.verify(self.directory / str(step), step, level)
        except manifest.Damaged as damage:
            return str(damage)
        return ""

    def _delete(self, step: int) -> bool:
        """Deletes a step and returns whether it succeeded; if not, adds a message."""
        doomed = self.directory / f"{step}{_DELETING}"
        try:
            (self.directory / str(step)).rename(doomed)
            fault_point("save.deleting")
            shutil.rmtree(doomed)
        except OSError as error:
            self.messages.append(f"step {step} could not be deleted ({error_text(error)})")
            return False
        return True

    def _free_oldest(self, saving: int) -> str:
        """Deletes the oldest good step unless it is the newest; returns words for a message."""
        steps = [step for step in self.steps() if step != saving]
        good = [step for step in steps if not self._damage(step, self._level)]
        if len(good) < 2:
            return "; there is no older step to delete"
        return f"; step {good[0]} was deleted to make room" if self._delete(good[0]) else ""

    def _move_aside(self, step: int) -> str:
        """Moves a damaged step to `bad/`; returns where it is now, for a message."""
        names = (f"{step}-{i}" if i else str(step) for i in itertools.count())
        aside = next(p for p in (self.directory / "bad" / n for n in names) if not p.exists())
        try:
            aside.parent.mkdir(exist_ok=True)
            (self.directory / str(step)).rename(aside)
            sync_directory(self.directory)
        except OSError as error:
            return f"could not be moved to bad/ ({error.strerror}), left in place"
        return f"moved to bad/{aside.name}"


def error_text(error: BaseException) -> str:
    """The system's name of an error, and its file; else the first line of the message."""
    number = _error_number(error)
    if number is None:
        return str(error).splitlines()[0][:300] if str(error) else repr(error)
    name = getattr(error, "filename", None) or re.search(_TENSORSTORE_FILE, str(error))
    where = "" if name is None else f": {name if isinstance(name, str) else name[1]}"
    return os.strerror(number) + where


def _error_number(error: BaseException) -> int | None:
    """The errno of an error; TensorStore has it in the message only."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(_TENSORSTORE_NUMBER, str(error))
    return int(found[1]) if found else None


def _is_ours(path: pathlib.Path) -> bool:
    """Whether a directory contains only files of a save."""
    if path.is_symlink() or not path.is_dir():
        return False
    return all(_OURS.fullmatch(entry.name) for entry in path.iterdir())
