"""Event files for TensorBoard, written in the calling thread. Only this file knows tensorboardX.

Its own `SummaryWriter` writes from a thread that dies when the disk is full; the queue before it
then fills, and the training would wait for ever.
"""

from __future__ import annotations

import pathlib
import time
from collections.abc import Mapping


class TensorBoard:
    """Writes scalars and images of one run into a new event file."""

    def __init__(self, directory: pathlib.Path, resume_step: int = 0):
        """Opens an event file.

        Args:
          directory: TensorBoard's log directory.
          resume_step: what other files of the directory hold after this step is hidden.

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
