"""Output of a report other than its own files: console and TensorBoard."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

import tqdm

_BAR = "{percentage:3.0f} %|{bar}| {n_fmt}/{total_fmt}{postfix}"


@runtime_checkable
class Stream(Protocol):
    """A text stream."""

    def write(self, text: str, /) -> int:
        """Writes."""

    def flush(self) -> None:
        """Empties the buffer."""

    def isatty(self) -> bool:
        """Whether it is a terminal."""


class Console:
    """Prints to a stream: with a progress bar on a terminal, nothing once it is closed."""

    def __init__(self, stream: Stream | None):
        """Has no bar yet; with None nothing is printed."""
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
        """Moves the bar, or prints the line if there is no bar."""
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
    """Redirects standard output to /dev/null, so that later prints do not fail."""
    if sys.stdout is not None and not sys.stdout.closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class TensorBoard:
    """Writes scalars and images of one run into a new event file, in the calling thread.

    tensorboardX's own `SummaryWriter` writes from a thread that dies when the disk is full; its
    queue then fills, and training would block.
    """

    def __init__(self, directory: pathlib.Path, resume_step: int = 0):
        """Opens an event file.

        Args:
          directory: TensorBoard's log directory.
          resume_step: TensorBoard hides entries of older files after this step.

        Raises:
          ModuleNotFoundError: tensorboardX is not installed.
          OSError: the file cannot be written.
        """
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2, summary_pb2

        self._summary = summary
        self._proto = summary_pb2
        self._event = event_pb2.Event
        self._file = event_file_writer.EventsWriter(str(directory / "events"))
        if resume_step:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(step=resume_step + 1, session_log=start)
            self._file.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds named values of a step; raises OSError if the disk is full."""
        for name, value in values.items():
            self._write(step=step, summary=self._summary.scalar(name, value))
        self._file.flush()

    def image(self, step: int, name: str, encoded: bytes, height: int, width: int) -> None:
        """Adds a picture, the content of a PNG or GIF file; raises OSError if the disk is full."""
        image = self._proto.Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=encoded
        )
        value = self._proto.Summary.Value(tag=name, image=image)
        self._write(step=step, summary=self._proto.Summary(value=[value]))
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, *, step: int, **content: object) -> None:
        self._file.write_event(self._event(wall_time=time.time(), step=step, **content))
