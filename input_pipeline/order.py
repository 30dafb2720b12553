"""Which example comes when, and the random numbers that belong to it.

Everything is a pure function of (seed, pass, position): there is no state to save. NumPy's Philox
is a counter-based generator, so each (seed, pass) is a key and each example owns a stretch of
counters that no other example can reach.
"""

from __future__ import annotations

import numpy as np

_PERMUTATION, _EXAMPLE = 0, 1  # which stretch of counters


def _philox(seed: int, turn: int, stretch: int, index: int) -> np.random.Generator:
    key = np.array([seed, turn], np.uint64)
    # The generator counts up in the first word, so the others separate the stretches.
    counter = np.array([0, 0, index, stretch], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def permutation(seed: int, turn: int, num_examples: int) -> np.ndarray:
    """The order of one pass: int64 (num_examples,), each example once."""
    return _philox(seed, turn, _PERMUTATION, 0).permutation(num_examples)


def example_generator(seed: int, turn: int, index: int) -> np.random.Generator:
    """The random numbers of one example in one pass, the same wherever and whenever it is read."""
    return _philox(seed, turn, _EXAMPLE, index)
