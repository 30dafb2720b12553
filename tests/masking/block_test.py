from __future__ import annotations

import math

import numpy as np
import pytest

from maskfeat_jax.masking import Block, Tube
from tests.masking.draws import draws


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


def test_blocks_are_rectangles():
    """With room for one rectangle only, the mask is that rectangle."""
    for mask in draws(Block(0.2, min_area=1.0), 200, (1, 10, 10))[:, 0]:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if mask.sum() <= 14:  # a short mask is a union of one
            continue
        assert len(rows) < 10
        assert len(columns) < 10


def test_tube_statistics_of_pyslowfast():
    """On 7x7 cells; 12,000 draws of the original have the mean 19.971 and 97.1 % of 20."""
    masks = draws(Tube(0.4), 3000, (3, 7, 7))
    np.testing.assert_array_equal(masks, np.broadcast_to(masks[:, :1], masks.shape))
    counts = masks[:, 0].sum((1, 2))
    assert counts.max() == 20
    assert counts.min() >= 16
    assert abs(counts.mean() - 19.971) < 0.017
    assert abs((counts == 20).mean() - 0.971) < 0.016


@pytest.mark.parametrize("ratio", [0.4, 0.9])
def test_exact_masks_hide_their_share(ratio):
    for masker, grid in (
        (Block(ratio, exact=True), (1, 14, 14)),
        (Tube(ratio, exact=True), (8, 14, 14)),
        (Tube(ratio, window=(3, 5), exact=True), (2, 9, 10)),
    ):
        counts = draws(masker, 16, grid).sum((1, 2, 3))
        assert counts.tolist() == [masker.masked(grid)] * 16
        one_cell = math.prod(grid) // math.prod(getattr(masker, "window", None) or grid[1:])
        assert abs(masker.masked(grid) - ratio * math.prod(grid)) <= one_cell / 2


def test_windows_are_enlarged_to_the_tokens():
    grid = (8, 14, 21)
    masks = draws(Tube(0.4, window=(7, 7)), 20, grid)
    coarse = draws(Tube(0.4), 20, (1, 7, 7))
    np.testing.assert_array_equal(masks, np.kron(coarse, np.ones((1, 8, 2, 3), bool)))
    assert Tube(0.4, window=(7, 7)).masked(grid) == Tube(0.4).masked((1, 7, 7)) * 48


@pytest.mark.parametrize(
    ("masker", "grid", "words"),
    [
        (Block(), (8, 14, 14), "the clip has 8; for several there are cube and tube"),
        (Block(), (1, 1, 14), "block masks need 2x2 tokens or more, there are 1x14"),
        (Block(0.01), (1, 3, 3), "mask ratio 0.01 leaves no masked token of 9"),
        (Tube(window=(7, 7)), (8, 14, 15), "mask window 7x7 does not divide the token grid 14x15"),
        (Tube(), (8, 14, 1), "tube masks need 2x2 tokens or more, there are 14x1"),
        (Tube(0.01), (1, 3, 3), "leaves no masked token of 9"),
        # Without an end: no rectangle of 18 tokens is one row high and at most 3.3 times as wide.
        (Tube(0.94, exact=True), (2, 2, 48), "no rectangle of 18 tokens.* is smaller than 2x48; l"),
    ],
)
def test_grids_on_which_no_mask_can_be_drawn_are_refused(masker, grid, words):
    with pytest.raises(ValueError, match=words):
        masker.check(grid)


def test_refuses():
    Tube(0.94).check((2, 2, 48))  # not exact: it stops
    with pytest.raises(ValueError, match=r"must be 2 positive sizes \(height, width\)"):
        Tube(window=(8, 7, 7))
    for changes in ({"min_area": 0.0}, {"aspect": 1.5}):
        for kind in (Block, Tube):
            with pytest.raises(ValueError, match=r"min_area=.* and aspect=.* must be in \(0, 1\]"):
                kind(**changes)
