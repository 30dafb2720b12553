"""Batches of a source, in an order that is a pure function of seed and step."""

from __future__ import annotations

import functools
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from input_pipeline import order
from input_pipeline.bad_inputs import BadInput, BadInputs, BadMedia, Problem, media_boundary
from input_pipeline.example import Source

Batch = dict[str, np.ndarray]
PREFETCHED_BATCHES = 2


class View(Protocol):
    """Turns an example into a clip of fixed shape."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Frames, height, width, channels."""

    def __call__(self, data: bytes | np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A clip of that shape, uint8."""


class Row(NamedTuple):
    """One row of a batch, and what is wrong with it if it is empty."""

    video: np.ndarray
    label: int
    example: int
    problem: Problem | None


class Loader:
    """Loads, augments and batches the examples of a source.

    Global batch k of training holds positions [k * batch_size, (k + 1) * batch_size) of the run;
    process p of n takes the p-th of n equal parts. Each epoch has its own permutation and leaves
    out the last, incomplete batch.
    """

    def __init__(
        self,
        source: Source,
        view: View,
        *,
        batch_size: int,
        seed: int = 0,
        process_index: int = 0,
        process_count: int = 1,
        workers: int | None = None,
        bad_inputs: BadInputs | None = None,
    ):
        """Checks that source and batch fit; reads nothing.

        Args:
          source: the examples.
          view: what to show of each.
          batch_size: rows of a global batch, over all processes.
          seed: of order and augmentation, 0 or more.
          process_index: which part of each global batch is wanted.
          process_count: into how many parts a global batch is cut.
          workers: threads; None means one for each CPU core.
          bad_inputs: counts and lists files that cannot be used; None means the default limits
            and no list.

        Raises:
          ValueError: an argument is out of range, or the batch is not divisible by the processes.
        """
        if batch_size < 1 or batch_size % process_count:
            raise ValueError(
                f"batch_size {batch_size} is not a positive multiple of {process_count} processes"
            )
        if not 0 <= process_index < process_count:
            raise ValueError(f"process_index {process_index} is not below {process_count}")
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed is {seed}; it must be from 0 to 2**63 - 1")
        if workers is not None and workers < 1:
            raise ValueError(f"workers is {workers}; it must be at least 1")
        self.source, self.view, self.seed = source, view, seed
        self.batch_size, self.local_batch_size = batch_size, batch_size // process_count
        self.process_index = process_index
        self.workers = workers or os.cpu_count() or 1
        self.bad_inputs = bad_inputs or BadInputs()
        self._lock = threading.Lock()
        self._permutation = functools.lru_cache(maxsize=2)(
            lambda epoch: order.permutation(seed, epoch, source.num_examples)
        )

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches in an epoch of training."""
        return self.source.num_examples // self.batch_size

    @property
    def eval_steps(self) -> int:
        """Batches of one evaluation pass, the same on each process."""
        return -(-self.source.num_examples // self.batch_size)

    def train_batches(self, start_step: int = 0) -> Iterator[Batch]:
        """Batches without end, beginning with that of `start_step`; going there costs nothing.

        Args:
          start_step: optimiser steps done so far.

        Raises:
          ValueError: the source has fewer examples than one batch.
          TooManyBadInputs: while iterating, when a limit of `bad_inputs` is passed.
        """
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"batch_size {self.batch_size} is more than the {self.source.num_examples} "
                "examples of the source; use a smaller batch or more data"
            )
        if start_step < 0:
            raise ValueError(f"start_step is {start_step}; it must be 0 or more")
        return self._train_batches(start_step)

    def eval_batches(self, on_bad: Literal["fail", "skip"] = "fail") -> Iterator[Batch]:
        """One pass in the order of the source, each example exactly once over all processes.

        The last batches are padded: `valid` is False, `index` is -1.

        Args:
          on_bad: what to do with a file that cannot be used: "fail" raises, "skip" leaves its row
            empty (`valid` is False) and counts it in `bad_inputs`, without a limit.

        Raises:
          ValueError: `on_bad` is something else.
          BadInput: while iterating, at the first such file, in order, if `on_bad` is "fail".
        """
        if on_bad not in ("fail", "skip"):
            raise ValueError(f'on_bad is {on_bad!r}; it must be "fail" or "skip"')
        return self._eval_batches(on_bad)

    def load(self, epoch: int, index: int) -> Row:
        """Loads one example: a pure function of (seed, epoch, index) and the file.

        Args:
          epoch: decides crop and augmentation, together with the seed.
          index: of the example; -1 gives a row of padding.
        """
        if index < 0:
            return Row(self._empty(), 0, -1, None)
        num_bytes = None
        try:
            with media_boundary():
                data, label = self.source.read(index)
            num_bytes = len(data) if isinstance(data, bytes) else data.nbytes
            video = self.view(data, order.example_generator(self.seed, epoch, index))
        except BadMedia as bad:
            return Row(self._empty(), 0, index, Problem(bad.kind, bad.reason, num_bytes))
        return Row(video, 0 if label is None else label, index, None)

    def train_example(self, local_position: int) -> tuple[int, int]:
        """Epoch and example at a position of this process's part of a run."""
        step, row = divmod(local_position, self.local_batch_size)
        epoch, step = divmod(step, self.steps_per_epoch)
        with self._lock:  # so that one thread computes a new epoch while the others wait for it
            permutation = self._permutation(epoch)
        return epoch, int(permutation[self._global_position(step, row)])

    def eval_example(self, local_position: int) -> tuple[int, int]:
        """Epoch (always 0) and example (-1: padding) at a position of this process's pass."""
        position = self._global_position(*divmod(local_position, self.local_batch_size))
        return 0, position if position < self.source.num_examples else -1

    def _global_position(self, step: int, row: int) -> int:
        return step * self.batch_size + self.process_index * self.local_batch_size + row

    def _empty(self) -> np.ndarray:
        return np.zeros(self.view.shape, np.uint8)

    def _train_batches(self, start_step: int) -> Iterator[Batch]:
        for batch, problems in self._batches(self.train_example, start_step, None):
            for index, problem in zip(batch["index"], problems, strict=True):
                self.bad_inputs.record(self.source.name_of(index), int(index), problem)
            yield batch

    def _eval_batches(self, on_bad: str) -> Iterator[Batch]:
        for batch, problems in self._batches(self.eval_example, 0, self.eval_steps):
            for index, problem in zip(batch["index"], problems, strict=True):
                if problem is None:
                    continue
                name = self.source.name_of(index)
                if on_bad == "fail":
                    raise BadInput(
                        f"{name} cannot be used ({problem.kind}: {problem.reason}); repair it, "
                        'or leave such files out with on_bad="skip"'
                    )
                self.bad_inputs.note(name, int(index), problem)
            yield batch

    def _batches(
        self,
        example_at: Callable[[int], tuple[int, int]],
        start: int,
        stop: int | None,
    ) -> Iterator[tuple[Batch, list[Problem | None]]]:
        """Runs `load` on threads, in order; errors that are not bad inputs come out as they are."""
        problems: dict[int, Problem] = {}
        errors: list[BaseException] = []

        def load(local_position: np.int64):
            try:
                row = self.load(*example_at(int(local_position)))
            except BaseException as error:
                errors.append(error)  # TensorFlow would only keep its text
                raise
            if row.problem is not None:
                problems[int(local_position)] = row.problem
            valid = row.problem is None and row.example >= 0
            return row.video, np.int32(row.label), np.bool_(valid), np.int64(row.example)

        running = tf.Variable(True, trainable=False)
        iterator = self._dataset(load, start, stop, running).as_numpy_iterator()

        def batches():
            for step in itertools.count(start):
                try:
                    video, label, valid, index = next(iterator)
                except StopIteration:
                    return
                except tf.errors.OpError:
                    if errors:
                        raise errors[0] from None
                    raise
                batch = dict(video=video, valid=valid, index=index, view=np.zeros_like(label))
                if self.source.class_names is not None:
                    batch["label"] = label
                first = step * self.local_batch_size
                yield batch, [problems.pop(first + row, None) for row in range(len(valid))]

        generator = batches()
        weakref.finalize(generator, _end, iterator, running)
        return generator

    def _dataset(
        self, load: Callable, start: int, stop: int | None, running: tf.Variable
    ) -> tf.data.Dataset:
        types = (tf.uint8, tf.int32, tf.bool, tf.int64)

        def load_shaped(position):
            video, *rest = tf.numpy_function(load, [position], types, stateful=False)
            video.set_shape(self.view.shape)
            for scalar in rest:
                scalar.set_shape(())
            return video, *rest

        rows = self.local_batch_size
        last = np.iinfo(np.int64).max if stop is None else stop * rows
        options = tf.data.Options()
        options.threading.private_threadpool_size = self.workers
        options.threading.max_intra_op_parallelism = 1
        options.deterministic = True
        dataset = tf.data.Dataset.range(start * rows, last).take_while(lambda _: running)
        dataset = dataset.map(load_shaped, num_parallel_calls=self.workers)
        dataset = dataset.batch(rows, drop_remainder=True).prefetch(PREFETCHED_BATCHES)
        return dataset.with_options(options)


def _end(iterator: Iterator, running: tf.Variable) -> None:
    """Ends an iterator before it is deleted.

    Deleting waits for the calls under way with Python's lock held, which those calls need: a
    deadlock. So the range ends first, and what is under way is waited for without the lock.
    """
    running.assign(False)
    if threading.current_thread() is threading.main_thread():
        _drain(iterator)
    else:  # it may be the garbage collector in one of the calls that are to be waited for
        threading.Thread(target=_drain, args=(iterator,), daemon=True).start()


def _drain(iterator: Iterator) -> None:
    while True:
        try:
            next(iterator)
        except StopIteration:
            return
        except tf.errors.OpError:
            continue
