from __future__ import annotations

import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskfeat_jax.masking import MASKERS, Block, Random


def draws(masker, count, grid, seed=0):
    return np.asarray(jax.jit(masker, static_argnums=(1, 2))(jax.random.key(seed), count, grid))


@pytest.mark.parametrize("name", sorted(MASKERS))
def test_contract(name):
    masker = MASKERS[name](ratio=0.4)
    masks = draws(masker, 5, (1, 6, 9))
    assert masks.shape == (5, 1, 6, 9)
    assert masks.dtype == bool
    assert masks.any((1, 2, 3)).all()
    assert not masks.all((1, 2, 3)).any()
    assert (masks[0] != masks[1]).any()
    np.testing.assert_array_equal(masks, masker(jax.random.key(0), 5, (1, 6, 9)))
    assert (masks != draws(masker, 5, (1, 6, 9), seed=1)).any()
    with pytest.raises(TypeError, match="ration"):
        MASKERS[name](ration=0.4)
    with pytest.raises(ValueError, match="mask ratio 1.0 is not between 0 and 1"):
        MASKERS[name](ratio=1.0)
    with pytest.raises(ValueError, match=r"mask ratio 0.\d+ leaves no \w+ token of 9"):
        MASKERS[name](ratio=0.01 if name == "block" else 0.99).check((1, 3, 3))


@given(
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(2, 9),
    st.floats(0.05, 0.95),
    st.integers(0, 2**31),
)
@settings(max_examples=25, deadline=None)
def test_random_masks_an_exact_count_equally_often(t, h, w, ratio, seed):
    n = t * h * w
    masked = n - int(n * (1 - ratio))
    if masked in (0, n):
        return
    masks = Random(ratio)(jax.random.key(seed), 3, (t, h, w))
    assert np.asarray(masks).sum((1, 2, 3)).tolist() == [masked] * 3


def test_random_has_no_favourites():
    frequency = draws(Random(0.75), 4000, (2, 3, 5)).mean(0)
    assert np.abs(frequency - 23 / 30).max() < 5 * math.sqrt(0.18 / 4000)


def test_block_statistics_of_pyslowfast():
    """Means over 4000 draws, with bounds of five standard errors of the published ones."""
    masks = draws(Block(0.4), 4000, (1, 14, 14))[:, 0]
    counts = masks.sum((1, 2))
    assert counts.max() == 78
    assert counts.min() >= 64
    assert abs(counts.mean() - 77.56) < 0.12
    assert abs((counts == 78).mean() - 0.705) < 0.04
    marginal = masks.mean(0)
    assert abs(marginal[6:8, 6:8].mean() - 0.73) < 0.03
    assert abs(marginal[[0, 0, -1, -1], [0, -1, 0, -1]].mean() - 0.045) < 0.015
    by_row = np.array([0.141, 0.263, 0.362, 0.439, 0.490, 0.526, 0.542])
    for axis in (0, 1):
        rows = marginal.mean(1 - axis)
        np.testing.assert_allclose((rows[:7] + rows[:6:-1]) / 2, by_row, atol=0.015)


def test_exact_blocks_cover_the_wanted_number():
    counts = draws(Block(0.4, exact=True), 500, (1, 14, 14)).sum((1, 2, 3))
    assert set(counts.tolist()) == {78}


def test_blocks_are_rectangles():
    """With room for one rectangle only, the mask is that rectangle."""
    for mask in draws(Block(0.2, min_area=1.0), 200, (1, 10, 10))[:, 0]:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if mask.sum() <= 14:  # a short mask is a union of one
            continue
        assert len(rows) < 10
        assert len(columns) < 10


def test_block_refuses_clips_and_slivers():
    with pytest.raises(ValueError, match="the clip has 8"):
        Block().check((8, 14, 14))
    with pytest.raises(ValueError, match="2x2 tokens or more"):
        Block().check((1, 1, 14))
