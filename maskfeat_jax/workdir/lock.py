"""Locks a work directory for one run: `flock` on its file `lock`, which names the process.

The kernel releases the lock when the process ends in any way; the file stays. On NFS the server
does, so that runs on other hosts are detected too.
"""

from __future__ import annotations

import fcntl
import os
import pathlib
import socket
import sys

_held: dict[pathlib.Path, int] = {}  # descriptors: a lock lives as long as its open file


class InUse(RuntimeError):
    """Another run uses the directory; names its process and host."""


def take(directory: pathlib.Path) -> None:
    """Takes the lock of a directory, until `release` or the end of the process.

    Does nothing if this process has it. On a file system without locks it warns and locks nothing.

    Raises:
      InUse: another process has it.
      OSError: the file cannot be written.
    """
    if directory in _held:
        return
    lock = directory / "lock"
    file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(file, 1000).decode(errors="replace").strip() or "another process"
        os.close(file)
        raise InUse(f"{directory} is in use by {owner}; stop that run first") from None
    except OSError as error:
        print(
            f"warning: {lock} cannot be locked ({error.strerror}): make sure that no other run "
            f"uses {directory}",
            file=sys.stderr,
        )
    _held[directory] = file
    os.ftruncate(file, 0)
    os.write(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode())


def release(directory: pathlib.Path) -> None:
    """Releases the lock, if this process has it; from any thread."""
    file = _held.pop(directory, None)
    if file is not None:
        os.close(file)
