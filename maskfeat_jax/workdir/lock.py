"""One run in a work directory at a time: a file `lock` that names its process.

Whether that process lives is known on the same host. On another host it refreshes the time of the
file every 20 seconds; a lock without a sign of life for three minutes is taken over. Who finds a
lock of which neither is known waits and looks.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import pathlib
import socket
import sys
import threading
import time
from typing import IO, Any, Literal

Owner = dict[str, Any]
Fate = Literal["we", "alive", "dead", "unknown"]

_BEAT_SECONDS = 20.0
_SILENT_SECONDS = 180.0
_LOOK_SECONDS = 1.0


class InUse(RuntimeError):
    """Another run uses the directory; names its process and host."""


def take(directory: pathlib.Path) -> None:
    """Takes the lock of a directory, until `release` or the end of the process.

    Raises:
      InUse: its owner lives.
      OSError: the file cannot be written.
    """
    lock = directory / "lock"
    last_beat = None
    while True:
        with _opened(lock) as (file, is_new):
            owner, beat = _read(file), os.fstat(file.fileno()).st_mtime
            fate: Fate = "dead" if is_new else _fate(owner)
            age = 0.0 if fate != "unknown" else _now(directory) - beat
            if fate in ("we", "dead") or age > _SILENT_SECONDS:
                _write(lock, file, is_new)
                break
        who = f"process {owner['pid']} on {owner['host']}" if owner else "another process"
        if fate == "alive" or (last_beat is not None and beat != last_beat):
            raise InUse(
                f"{directory} is in use by {who}; stop that run first. "
                f"If you are sure that it is dead, delete {lock}"
            )
        if last_beat is None:
            words = f"{directory} was in use by {who} {max(0.0, age):.0f} s ago"
            wait = max(0.0, _SILENT_SECONDS - age)
            print(f"{words}; waiting up to {wait:.0f} s whether it lives", file=sys.stderr)
        last_beat = beat
        time.sleep(_LOOK_SECONDS)
    atexit.register(release, directory)
    threading.Thread(target=_beat, args=(lock,), daemon=True, name="run-lock").start()


def release(directory: pathlib.Path) -> None:
    """Gives the lock back, if this process has it; from any thread, and never an error."""
    lock = directory / "lock"
    with contextlib.suppress(OSError), open(lock, encoding="utf-8") as file:
        if _fate(_read(file)) == "we":
            lock.unlink(missing_ok=True)


@contextlib.contextmanager
def _opened(lock: pathlib.Path) -> Any:
    """The lock's file and whether it was made now; nobody else has it open here meanwhile.

    On a file system that cannot lock files two starts within the same milliseconds are not seen.
    """
    while True:
        is_new = True
        try:
            number = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            is_new = False
            try:
                number = os.open(lock, os.O_RDWR)
            except FileNotFoundError:
                continue
        with open(number, "r+", encoding="utf-8") as file:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            try:
                same = os.path.samestat(os.fstat(file.fileno()), lock.stat())
            except FileNotFoundError:
                same = False
            if same:  # else released, and perhaps made anew, before we had it
                yield file, is_new
                return


def _write(lock: pathlib.Path, file: IO[str], is_new: bool) -> None:
    try:
        file.seek(0)
        file.truncate()
        file.write(json.dumps({**_me(), "time": time.time()}, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    except OSError:
        if is_new:
            lock.unlink(missing_ok=True)
        raise


def _read(file: IO[str]) -> Owner | None:
    """The process that wrote the lock; None if it is unreadable."""
    try:
        file.seek(0)
        owner = json.load(file)
    except ValueError:
        return None
    well_formed = isinstance(owner, dict) and isinstance(owner.get("pid"), int) and "host" in owner
    return owner if well_formed else None


def _me() -> Owner:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "machine": _text("/etc/machine-id"),
        "namespace": _namespace(),
    }


def _fate(owner: Owner | None) -> Fate:
    """What is known of the process that wrote a lock."""
    me = _me()
    if owner is None:
        return "unknown"

    def differ(*names: str) -> bool:
        return any(owner.get(name, me[name]) != me[name] for name in names)

    if not differ(*me):
        return "we"
    if differ("host", "machine", "namespace"):
        return "unknown"  # two machines may have the same name
    if differ("boot"):
        return "dead" if me["machine"] else "unknown"
    started = _started(owner["pid"])
    reused = bool(started) and owner.get("started", started) != started
    return "alive" if _is_alive(owner["pid"]) and not reused else "dead"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # of another user
    return True


def _started(pid: int) -> str:
    """When a process was started, in ticks since the boot; empty where that is not known."""
    words = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return words[19] if len(words) > 19 else ""


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _text(path: str) -> str:
    try:
        return pathlib.Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _now(directory: pathlib.Path) -> float:
    """The time of the file system: the clocks of two hosts may differ."""
    probe = directory / f".lock.{os.getpid()}.tmp"
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _beat(lock: pathlib.Path) -> None:
    """Refreshes the lock's time until it is no longer ours, so that other hosts see us alive."""
    while True:
        time.sleep(_BEAT_SECONDS)
        try:
            with open(lock, encoding="utf-8") as file:
                ours = _fate(_read(file)) == "we"
            if not ours:
                return
            os.utime(lock)
        except FileNotFoundError:
            return
        except OSError:
            continue  # a disk that is full or away for a while; others may come to think us dead
