"""A stream for people: a bar at the bottom if it is a terminal, silence once it is closed."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import tqdm

_BAR = "{percentage:3.0f} %|{bar}| {n_fmt}/{total_fmt}{postfix}"


@runtime_checkable
class Stream(Protocol):
    """Where text for people goes."""

    def write(self, text: str, /) -> int:
        """Writes."""

    def flush(self) -> None:
        """Empties the buffer."""

    def isatty(self) -> bool:
        """Whether it is a terminal."""


class Console:
    """A stream for people: a bar at the bottom if it is a terminal, silence once it is closed."""

    def __init__(self, stream: Stream | None):
        """No bar yet; None is silence."""
        self._stream: Stream | None = stream
        self._bar: tqdm.tqdm | None = None

    def open_bar(self, total: int, initial: int) -> None:
        """Draws the bar, on a terminal."""
        with self._closing_on_failure():
            if self._stream is not None and self._stream.isatty():
                self._bar = tqdm.tqdm(
                    total=total,
                    initial=initial,
                    file=self._stream,
                    bar_format=_BAR,
                    dynamic_ncols=True,
                )

    def progress(self, line: str, step: int, postfix: str) -> None:
        """Moves the bar, or prints the line where there is none."""
        if self._bar is None:
            self.line(line)
            return
        with self._closing_on_failure():
            self._bar.set_postfix_str(postfix, refresh=False)
            self._bar.n = step
            self._bar.refresh()

    def line(self, text: str) -> None:
        """Prints a line, above the bar."""
        with self._closing_on_failure():
            if self._stream is None:
                return
            encoding = getattr(self._stream, "encoding", None) or "utf-8"
            text = text.encode(encoding, "backslashreplace").decode(encoding)
            if self._bar is not None:
                self._bar.write(text, file=self._stream)
            else:
                self._stream.write(text + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Ends the bar."""
        with self._closing_on_failure():
            if self._bar is not None:
                self._bar.close()
        self._bar = None

    @contextlib.contextmanager
    def _closing_on_failure(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):  # ValueError: the stream object itself was closed
            if self._stream is sys.stdout:
                _discard_stdout()
            self._stream = self._bar = None


def _discard_stdout() -> None:
    """Sends what the rest of the program still prints to nowhere, so that it does not fail."""
    if sys.stdout is not None and not sys.stdout.closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
