"""Saving and restoring the state of a run.

A step is a directory `checkpoints/<step>/` with `arrays/`, written by Orbax, and our
`manifest.json`. Orbax stores no content checksums, does not fall back from a damaged step, and
casts to another dtype silently; the manifest is for these three: it contains the step, the caller's
facts, shape and dtype of each array, length and SHA-256 of each file. `storage` manages the
directories.

Saving is asynchronous: `save` returns when the state is copied, and its errors are raised by the
next `save`, `finish`, `latest_good` or `restore`. With several processes all of them call these in
the same order from their main threads; in the background process 0 only works on files, and Orbax
reports when the others have written their arrays.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from maskfeat_jax.checkpoints import arrays as stored_arrays
from maskfeat_jax.checkpoints import manifest
from maskfeat_jax.checkpoints.arrays import STORAGE_ERRORS
from maskfeat_jax.checkpoints.storage import ARRAYS, CheckpointError, Storage, error_text
from maskfeat_jax.checkpoints.trees import (
    Name,
    describe,
    differences,
    empty,
    named_leaves,
    nest,
    of_each_block,
)
from maskfeat_jax.distributed.collectives import on_first_process
from maskfeat_jax.distributed.start import is_lost_process
from maskfeat_jax.faults import fault_point
from maskfeat_jax.models.layers import stack_blocks, unstack_blocks

__all__ = ["CheckpointError", "Checkpoints"]

_RUNNING, _DONE, _FAILED = 0, 1, 2  # states of a save that processes exchange

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class PendingSave:
    """A save in flight."""

    step: int
    size: int  # of its arrays in memory, bytes
    work: concurrent.futures.Future[float]  # of this process; returns the seconds since `save`

    def wait(self) -> list[int]:
        """Waits for all processes, which all call it; returns the indices of those that failed.

        Returns as soon as one has failed: the work of others may wait for it forever.
        """
        while True:
            # Short waits: a collective must not wait long for one process.
            done, _ = concurrent.futures.wait([self.work], timeout=0.2)
            state = (_FAILED if self.work.exception() else _DONE) if done else _RUNNING
            states = np.ravel(multihost_utils.process_allgather(np.int32(state)))
            if _FAILED in states or _RUNNING not in states:
                return [int(i) for i in np.flatnonzero(states == _FAILED)]


class Checkpoints:
    """The saved steps of one run.

    Attributes:
      blocked_s: seconds that the last call of `save` took.
      waited_s: of these, seconds of waiting for the previous save.
      written_s: seconds that the last finished save took from its call to its last file.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep_last: int = 3,
        verify: str = "auto",
        allow_fresh_start: bool = False,
        pause_s: float = 5.0,
    ):
        """Opens a directory of steps; it is made at the first save.

        Args:
          directory: `<workdir>/checkpoints`, which all processes share.
          keep_last: how many of the newest good steps are kept.
          verify: what is compared with the manifest before a step is used; of `manifest.LEVELS`.
          allow_fresh_start: `latest_good` returns None also if all steps are damaged.
          pause_s: seconds between the two attempts of a save.

        Raises:
          ValueError: `keep_last` is not positive, or `verify` is unknown.
        """
        if keep_last < 1:
            raise ValueError(f"keep_last {keep_last}: expected at least 1")
        if verify not in manifest.LEVELS:
            raise ValueError(f"verify {verify!r}: expected one of {', '.join(manifest.LEVELS)}")
        directory = pathlib.Path(directory).absolute()
        self._storage = Storage(directory, keep_last=keep_last, level=verify)
        self._level = verify
        self._allow_fresh_start = allow_fresh_start
        self._pause_s = pause_s
        self._pending: PendingSave | None = None
        self._just_verified: int | None = None
        self.blocked_s = self.waited_s = self.written_s = 0.0

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Waits for the pending save; after an error only for the work of this process."""
        if error is None:
            self.finish()
        elif is_lost_process(error):
            return  # the save waits for that process, until JAX's heartbeat time-out
        elif self._pending is not None and (failure := self._pending.work.exception()):
            error.add_note(f"step {self._pending.step} could not be saved: {error_text(failure)}")

    def messages(self) -> list[str]:
        """Messages since the last call: damaged steps, failed attempts, too little space."""
        taken = list(self._storage.messages)
        del self._storage.messages[: len(taken)]  # the thread of a save may have added more
        return taken

    def steps(self) -> list[int]:
        """Every numbered step, ascending, good or not."""
        return self._storage.steps()

    def check_space(self, state: PyTree) -> None:
        """Adds a message if the disk is too small for a save of such a state (process 0)."""
        if jax.process_index() == 0:
            self._storage.check_space(_bytes(named_leaves(state)))

    def save(self, step: int, state: PyTree, facts: Mapping[str, Any]) -> None:
        """Starts to save a state and returns when it is copied; all processes call it.

        Waits for the previous save first. A good step of this number, complete or being written, is
        kept; a damaged one is moved to `bad/`. When the new step is complete, good steps other than
        the newest `keep_last` are deleted. Failed storage operations are repeated once, after
        deleting the oldest good step (never the newest) if the disk is full. (With several
        processes, arrays that cannot be written are an error at once.)

        Args:
          step: number of updates made.
          state: any tree of arrays, sharded or not; they may be donated when this has returned.
          facts: about the step, JSON-serialisable.

        Raises:
          CheckpointError: storage failed, now or in the previous save. Older steps are untouched.
          ValueError: the state or the facts cannot be stored.
        """
        begun = time.perf_counter()
        if step < 0:
            raise ValueError(f"step {step} is negative")
        leaves = named_leaves(state)
        size = _bytes(leaves)
        body = {
            "step": int(step),
            "facts": dict(facts),
            "leaves": {"/".join(name): describe(leaf) for name, leaf in leaves.items()},
        }
        manifest.render(body)  # raises for invalid facts before anything is written
        before, asked = self._pending, time.perf_counter()
        if before is not None and before.step == step:
            return
        self.finish()
        self.waited_s = time.perf_counter() - asked
        if before is not None and self.waited_s > 1:
            self._storage.messages.append(
                f"step {step} waited {self.waited_s:.0f} s for the save of step {before.step}: the "
                f"disk writes {before.size / 1e6 / self.written_s:.1f} MB/s; save less often "
                "(run.checkpoint_every_epochs) or on a faster disk"
            )
        make_room = functools.partial(self._storage.make_room, step, size)
        try:
            fault_point("save.begin")
            if on_first_process(lambda: self._twice(step, make_room)):
                work = self._work(step, leaves, body)

                def timed() -> float:
                    work()
                    return time.perf_counter() - begun

                # A new thread: that of a save that failed in another process may wait forever.
                thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
                self._pending = PendingSave(step, size, thread.submit(timed))
        except STORAGE_ERRORS as error:
            raise self._failure(step, error) from error
        self.blocked_s = time.perf_counter() - begun

    def finish(self) -> None:
        """Waits for the last save; all call it; CheckpointError if it failed in any process."""
        if (pending := self._pending) is None:
            return
        failed = pending.wait()
        self._pending = None  # a save that failed is not remembered as done
        if not failed:
            self.written_s = pending.work.result()
            return
        error = pending.work.exception() if pending.work.done() else None
        if isinstance(error, CheckpointError):
            raise error
        if error is None:
            raise CheckpointError(
                f"step {pending.step} could not be saved in {self._storage.directory}: process "
                f"{', '.join(map(str, failed))} failed; see its message"
            )
        raise self._failure(pending.step, error) from error

    def latest_good(self) -> int | None:
        """The newest step whose files all match their manifest; None if nothing was saved yet.

        Newer, damaged ones are moved to `bad/`, with a message for each. Leftovers of interrupted
        saves are removed.

        Raises:
          CheckpointError: there are steps, but no good one. See `allow_fresh_start`.
        """
        self.finish()

        def find() -> int:
            try:
                return self._storage.newest_good(fresh=self._allow_fresh_start) + 1
            except OSError as error:
                raise CheckpointError(f"{self._storage.directory}: {error}") from error

        found = on_first_process(find)
        self._just_verified = found - 1 if found else None
        return self._just_verified

    def restore(self, step: int, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """Restores a saved state, after verifying it, unless `latest_good` has just done so.

        Blocks are stacked or unstacked as in `like`, on the host.

        Args:
          step: a saved step.
          like: the same tree of arrays or `jax.ShapeDtypeStruct`s, with the `sharding` of the
            result (None: the first device), on any number of devices.

        Returns:
          The state, and the facts given to `save`.

        Raises:
          CheckpointError: the step is missing or damaged, or a name, shape or dtype differs
            between it and `like`; each one is named.
        """
        self.finish()
        directory = self._storage.directory / str(step)
        level = "length" if step == self._just_verified else self._level
        self._just_verified = None
        body = verified(directory, step, level)
        expected = named_leaves(like)
        described = {"/".join(name): describe(leaf) for name, leaf in expected.items()}
        stored = body["leaves"]
        if lines := differences(of_each_block(stored), of_each_block(described)):
            raise CheckpointError(
                f"{directory} does not fit the state to restore:\n  "
                + "\n  ".join(lines)
                + "\nWas it saved with another model, optimiser or precision?"
            )
        for name, leaf in expected.items():
            if isinstance(leaf, np.ndarray):  # is also restored to a device
                expected[name] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        if stored.keys() == described.keys():
            leaves = read(directory, expected, partial=False)
        else:
            leaves = _restacked(read(directory, empty(stored), partial=False), expected)
        return jax.tree.unflatten(jax.tree.structure(like), leaves.values()), body["facts"]

    def _work(
        self, step: int, leaves: Mapping[Name, Any], body: dict[str, Any]
    ) -> Callable[[], None]:
        """Copies the arrays and returns the work for the background."""
        storage, arrays = self._storage, stored_arrays.copied(leaves)

        def begin() -> int:
            number = storage.begin(step)
            fault_point("save.before_data")
            return number

        def fill() -> pathlib.Path:
            temporary = storage.temporary(step, begin())
            stored_arrays.write(arrays, temporary / ARRAYS)
            return temporary

        if jax.process_count() == 1:
            return lambda: self._publish(step, self._twice(step, fill), body)
        shared = storage.temporary(step, on_first_process(lambda: self._twice(step, begin)))
        wait = stored_arrays.start_writing(arrays, shared / ARRAYS)

        def wait_and_publish() -> None:
            wait()
            if jax.process_index() == 0:
                self._publish(step, shared, body)

        return wait_and_publish

    def _publish(self, step: int, temporary: pathlib.Path, body: dict[str, Any]) -> None:
        """Completes a filled directory, then deletes old steps."""
        self._twice(step, lambda: self._storage.commit(step, temporary, body), keep=temporary)
        self._storage.drop_old(step)
        fault_point("save.end")

    def _twice(self, step: int, action: Callable[[], T], keep: pathlib.Path | None = None) -> T:
        try:
            return action()
        except STORAGE_ERRORS as error:
            self._storage.recover(step, error, keep)
            time.sleep(self._pause_s)
        return action()

    def _failure(self, step: int, error: BaseException) -> CheckpointError:
        if jax.process_count() == 1:  # else others may still be writing there
            self._storage.clear()  # frees space
        return CheckpointError(
            f"step {step} could not be saved in {self._storage.directory}: {error_text(error)}\n"
            "The good steps before it are kept. "
            f"{self._storage.free_bytes() / 1e9:.1f} GB are free; make room "
            "or correct the permissions, then run the same command again."
        )


def verified(directory: pathlib.Path, step: int | None, level: str) -> dict[str, Any]:
    """Verifies a step on process 0 and returns the manifest's body in all; all call it.

    Raises:
      CheckpointError: the step is damaged.
    """

    def verify(level: str) -> dict[str, Any]:
        try:
            return manifest.verify(directory, step, level)
        except manifest.Damaged as damage:
            raise CheckpointError(
                f"{directory} cannot be loaded: {damage}. Use another step, or a copy of this one."
            ) from damage

    on_first_process(lambda: int(not verify(level)))
    return verify("length")


def read(
    directory: pathlib.Path, expected: Mapping[Name, Any], *, partial: bool
) -> dict[Name, Any]:
    """Reads arrays of a verified step, see `arrays.read`; CheckpointError if it fails."""
    try:
        return stored_arrays.read(directory / ARRAYS, expected, partial=partial)
    except STORAGE_ERRORS as error:
        raise CheckpointError(f"{directory} cannot be loaded: {error_text(error)}") from error


def _restacked(leaves: Mapping[Name, Any], expected: Mapping[Name, Any]) -> dict[Name, Any]:
    """Arrays of the host on the devices, with blocks stacked or unstacked as expected."""
    found = named_leaves(stack_blocks(unstack_blocks(nest(leaves)), nest(expected)))
    return {name: jax.device_put(found[name], leaf.sharding) for name, leaf in expected.items()}


def _bytes(leaves: Mapping[Name, Any]) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves.values())
