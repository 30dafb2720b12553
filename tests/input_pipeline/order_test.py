from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline import order

SEEDS = st.integers(0, 2**63 - 1)


@settings(deadline=None, max_examples=50)
@given(seed=SEEDS, epoch=st.integers(0, 10**6), num_examples=st.integers(1, 2000))
def test_each_example_comes_once_and_the_same_again(seed, epoch, num_examples):
    permutation = order.permutation(seed, epoch, num_examples)
    assert np.array_equal(np.sort(permutation), np.arange(num_examples))
    assert np.array_equal(permutation, order.permutation(seed, epoch, num_examples))


def test_epochs_and_seeds_differ():
    orders = [order.permutation(seed, epoch, 100) for seed in (0, 1, 2) for epoch in (0, 1, 2)]
    assert len({tuple(one) for one in orders}) == 9


def test_examples_have_their_own_numbers():
    draws = {
        (seed, epoch, index): tuple(order.example_generator(seed, epoch, index).random(4))
        for seed in (0, 1)
        for epoch in (0, 1)
        for index in (0, 1, 2**40)
    }
    assert len(set(draws.values())) == len(draws)
    assert draws[1, 0, 1] == tuple(order.example_generator(1, 0, 1).random(4))


def test_numbers_of_neighbours_are_independent():
    draws = np.array([order.example_generator(3, 0, index).random(2) for index in range(4000)])
    correlation = np.corrcoef(np.concatenate([draws[:-1], draws[1:]], axis=1).T)
    assert np.abs(correlation - np.eye(4)).max() < 0.06


def test_order_does_not_depend_on_the_version_of_numpy():
    # A run that is resumed with another NumPy must go on in the same order.
    assert order.permutation(7, 2, 8).tolist() == [4, 1, 3, 7, 6, 2, 0, 5]
    assert order.example_generator(7, 2, 5).integers(1000, size=4).tolist() == [735, 120, 985, 903]
