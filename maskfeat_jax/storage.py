"""The directory of saved steps: files only, no arrays.

A step is filled as `<step>.saving`, with a mark in it, and gets its name `<step>` when its manifest
is written. So a numbered directory without a valid manifest is damaged: it is moved to
`bad/<step>`, never loaded, never deleted. An old step is renamed to `<step>.deleting` first, so
that what a crash leaves of it does not look like a damaged one. Nothing else is touched.
"""

from __future__ import annotations

import errno
import itertools
import os
import pathlib
import re
import shutil
import time
from typing import Any

from maskfeat_jax import manifest
from maskfeat_jax.manifest import MARK, Damaged
from maskfeat_jax.testing.faults import fault_point
from maskfeat_jax.workdir import sync_directory

ARRAYS = "arrays"  # in a step
_SAVING = ".saving"
_DELETING = ".deleting"
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
        names = re.compile(rf"(0|[1-9][0-9]*)({_SAVING}|{_DELETING})")
        if not self.directory.is_dir():
            return []
        found = (path for path in self.directory.iterdir() if names.fullmatch(path.name))
        return sorted(path for path in found if _is_ours(path))

    def newest_good(self, *, move: bool = True, fresh: bool = False) -> int:
        """The newest step that fits its manifest, -1 if nothing was ever saved.

        Args:
          move: move the damaged ones that are newer to `bad/`.
          fresh: answer -1 also if there are steps, but no good one.

        Raises:
          CheckpointError: there are, or were, steps, but no good one.
        """
        self.bad = []
        if leftovers := self.leftovers():
            names = ", ".join(path.name for path in leftovers)
            self.messages.append(f"{names}: of a save that was cut short; ignored")
        for step in reversed(self.steps()):
            try:
                manifest.verify(self.directory / str(step), step, self._level)
            except Damaged as damage:
                where = self._move_aside(step) if move else "left as it is"
                self.bad.append(f"step {step}: {damage}; not loaded, {where}")
            else:
                self.messages += self.bad
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
        for leftover in self.leftovers():
            _remove(leftover)
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

    def temporary(self, step: int) -> pathlib.Path:
        """Where a step is filled."""
        return self.directory / f"{step}{_SAVING}"

    def begin(self, step: int) -> None:
        """Makes `<step>.saving`, anew if it is there."""
        temporary = self.temporary(step)
        if _is_ours(temporary):
            _remove(temporary)
        temporary.mkdir()
        (temporary / MARK).touch()

    def commit(self, step: int, body: dict[str, Any]) -> None:
        """Closes `<step>.saving` and gives it its name. May be called again when it failed."""
        fault_point("save.before_manifest")
        temporary = self.temporary(step)
        if temporary.exists():
            manifest.write(temporary, body)
            (temporary / MARK).unlink(missing_ok=True)
            fault_point("save.before_rename")
            temporary.rename(self.directory / str(step))
        fault_point("save.after_rename")
        sync_directory(self.directory)

    def abandon(self, step: int) -> None:
        """Removes `<step>.saving`, if possible: what is left of the disk is needed for others."""
        try:
            if _is_ours(self.temporary(step)):
                _remove(self.temporary(step))
        except OSError as error:
            self.messages.append(f"{self.temporary(step)} could not be removed ({error.strerror})")

    def recover(self, step: int, error: Exception, pause_s: float) -> None:
        """What is done between two tries of a save: frees space if there was none, and waits."""
        freed = self._free_oldest(step) if is_full(error) else ""
        self.messages.append(
            f"step {step} could not be saved ({in_brief(error)}){freed}; once more"
        )
        time.sleep(pause_s)

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
            _remove(doomed)
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
    """Whether a save of ours filled it, or was about to."""
    if path.is_symlink() or not path.is_dir():
        return False
    names = {entry.name for entry in path.iterdir()}
    return not names or bool(names & {MARK, manifest.FILE})


def _remove(directory: pathlib.Path) -> None:
    """Deletes a directory; what tells that it is ours goes last, for whoever finishes the work."""
    tells = (MARK, manifest.FILE)
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name not in tells:
            entry.unlink()
    for name in tells:
        (directory / name).unlink(missing_ok=True)
    directory.rmdir()


def _unused(path: pathlib.Path) -> pathlib.Path:
    names = (path.with_name(f"{path.name}-{i}") if i else path for i in itertools.count())
    return next(name for name in names if not name.exists())
