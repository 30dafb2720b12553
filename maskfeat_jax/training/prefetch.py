"""Batches from the loader to the devices, fetched by a thread ahead of their use."""

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
    """Iterates over batches in a thread and starts their transfer to the devices ahead of use."""

    def __init__(self, batches: Generator[Batch], place: Callable[[Batch], Any], ahead: int = 2):
        """Starts fetching.

        Args:
          batches: closed when this is.
          place: starts the transfer of a batch to the devices.
          ahead: batches whose transfer is started before they are needed.
        """
        self._batches, self._place, self._ahead = batches, place, ahead
        self._fetched: queue.Queue[Batch] = queue.Queue(1)
        self._placed: collections.deque[Any] = collections.deque()
        self._failure: BaseException | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._fetch, daemon=True, name="prefetch")
        self._thread.start()

    def __next__(self) -> Any:
        """The next batch; raises what the iterator raised, after the batches before it."""
        return self.next()

    def next(self, leave: Callable[[], bool] = lambda: False) -> Any:
        """The next batch; None if `leave` becomes true while it is waited for.

        Raises:
          BaseException: what the iterator raised, after the batches before it; StopIteration at
            its end.
        """
        while len(self._placed) <= self._ahead and not self._fetched.empty():
            self._placed.append(self._place(self._fetched.get()))
        while not self._placed:
            try:
                self._placed.append(self._place(self._fetched.get(timeout=_POLL_SECONDS)))
            except queue.Empty:
                if self._failure is not None and self._fetched.empty():
                    raise self._failure from None
                if leave():
                    return None
        return self._placed.popleft()

    def peek(self) -> Any:
        """The next batch, which stays the next; raises what `next` raises."""
        batch = self.next()
        self._placed.appendleft(batch)
        return batch

    def close(self) -> None:
        """Ends the thread and closes the iterator; a loader that never returns is left behind."""
        self._over.set()
        self._thread.join(_END_SECONDS)
        if not self._thread.is_alive():
            self._batches.close()

    def _fetch(self) -> None:
        try:
            fault_point("data.first")
            for batch in self._batches:
                while not self._handed_over(batch):
                    if self._over.is_set():
                        return
                fault_point("data.wait")
            self._failure = StopIteration()
        except BaseException as error:  # it belongs to whoever calls `next`
            self._failure = error

    def _handed_over(self, batch: Batch) -> bool:
        try:
            self._fetched.put(batch, timeout=_POLL_SECONDS)
        except queue.Full:
            return False
        return True
