"""Paths, terminals, and atomic writes: readers see the old file or the complete new one."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator

from input_pipeline.paths import local_path
from input_pipeline.texts import escape_unprintable

__all__ = ["escape_unprintable", "local_path", "replacing", "sync_directory", "write_atomically"]


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file such that after a crash it has the old content or the new one.

    A text is written as UTF-8, and names of files in it as the bytes that they are.

    Raises:
      OSError: the file cannot be written; the old content is kept.
    """
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary file to write, which replaces `path` if the block ends without an exception.

    Raises:
      OSError: `path` cannot be replaced.
    """
    temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: pathlib.Path) -> None:
    """Flushes a directory to disk, so that renames in it survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
