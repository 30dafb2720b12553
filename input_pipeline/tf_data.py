"""Calls a Python function for one position after the other on the threads of tf.data, in order.

The only module that imports TensorFlow, and to be imported where it is needed, as that takes
seconds. TensorFlow would reserve the memory of every accelerator it sees, so it sees none.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from input_pipeline import InputNotInstalled
from input_pipeline.quiet import held_back

try:
    with held_back():  # lines about oneDNN and the CPU, which no setting of TensorFlow silences
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")
        tf.config.set_visible_devices([], "TPU")
except ModuleNotFoundError as error:
    raise InputNotInstalled(error) from error

PREFETCHED_BATCHES = 2
_MAX_CALLS = 16
OpError = tf.errors.OpError  # TensorFlow's own name is gone when the interpreter ends


def in_order(
    call: Callable[[int], tuple],
    specs: Sequence[tf.TensorSpec],
    *,
    start: int,
    stop: int | None,
    rows: int,
    workers: int,
) -> Iterator[tuple[np.ndarray, ...]]:
    """Stacks what a function returns for the positions from `start` on, `rows` at a time.

    Args:
      call: position -> arrays; several calls run at the same time.
      specs: shapes and dtypes of these arrays.
      start: first position.
      stop: position after the last; None for no end.
      rows: positions of a batch; what is left at the end is dropped.
      workers: threads.

    Raises:
      BaseException: while iterating, what `call` raised.
    """
    errors: list[BaseException] = []
    calls = _calls_at_once(rows, workers)
    stop = np.iinfo(np.int64).max if stop is None else stop - (stop - start) % rows

    def guarded(first: np.int64) -> tuple:
        try:
            examples = [call(position) for position in range(int(first), int(first) + calls)]
            return tuple(map(np.stack, zip(*examples, strict=True)))
        except BaseException as error:
            errors.append(error)  # TensorFlow would only keep its text
            raise

    def arrays_at(first: tf.Tensor) -> tuple[tf.Tensor, ...]:
        dtypes = [spec.dtype for spec in specs]
        arrays = tf.numpy_function(guarded, [first], dtypes, stateful=False)
        shapes = [(calls, *spec.shape) for spec in specs]
        return tuple(tf.ensure_shape(a, s) for a, s in zip(arrays, shapes, strict=True))

    running = tf.Variable(True, trainable=False)
    firsts = tf.data.Dataset.range(start, stop, calls)
    dataset = firsts.take_while(lambda _: running).map(arrays_at, num_parallel_calls=workers)
    dataset = dataset.batch(rows // calls, drop_remainder=True).prefetch(PREFETCHED_BATCHES)
    options = tf.data.Options()
    options.threading.private_threadpool_size = workers
    options.threading.max_intra_op_parallelism = 1
    options.deterministic = True
    iterator = dataset.with_options(options).as_numpy_iterator()

    def batches() -> Iterator[tuple[np.ndarray, ...]]:
        while True:
            try:
                arrays = next(iterator)
                yield tuple(array.reshape(rows, *array.shape[2:]) for array in arrays)
            except StopIteration:
                return
            except OpError:
                if errors:
                    raise errors[0] from None
                raise

    generator = batches()
    weakref.finalize(generator, _end, iterator, running)
    return generator


def _calls_at_once(rows: int, workers: int) -> int:
    """Positions that a thread takes at once; a divisor of `rows`.

    Handing over a position costs as much as decoding an image of 32x32 pixels. A batch is still
    shared by all threads, twice, as calls may take different times.
    """
    most = min(_MAX_CALLS, rows // (2 * workers))
    return max(n for n in range(1, max(most, 1) + 1) if rows % n == 0)


def _end(iterator: Iterator, running: tf.Variable) -> None:
    """Ends an iterator before it is deleted.

    Deleting waits for the calls under way with Python's lock held, which those calls need: a
    deadlock. So the range ends first, and what is under way is waited for without the lock.
    """
    with tf.init_scope():  # the garbage collector may come while TensorFlow traces a function
        running.assign(False)
    if threading.current_thread() is threading.main_thread():
        _drain(iterator)
    else:  # it may be the garbage collector in one of the calls that are to be waited for
        threading.Thread(target=_drain, args=(iterator,), daemon=True).start()


def _drain(iterator: Iterator) -> None:
    with tf.init_scope():
        while True:
            try:
                next(iterator)
            except StopIteration:
                return
            except OpError:
                continue
