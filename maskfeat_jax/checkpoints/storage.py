"""The directory of saved steps: files only, no arrays.

A step is filled as `<step>.saving` and gets its name `<step>` when its manifest is written. So a
numbered directory without a valid manifest is damaged: it is moved to `bad/<step>`, never loaded,
never deleted. Each try has a directory of its own (`<step>-1.saving`), as what failed may still be
writing to the one before. An old step is renamed to `<step>.deleting` first, so that what a crash
leaves of it does not look like a damaged one. Nothing else is touched.
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
from maskfeat_jax.checkpoints.manifest import Damaged
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
    """A step cannot be saved, or cannot be trusted, or does not fit; says which and why."""


class Storage:
    """Steps in a directory. One process and one thread at a time use it.

    Attributes:
      directory: of the steps; made at the first save.
      bad: what the last call of `newest_good` found damaged, one sentence per step.
      messages: what a person should be told; the owner empties it.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        keep_last: int = 1,
        keep_every_steps: int | None = None,
        level: str = "auto",
    ):
        """See `Checkpoints`; `level` as in `manifest.verify`."""
        self.directory = directory
        self.bad: list[str] = []
        self.messages: list[str] = []
        self._keep_last = keep_last
        self._keep_every_steps = keep_every_steps
        self._level = level
        self._tries: collections.Counter[int] = collections.Counter()

    def steps(self) -> list[int]:
        """Every numbered step, ascending, good or not."""
        if not self.directory.is_dir():
            return []
        found = (p for p in self.directory.iterdir() if p.is_dir() and not p.is_symlink())
        return sorted(int(p.name) for p in found if re.fullmatch(r"0|[1-9][0-9]*", p.name))

    def set_aside(self) -> list[pathlib.Path]:
        """What was moved to `bad/`, ever."""
        return sorted(self.directory.glob("bad/*"))

    def leftovers(self) -> list[pathlib.Path]:
        """What is left of saves and deletions of ours that were cut short."""
        if not self.directory.is_dir():
            return []
        found = (path for path in self.directory.iterdir() if _LEFTOVER.fullmatch(path.name))
        return sorted(path for path in found if _is_ours(path))

    def newest_good(self, *, move: bool = True, fresh: bool = False) -> int:
        """The newest step that fits its manifest, -1 if nothing was ever saved.

        Args:
          move: move the damaged ones that are newer to `bad/`; when a good one is found, clear what
            is left of saves that were cut short.
          fresh: answer -1 also if there are steps, but no good one.

        Raises:
          CheckpointError: there are, or were, steps, but no good one.
        """
        self.bad = []
        if names := ", ".join(path.name for path in self.leftovers()):
            self.messages.append(f"{names}: of a save that was cut short, not loaded")
        for step in reversed(self.steps()):
            try:
                manifest.verify(self.directory / str(step), step, self._level)
            except Damaged as damage:
                where = self._move_aside(step) if move else "left as it is"
                self.bad.append(f"step {step}: {damage}; not loaded, {where}")
            else:
                self.messages += self.bad
                if move:
                    self.clear()
                return step
        aside = self.set_aside()
        if not self.bad and not aside:
            return -1
        if fresh:
            self.messages += [*self.bad, f"{self.directory}: no good step, starting from scratch"]
            return -1
        lines = self.bad or [f"bad/{path.name}: set aside at an earlier start" for path in aside]
        anew = (
            ", choose a new --workdir, or start from scratch in this one with "
            "--config.run.allow_fresh_start=True"
        )
        raise CheckpointError(
            f"none of the checkpoints in {self.directory} can be trusted:\n  "
            + "\n  ".join(lines)
            + f"\nNothing was deleted. Restore one from a copy{anew if move else ''}."
        )

    def make_room(self, step: int, expected_bytes: int) -> int:
        """Clears leftovers and warns of a full disk; 0 if a good step makes the save needless."""
        final = self.directory / str(step)
        if final.exists():
            try:
                manifest.verify(final, step, self._level)
            except Damaged as damage:
                self.messages.append(f"step {step}: {damage}; {self._move_aside(step)}, saved anew")
            else:
                return 0
        self.directory.mkdir(parents=True, exist_ok=True)
        self.clear()
        self.check_space(expected_bytes)
        return 1

    def check_space(self, expected_bytes: int) -> None:
        """Leaves a message if the disk has less than 1.5 times the size of a step."""
        free = _free_bytes(self.directory)
        if free < 1.5 * expected_bytes:
            self.messages.append(
                f"{self.directory}: {free / 1e9:.2f} GB are free, a checkpoint needs "
                f"{expected_bytes / 1e9:.2f} GB; make room, or the next save may fail"
            )

    def temporary(self, step: int, number: int) -> pathlib.Path:
        """Where a step is filled at the try of this number."""
        return self.directory / (f"{step}-{number}{_SAVING}" if number else f"{step}{_SAVING}")

    def begin(self, step: int) -> int:
        """Makes a temporary directory that was not there before; the number of the try."""
        while True:
            number = self._tries[step]
            self._tries[step] += 1
            with contextlib.suppress(FileExistsError):
                self.temporary(step, number).mkdir()
                return number

    def commit(self, step: int, temporary: pathlib.Path, body: dict[str, Any]) -> None:
        """Closes a directory and gives it its name. May be called again when it failed."""
        fault_point("save.before_manifest")
        if temporary.exists():
            manifest.write(temporary, body)
            fault_point("save.before_rename")
            temporary.rename(self.directory / str(step))
        fault_point("save.after_rename")
        sync_directory(self.directory)

    def clear(self, keep: pathlib.Path | None = None) -> None:
        """Removes what is left of saves and deletions that were cut short, as far as possible."""
        for leftover in self.leftovers():
            if leftover != keep:
                try:
                    shutil.rmtree(leftover)
                except OSError as error:  # whoever failed to write there may still try
                    self.messages.append(f"{leftover} could not be removed ({in_brief(error)})")

    def recover(self, step: int, error: Exception, keep: pathlib.Path | None) -> None:
        """What is done between two tries of a save: if there was no space, some is freed.

        Args:
          step: that is saved.
          error: of the first try.
          keep: a directory that the second try needs.
        """
        self.clear(keep)
        freed = self._free_oldest(step) if is_full(error) else ""
        self.messages.append(
            f"step {step} could not be saved ({in_brief(error)}){freed}; once more"
        )

    def drop_old(self, newest: int) -> None:
        """Deletes what the keep rule does not name, after verifying the newest.

        Damaged steps neither count for the keep rule nor are deleted.

        Raises:
          CheckpointError: the newest reads back wrong.
        """
        steps = self.steps()
        try:
            steps.remove(newest)
            manifest.verify(self.directory / str(newest), newest, self._level)
        except (Damaged, ValueError) as damage:
            raise CheckpointError(
                f"step {newest} was saved but reads back wrong: {damage}. The disk in "
                f"{self.directory} cannot be trusted. No older step was deleted."
            ) from damage
        good = 1
        for step in reversed(steps):
            # To count it is enough that the files are there; to delete they must be sound.
            kept = good < self._keep_last or self._stays(step)
            try:
                manifest.verify(self.directory / str(step), step, "length" if kept else self._level)
            except Damaged as damage:
                self.messages.append(f"step {step}: {damage}; left as it is")
                continue
            good += 1
            if not kept:
                self._delete(step)

    def _stays(self, step: int) -> bool:
        return self._keep_every_steps is not None and step % self._keep_every_steps == 0

    def _delete(self, step: int) -> bool:
        """Whether it worked; if not, there is a message."""
        doomed = self.directory / f"{step}{_DELETING}"
        try:
            (self.directory / str(step)).rename(doomed)
            fault_point("save.deleting")
            shutil.rmtree(doomed)
        except OSError as error:
            self.messages.append(f"step {step} could not be deleted ({in_brief(error)})")
            return False
        return True

    def _free_oldest(self, saving: int) -> str:
        """Deletes the oldest good step that neither is the newest good one nor stays for ever."""
        good = []
        for step in self.steps():
            try:
                manifest.verify(self.directory / str(step), step, self._level)
            except Damaged:
                continue
            good.append(step)
        for step in good[:-1]:
            if step != saving and not self._stays(step):
                return f"; step {step} was deleted to make room" if self._delete(step) else ""
        return "; there is no older step that could be deleted"

    def _move_aside(self, step: int) -> str:
        """Moves a damaged step to `bad/`; says where it is now."""
        aside = _unused(self.directory / "bad" / str(step))
        try:
            aside.parent.mkdir(exist_ok=True)
            (self.directory / str(step)).rename(aside)
            sync_directory(self.directory)
        except OSError as error:
            return f"could not be moved to bad/ ({error.strerror}), left as it is"
        return f"moved to bad/{aside.name}"


def is_full(error: BaseException) -> bool:
    """Whether it is the error of a full disk."""
    return _number(error) in _FULL


def in_brief(error: BaseException) -> str:
    """What the system calls an error, and of which file; else its first line."""
    number = _number(error)
    if number is None:
        return str(error).splitlines()[0][:300] if str(error) else repr(error)
    name = getattr(error, "filename", None) or re.search(_TENSORSTORE_FILE, str(error))
    where = "" if name is None else f": {name if isinstance(name, str) else name[1]}"
    return os.strerror(number) + where


def _number(error: BaseException) -> int | None:
    """The number of the system's error; TensorStore has it in its words only."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(_TENSORSTORE_NUMBER, str(error))
    return int(found[1]) if found else None


def free_space(directory: pathlib.Path) -> str:
    """For instance "12.3 GB are free"."""
    return f"{_free_bytes(directory) / 1e9:.1f} GB are free"


def _free_bytes(directory: pathlib.Path) -> int:
    while not directory.exists():
        directory = directory.parent
    return shutil.disk_usage(directory).free


def _is_ours(path: pathlib.Path) -> bool:
    """Whether there is nothing in it but what a save of ours puts there."""
    if path.is_symlink() or not path.is_dir():
        return False
    return all(_OURS.fullmatch(entry.name) for entry in path.iterdir())


def _unused(path: pathlib.Path) -> pathlib.Path:
    names = (path.with_name(f"{path.name}-{i}") if i else path for i in itertools.count())
    return next(name for name in names if not name.exists())
