"""Saving and restoring the state of a run.

A step is a directory `checkpoints/<step>/`: `arrays/`, written by Orbax, and `manifest.json`, ours.
Orbax stores no content checksums, does not fall back from a damaged step, and casts to another
dtype without a word; the manifest is there for these three. It holds the format version, the step,
the caller's facts, shape and dtype of each array, and length and SHA-256 of each file; its own
SHA-256 closes it. `storage` says what is done with the directories.

Saving goes on in the background: `save` returns when the state is copied, and what went wrong is
raised by the next `save`, `finish`, `latest_good` or `restore`. With several processes all of them
call these in the same order from their main threads; in the background process 0 works on files
only, and knows from Orbax when the others have written their arrays.
"""

from __future__ import annotations

import functools
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import PyTree

from maskfeat_jax.checkpoints import arrays as stored_arrays
from maskfeat_jax.checkpoints import manifest
from maskfeat_jax.checkpoints.arrays import STORAGE_ERRORS
from maskfeat_jax.checkpoints.pretrained import Weights, load_params, read, verified
from maskfeat_jax.checkpoints.saving import Writing
from maskfeat_jax.checkpoints.storage import ARRAYS, CheckpointError, Storage, free_space, in_brief
from maskfeat_jax.checkpoints.trees import Name, describe, differences, named_leaves
from maskfeat_jax.distributed.collectives import on_first_process
from maskfeat_jax.faults import fault_point

__all__ = ["CheckpointError", "Checkpoints", "Weights", "load_params"]

T = TypeVar("T")


class Checkpoints:
    """The saved steps of one run.

    Attributes:
      bad: what `latest_good` found damaged on its last call, one sentence per step; process 0 only.
      blocked_s: seconds that the last call of `save` took.
      waited_s: seconds of these that were spent waiting for the save before.
      written_s: seconds that the last finished save took from its call to its last file.
      written_bytes: bytes of its arrays in memory.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep_last: int = 3,
        keep_every_steps: int | None = None,
        verify: str = "auto",
        allow_fresh_start: bool = False,
        pause_s: float = 5.0,
    ):
        """Opens a directory of steps; it is made at the first save.

        Args:
          directory: `<workdir>/checkpoints`. With several processes: the same shared directory.
          keep_last: how many of the newest good steps stay.
          keep_every_steps: steps that are a multiple of this stay for ever; None: no such steps.
          verify: what is compared with the manifest before a step is trusted: "full" the contents
            of each file, "length" its length only, "auto" the contents up to 5 GB per step.
          allow_fresh_start: `latest_good` answers None also if there are damaged steps only.
          pause_s: seconds between the two tries of a save.

        Raises:
          ValueError: a number is not positive, or `verify` is no such word.
        """
        if keep_last < 1 or (keep_every_steps is not None and keep_every_steps < 1):
            raise ValueError(
                f"keep_last {keep_last}, keep_every_steps {keep_every_steps}: expected at least 1"
            )
        if verify not in manifest.LEVELS:
            raise ValueError(f"verify {verify!r}: expected one of {', '.join(manifest.LEVELS)}")
        self._storage = Storage(
            pathlib.Path(directory).absolute(),
            keep_last=keep_last,
            keep_every_steps=keep_every_steps,
            level=verify,
        )
        self._verify = verify
        self._allow_fresh_start = allow_fresh_start
        self._pause_s = pause_s
        self._writing: Writing | None = None
        self.blocked_s = self.waited_s = self.written_s = 0.0
        self.written_bytes = 0

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Waits for the save that is running; after an error only for this process's part."""
        if error is None:
            self.finish()
        elif self._writing is not None and (failure := self._writing.wait_here()):
            error.add_note(f"step {self._writing.step} could not be saved: {in_brief(failure)}")

    @property
    def bad(self) -> list[str]:  # noqa: D102 (see the class)
        return self._storage.bad

    def messages(self) -> list[str]:
        """What a person should be told since the last call, one sentence each; `bad` included."""
        taken = list(self._storage.messages)
        del self._storage.messages[: len(taken)]  # the thread of a save may have added more
        return taken

    def steps(self) -> list[int]:
        """Every numbered step, ascending, good or not."""
        return self._storage.steps()

    def check_space(self, state: PyTree) -> None:
        """Leaves a message if the disk is too small for a save of such a state (process 0)."""
        if jax.process_index() == 0:
            self._storage.check_space(_bytes(named_leaves(state)))

    def save(self, step: int, state: PyTree, facts: Mapping[str, Any]) -> None:
        """Begins to save a state and returns when it is copied; all processes call it.

        The save before is waited for. A good step that is already there, or is being written, is
        left as it is; a damaged one of that number is moved to `bad/`. When the new step has been
        read back and verified, older good ones that the keep rule does not name are deleted.
        What fails in storage is tried once more, after deleting the oldest good step (never the
        newest, nor one that stays for ever) if the disk is full. (With several processes arrays
        that cannot be written are an error at once.)

        Args:
          step: number of updates made.
          state: any tree of arrays, sharded or not; they may be donated when this has returned.
          facts: what else to know about the step; what JSON can hold.

        Raises:
          CheckpointError: storage failed, now or in the save before. Older steps are untouched.
          ValueError: the state or the facts cannot be stored.
        """
        begun = time.perf_counter()
        leaves = named_leaves(state)
        body = {
            "step": _valid_step(step),
            "facts": dict(facts),
            "leaves": {"/".join(name): describe(leaf) for name, leaf in leaves.items()},
        }
        manifest.check_body(body)  # complains about the facts before anything is written
        if self._writing is not None and self._writing.step == step:
            return
        self.waited_s = self._settle(step)
        size = _bytes(leaves)
        try:
            fault_point("save.begin")
            room = functools.partial(self._storage.make_room, step, size)
            if on_first_process(lambda: self._twice(step, room)):
                work = self._work(step, leaves, body)
                self._writing = Writing(step, begun, size, work)
        except STORAGE_ERRORS as error:
            raise self._failure(step, error) from error
        self.blocked_s = time.perf_counter() - begun

    def finish(self) -> None:
        """Waits until the last save is complete; all processes call it.

        Raises:
          CheckpointError: it failed, in whichever process.
        """
        self._settle(None)

    def latest_good(self) -> int | None:
        """The newest step whose files all match their manifest; None if nothing was saved yet.

        Newer, damaged ones are moved to `bad/` and described in `bad`. What is left of saves that
        were cut short is cleared.

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
        return found - 1 if found else None

    def restore(self, step: int, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """Restores a saved state, after verifying it.

        Args:
          step: a saved step.
          like: the same tree with `jax.ShapeDtypeStruct`s (or arrays) as leaves. Their `sharding`
            says where the arrays go; the first device where it is None. The number of devices may
            differ from that at the time of saving.

        Returns:
          The state, and the facts given to `save`.

        Raises:
          CheckpointError: the step is missing or damaged, or a name, shape or dtype differs
            between it and `like`; each one is named.
        """
        self.finish()
        directory = self._storage.directory / str(_valid_step(step))
        body = verified(directory, step, self._verify)
        wanted = named_leaves(like)
        described = {"/".join(name): describe(leaf) for name, leaf in wanted.items()}
        if lines := differences(body["leaves"], described):
            raise CheckpointError(
                f"{directory} does not fit the state it should be restored into:\n  "
                + "\n  ".join(lines)
                + "\nWas it saved with another model, optimiser or precision?"
            )
        shapes = {name: _on_device(leaf) for name, leaf in wanted.items()}
        loaded = read(directory, shapes, partial=False)
        leaves = [loaded[name] for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), body["facts"]

    def _work(
        self, step: int, leaves: Mapping[Name, Any], body: dict[str, Any]
    ) -> Callable[[], None]:
        """Copies the arrays and returns what is left to do in the background."""
        storage, arrays = self._storage, stored_arrays.copied(leaves)

        def begin() -> int:
            number = storage.begin(step)
            fault_point("save.before_data")
            return number

        def fill() -> pathlib.Path:
            temporary = storage.temporary(step, begin())
            stored_arrays.write(arrays, temporary / ARRAYS)
            return temporary

        def publish(temporary: pathlib.Path) -> None:
            if jax.process_index() == 0:
                self._twice(step, lambda: storage.commit(step, temporary, body), keep=temporary)
                storage.drop_old(step)
                fault_point("save.end")

        if jax.process_count() == 1:
            return lambda: publish(self._twice(step, fill))
        together = storage.temporary(step, on_first_process(lambda: self._twice(step, begin)))
        wait = stored_arrays.start_writing(arrays, together / ARRAYS)

        def work() -> None:
            wait()
            publish(together)

        return work

    def _twice(self, step: int, action: Callable[[], T], keep: pathlib.Path | None = None) -> T:
        try:
            return action()
        except STORAGE_ERRORS as error:
            self._storage.recover(step, error, keep)
            time.sleep(self._pause_s)
        return action()

    def _settle(self, waiting: int | None) -> float:
        """Waits for the save that is running, all processes together; the seconds of that.

        Raises:
          CheckpointError: it failed, in whichever process.
        """
        writing = self._writing
        if writing is None:
            return 0.0
        begun = time.perf_counter()
        failed = writing.wait()
        self._writing = None  # a save that failed is not remembered as done
        if failed:
            self._raise(writing, failed)
        self.written_s, self.written_bytes = writing.seconds, writing.bytes
        waited_s = time.perf_counter() - begun
        if waiting is not None and waited_s > 1:
            self._storage.messages.append(
                f"step {waiting} waited {waited_s:.0f} s for {writing}; save more seldom "
                "(run.checkpoint_every_epochs) or on a faster disk"
            )
        return waited_s

    def _raise(self, writing: Writing, failed: list[int]) -> None:
        if isinstance(writing.error, CheckpointError):
            raise writing.error
        if writing.error is None:
            raise CheckpointError(
                f"step {writing.step} could not be saved in {self._storage.directory}: process "
                f"{', '.join(map(str, failed))} failed, its message says why"
            )
        raise self._failure(writing.step, writing.error) from writing.error

    def _failure(self, step: int, error: BaseException) -> CheckpointError:
        if jax.process_count() == 1:  # else others may still be writing there
            self._storage.clear()  # what is left of the disk is needed
        return CheckpointError(
            f"step {step} could not be saved in {self._storage.directory}: {in_brief(error)}\n"
            f"The good steps before it are there. {free_space(self._storage.directory)}; make room "
            "or correct the permissions, then run the same command again."
        )


def _valid_step(step: int) -> int:
    if step < 0:
        raise ValueError(f"step {step} is negative")
    return int(step)


def _bytes(leaves: Mapping[Name, Any]) -> int:
    """Of arrays in memory."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves.values())


def _on_device(leaf: Any) -> Any:
    """What is wanted of numpy is restored to a device all the same."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if isinstance(leaf, np.ndarray) else leaf
