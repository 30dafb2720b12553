"""Keeps lines of libraries off the terminal."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Holds back what C code writes to standard error; it is shown if the block raises.

    What Python writes to `sys.stderr` is shown at once, and so are the stacks of a process that
    crashes.
    """
    try:
        terminal = os.dup(2)
    except OSError:  # the process has no standard error
        yield
        return
    with (
        tempfile.TemporaryFile() as held,
        open(terminal, "w", buffering=1) as shown,
        _python_writes_to(shown),
    ):
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            shown.buffer.write(held.read())
            raise
        finally:
            os.dup2(terminal, 2)


@contextlib.contextmanager
def _python_writes_to(shown: io.TextIOWrapper) -> Iterator[None]:
    """Replaces `sys.stderr` where that is file descriptor 2, and tells `faulthandler`."""
    before, crashes = sys.stderr, faulthandler.is_enabled()
    try:
        is_terminal = before.fileno() == 2
    except (AttributeError, OSError):  # None, or a notebook's or test's own
        is_terminal = False
    if not is_terminal:
        yield
        return
    before.flush()
    sys.stderr = shown
    try:
        if crashes:
            faulthandler.enable()
        yield
    finally:
        sys.stderr = before
        if crashes:
            faulthandler.enable()
