"""Event files for TensorBoard, written in the calling thread. Only this file knows tensorboardX.

Its own `SummaryWriter` writes from a thread that dies when the disk is full; the queue before it
then fills, and the training would wait for ever.
"""

from __future__ import annotations

import pathlib
import time
from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8


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
        from tensorboardX.proto import event_pb2

        self._summary = summary
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

    def image(self, step: int, name: str, image: UInt8[np.ndarray, "height width 3"]) -> None:
        """Adds a picture; raises OSError if the disk is full."""
        encoded = self._summary.image(name, image, dataformats="HWC")
        self._write(step=step, summary=encoded)
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, *, step: int, **content: object) -> None:
        self._file.write_event(self._event(wall_time=time.time(), step=step, **content))
