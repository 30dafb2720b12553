"""Batches of a source, in an order that is a pure function of seed and step.

Everything is a function of (seed, pass, position): there is no state to save. NumPy's Philox is a
counter-based generator: each (seed, pass) is a key, and each example has a range of counters of its
own.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

import numpy as np

from input_pipeline.bad_inputs import BadInput, BadInputs, BadMedia, Problem, media_boundary
from input_pipeline.source import Columns, Source
from input_pipeline.texts import printable
from input_pipeline.views.clips import View

Batch = dict[str, np.ndarray]
_PERMUTATION, _EXAMPLE = 0, 1  # ranges of counters


class Read(NamedTuple):
    """Identifies one read of an example."""

    pass_index: int  # over the examples, from 0
    example: int  # index in the source; -1 is padding
    read: int  # from 0 to `View.reads` - 1


class Loaded(NamedTuple):
    """The clips of one read, and the reason if they are empty or, if "stale", for training only."""

    video: np.ndarray  # uint8 (clips, frames, height, width, 3)
    label: int  # class index; 0 without labels
    example: int  # index in the source; -1 is padding
    read: int  # see `Read`
    problem: Problem | None  # None if the example can be used
    columns: dict[str, np.ndarray]  # (clips, ...), see `Columns`; zeros if it cannot be used


class Loader:
    """Loads, augments and batches the examples of a source.

    A position is one read of one example; it fills `view.clips_per_read` consecutive rows of the
    batch. Global batch k of training contains positions [k * reads, (k + 1) * reads) of the run,
    reads = batch_size / clips_per_read; process p of n loads the p-th of n equal slices. Each pass
    over the examples has its own permutation and drops the last, incomplete batch.

    An epoch is as many clips as there are examples: if a view makes R clips of each, one pass is
    R epochs, as repeats are counted in arXiv:2205.09113; PySlowFast's `MAX_EPOCH` counts passes.
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
        """Checks the arguments; reads nothing.

        Args:
          source: the examples.
          view: turns an example into clips.
          batch_size: rows (clips) of a global batch, over all processes.
          seed: of order and augmentation, 0 or more.
          process_index: of this process, which loads that slice of each global batch.
          process_count: number of processes that share a global batch.
          workers: threads; None means one for each CPU core.
          bad_inputs: counts and lists files that cannot be used; None means the default limits
            and no list.

        Raises:
          ValueError: an argument is out of range, or the batch is not divisible by the processes
            and the clips of one reading.
        """
        clips = view.clips_per_read
        if batch_size < 1 or batch_size % (process_count * clips):
            each = f" x {clips} clips of each example" if clips > 1 else ""
            raise ValueError(
                f"batch_size {batch_size} is not a positive multiple of {process_count} "
                f"processes{each}"
            )
        if not 0 <= process_index < process_count:
            raise ValueError(f"process_index {process_index} is not below {process_count}")
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed is {seed}; it must be from 0 to 2**63 - 1")
        maps, boxes = (getattr(source, name, None) for name in ("label_maps", "boxes"))
        if bool(boxes) != (view.sampling == "centred"):
            raise ValueError(
                f"view.sampling is {view.sampling!r}; a dataset with boxes of key frames, such as "
                'ava, needs "centred", and no other dataset takes it'
            )
        if workers is not None and workers < 1:
            raise ValueError(f"workers is {workers}; it must be at least 1")
        self.source, self.view, self.seed = source, view, seed
        self.fingerprint = source.fingerprint
        self._columns: Columns | None = maps or boxes
        # Boxes have classes of their own, instead of a label of the example.
        self.is_labelled = source.class_names is not None and boxes is None
        self.batch_size, self._clips = batch_size, clips
        self._reads, self._local_reads = batch_size // clips, batch_size // clips // process_count
        self.process_index = process_index
        self.workers = workers or os.cpu_count() or 1
        self.bad_inputs = bad_inputs or BadInputs()
        self._lock = threading.Lock()
        self._permutation = functools.lru_cache(maxsize=2)(
            lambda pass_index: permutation(seed, pass_index, source.num_examples)
        )

    @property
    def views(self) -> int:
        """Rows of each example in a pass."""
        return self.view.reads * self._clips

    @property
    def steps_per_epoch(self) -> float:
        """Complete global batches of a training pass, divided by the epochs of a pass."""
        return self._steps_per_pass / self.views

    @property
    def _steps_per_pass(self) -> int:
        return self.source.num_examples * self.view.reads // self._reads

    @property
    def eval_steps(self) -> int:
        """Batches in one evaluation pass, the same on each process."""
        return -(-self.source.num_examples * self.view.reads // self._reads)

    def train_batches(self, start_step: int = 0) -> Generator[Batch]:
        """Endless batches, starting after `start_step` completed steps; skipping costs nothing.

        Raises:
          ValueError: the source has fewer examples than one batch.
          TooManyBadInputs: while iterating, when a limit of `bad_inputs` is exceeded.
        """
        if self._steps_per_pass == 0:
            raise ValueError(
                f"batch_size {self.batch_size} is more than the "
                f"{self.source.num_examples * self._clips} clips of the source; use a smaller "
                "run.batch_size or more data"
            )
        if start_step < 0:
            raise ValueError(f"start_step is {start_step}; it must be 0 or more")
        return self._train_batches(start_step)

    def eval_batches(self, on_bad: str = "fail") -> Generator[Batch]:
        """One pass in the order of the source, each view of each example exactly once.

        The views of an example are consecutive rows. The last batches are padded: `valid` is False,
        `index` is -1.

        Args:
          on_bad: for a file that cannot be used, "fail" raises, "skip" leaves its rows out
            (`valid` is False) and counts it in `bad_inputs`, without a limit. Such a file is also
            one that differs from the index ("stale"), which training reads without the index.

        Raises:
          ValueError: `on_bad` is something else.
          BadInput: while iterating, at the first such file, in order, if `on_bad` is "fail".
        """
        if on_bad not in ("fail", "skip"):
            raise ValueError(f'on_bad is {on_bad!r}; it must be "fail" or "skip"')
        return self._eval_batches(on_bad)

    def load(self, pass_index: int, index: int, read: int = 0) -> Loaded:
        """Loads clips of one example, -1 for padding.

        A pure function of (seed, pass_index, index, read) and the file; see `Read`.

        Raises:
          BadInput: the label is not one of the classes of the source.
        """
        if index < 0:
            return Loaded(self._empty(), 0, -1, read, None, self._no_columns())
        num_bytes = None
        try:
            with media_boundary():
                data, label = self.source.read(index)
            if isinstance(data, bytes | np.ndarray):
                num_bytes = len(data) if isinstance(data, bytes) else data.nbytes
            cut = self.view.cut(data, example_generator(self.seed, pass_index, index), read)
            with media_boundary():
                columns = self._columns.read(index, cut) if self._columns else {}
        except BadMedia as bad:
            problem = Problem(bad.kind, bad.reason, num_bytes)
            return Loaded(self._empty(), 0, index, read, problem, self._no_columns())
        classes = self.source.class_names
        if classes is not None and self.is_labelled and label not in range(len(classes)):
            raise BadInput(
                f"{self.source.name_of(index)} has the label {label}, but there are "
                f"{len(classes)} classes, from 0"
            )
        stale = getattr(data, "stale", "")
        not_indexed = Problem("stale", stale, None) if stale else None
        return Loaded(cut.video, label or 0, index, read, not_indexed, columns)

    def train_read(self, local_position: int) -> Read:
        """The read at a training position of this process."""
        step, row = divmod(local_position, self._local_reads)
        pass_index, step = divmod(step, self._steps_per_pass)
        with self._lock:  # so that one thread computes a new order while the others wait for it
            permutation = self._permutation(pass_index)
        example, read = divmod(self._global_position(step, row), self.view.reads)
        return Read(pass_index, int(permutation[example]), read)

    def eval_read(self, local_position: int) -> Read:
        """The read at an evaluation position of this process."""
        position = self._global_position(*divmod(local_position, self._local_reads))
        example, read = divmod(position, self.view.reads)
        return Read(0, example if example < self.source.num_examples else -1, read)

    def _global_position(self, step: int, row: int) -> int:
        return step * self._reads + self.process_index * self._local_reads + row

    def _empty(self) -> np.ndarray:
        return np.zeros((self._clips, *self.view.shape), np.uint8)

    def _no_columns(self) -> dict[str, np.ndarray]:
        shapes = self._columns.columns if self._columns else {}
        return {
            name: np.zeros((self._clips, *shape), dtype) for name, (shape, dtype) in shapes.items()
        }

    def _train_batches(self, start_step: int) -> Generator[Batch]:
        for batch, problems in self._batches(self.train_read, start_step, None, usable="stale"):
            for index, problem in zip(batch["index"][:: self._clips], problems, strict=True):
                self.bad_inputs.record(self.source.name_of(index), int(index), problem)
            yield batch

    def _eval_batches(self, on_bad: str) -> Generator[Batch]:
        for batch, problems in self._batches(self.eval_read, 0, self.eval_steps):
            for index, problem in zip(batch["index"][:: self._clips], problems, strict=True):
                if problem is None:
                    continue
                name = self.source.name_of(index)
                if on_bad == "fail":
                    repair = "" if problem.kind == "stale" else "repair it, "
                    raise BadInput(
                        f"{printable(name)} cannot be used ({problem.kind}: {problem.reason}); "
                        f'{repair}or leave such files out with input.on_bad_in_evaluation="skip"'
                    )
                self.bad_inputs.note(name, int(index), problem)
            yield batch

    def _batches(
        self, read_at: Callable[[int], Read], start: int, stop: int | None, usable: str = ""
    ) -> Iterator[tuple[Batch, list[Problem | None]]]:
        """Runs `load` on threads, in order; errors other than bad inputs are raised unchanged.

        Rows with a problem are invalid, but for the class `usable`.
        """
        from input_pipeline.tf_data import in_order, tf  # here, as importing it takes seconds

        problems: dict[int, Problem] = {}

        def load(position: int) -> tuple:
            loaded = self.load(*read_at(position))
            video, label, example, read, problem, columns = loaded
            if problem is not None:
                problems[position] = problem
            valid = example >= 0 and (problem is None or problem.kind == usable)
            row = video, np.int32(label), np.bool_(valid), np.int64(example), np.int32(read)
            return row + tuple(columns[name] for name in empty)

        empty, dtypes = self._no_columns(), (tf.int32, tf.bool, tf.int64, tf.int32)
        arrays = in_order(
            load,
            [tf.TensorSpec((self._clips, *self.view.shape), tf.uint8)]
            + [tf.TensorSpec((), dtype) for dtype in dtypes]
            + [tf.TensorSpec(x.shape, x.dtype) for x in empty.values()],
            start=start * self._local_reads,
            stop=None if stop is None else stop * self._local_reads,
            rows=self._local_reads,
            workers=self.workers,
        )
        for step, (video, label, valid, index, read, *rest) in enumerate(arrays, start):
            view = read[:, None] * self._clips + np.arange(self._clips, dtype=read.dtype)
            batch = {"video": video.reshape(-1, *self.view.shape), "view": view.reshape(-1)}
            columns = {"valid": valid, "index": index}
            if self.is_labelled:
                columns["label"] = label
            batch |= {name: np.repeat(x, self._clips) for name, x in columns.items()}
            for name, column in zip(empty, rest, strict=True):
                batch[name] = column.reshape(-1, *column.shape[2:])
            positions = range(step * self._local_reads, (step + 1) * self._local_reads)
            yield batch, [problems.pop(position, None) for position in positions]


def _philox(seed: int, pass_index: int, range_: int, index: int) -> np.random.Generator:
    key = np.array([seed, pass_index], np.uint64)
    # The generator increments the first word, so the other words separate the ranges.
    counter = np.array([0, 0, index, range_], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def permutation(seed: int, pass_index: int, num_examples: int) -> np.ndarray:
    """The order of one pass: int64 (num_examples,), each example once."""
    return _philox(seed, pass_index, _PERMUTATION, 0).permutation(num_examples)


def example_generator(seed: int, pass_index: int, index: int) -> np.random.Generator:
    """The random numbers of one example in one pass, independent of process, thread and start."""
    return _philox(seed, pass_index, _EXAMPLE, index)
