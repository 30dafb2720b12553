from __future__ import annotations

import numpy as np

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


def test_tube_statistics_of_pyslowfast():
    """On 7x7 cells; 12,000 draws of the original have the mean 19.971 and 97.1 % of 20."""
    masks = draws(Tube(0.4), 3000, (3, 7, 7))
    np.testing.assert_array_equal(masks, np.broadcast_to(masks[:, :1], masks.shape))
    counts = masks[:, 0].sum((1, 2))
    assert counts.max() == 20
    assert counts.min() >= 16
    assert abs(counts.mean() - 19.971) < 0.017
    assert abs((counts == 20).mean() - 0.971) < 0.016
