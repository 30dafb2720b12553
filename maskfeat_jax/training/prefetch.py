"""Prefetches batches in a thread and transfers them to the devices."""

from __future__ import annotations

import collections
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

from maskfeat_jax.faults import fault_point

Batch = dict[str, Any]
_POLL_SECONDS = 0.02
_END_SECONDS = 5.0


class Prefetcher(Iterator[Any]):
    """Reads batches in a thread and starts their transfer to the devices before they are needed."""

    def __init__(
        self, batches: Generator[Batch], to_devices: Callable[[Batch], Any], ahead: int = 2
    ):
        """Starts the thread.

        Args:
          batches: closed by `close`.
          to_devices: starts the transfer of a batch to the devices.
          ahead: number of batches to transfer in advance.
        """
        self._batches, self._to_devices, self._ahead = batches, to_devices, ahead
        self._fetched: queue.Queue[Batch] = queue.Queue(1)
        self._on_devices: collections.deque[Any] = collections.deque()
        self._failure: BaseException | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._fetch, daemon=True, name="prefetch")
        self._thread.start()

    def __next__(self) -> Any:
        """The next batch; see `next`."""
        return self.next()

    def next(self, leave: Callable[[], bool] = lambda: False) -> Any:
        """The next batch; None if `leave` returns True while waiting for it.

        Raises:
          BaseException: of the iterator, after all batches before it; StopIteration at its end.
        """
        while len(self._on_devices) <= self._ahead and not self._fetched.empty():
            self._on_devices.append(self._to_devices(self._fetched.get()))
        while not self._on_devices:
            try:
                self._on_devices.append(self._to_devices(self._fetched.get(timeout=_POLL_SECONDS)))
            except queue.Empty:
                if self._failure is not None and self._fetched.empty():
                    raise self._failure from None
                if leave():
                    return None
        return self._on_devices.popleft()

    def peek(self) -> Any:
        """The next batch, without consuming it; raises the same as `next`."""
        batch = self.next()
        self._on_devices.appendleft(batch)
        return batch

    def close(self) -> None:
        """Ends the thread and closes the iterator; abandons a loader that does not return."""
        self._over.set()
        self._thread.join(_END_SECONDS)
        if not self._thread.is_alive():
            self._batches.close()

    def _fetch(self) -> None:
        try:
            fault_point("data.first")
            for batch in self._batches:
                while not self._put(batch):
                    if self._over.is_set():
                        return
                fault_point("data.wait")
            self._failure = StopIteration()
        except BaseException as error:  # `next` raises it in the caller's thread
            self._failure = error

    def _put(self, batch: Batch) -> bool:
        try:
            self._fetched.put(batch, timeout=_POLL_SECONDS)
        except queue.Full:
            return False
        return True
