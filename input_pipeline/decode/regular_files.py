"""Opens regular files only: reading a pipe or a device could block or never end."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from input_pipeline.bad_inputs import BadMedia

MAX_BYTES = 1 << 29  # of files that are read as a whole: images, whose pixels are limited as well


@contextlib.contextmanager
def open_regular(path: str) -> Iterator[tuple[int, int]]:
    """Opens a file: its descriptor for reading, and its size in bytes.

    Raises:
      BadMedia: a pipe, a device, a socket or a folder.
      OSError: it cannot be opened.
    """
    # Without O_NONBLOCK, opening a pipe would block until there is a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadMedia("not_media", f"{stat.filemode(status.st_mode)}: not a regular file")
        yield descriptor, status.st_size
    finally:
        os.close(descriptor)


def read_regular(path: str, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a file.

    Raises:
      BadMedia: not a regular file, or larger than `max_bytes`.
      OSError: it cannot be read.
    """
    with open_regular(path) as (descriptor, num_bytes):
        if num_bytes > max_bytes:
            raise BadMedia("too_large", f"{num_bytes} bytes, the limit is {max_bytes}")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(max_bytes + 1)[:max_bytes]
