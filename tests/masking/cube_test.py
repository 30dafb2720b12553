from __future__ import annotations

import dataclasses
import functools
import math

import jax
import numpy as np

from maskfeat_jax.masking import Cube
from maskfeat_jax.masking.cube import cube_mask
from tests.masking.draws import draws


def boxes(count, grid, **settings):
    one = functools.partial(cube_mask, grid=grid, **settings)
    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), count)))


def test_one_box_everywhere_equally_often():
    """Squares of area 4 and a budget of 4: 2x2 in one frame, at one of 3 * 4 * 3 positions."""
    masks = boxes(3600, (3, 5, 4), masked=4, min_area=4.0, aspect=1.0)
    # One box in twenty fits: a hundred refused in a row happen, and leave nothing masked.
    masks = masks[masks.any((1, 2, 3))]
    assert len(masks) > 3500
    unique, counts = np.unique(masks, axis=0, return_counts=True)
    assert len(unique) == 36
    assert counts.min() > 50
    assert counts.max() < 150
    for box in unique:
        time, rows, columns = np.nonzero(box)
        assert len(set(time)) == 1
        assert (np.ptp(rows), np.ptp(columns), len(rows)) == (1, 1, 4)


def test_length_in_time_is_uniform():
    """The first of the boxes that fit: 2x2 over 1, 2 or 3 frames, or 3x3 in one frame."""
    masks = boxes(2000, (3, 5, 4), masked=12, min_area=4.0, aspect=1.0)
    alone = [(m == m[0]).all() and m[0].sum() == 4 for m in masks]
    # Areas up to 6.25 of U(4, 20) are 2x2 and up to 12.25 are 3x3, so a third of 0.141 over
    # 0.141 + 0.375 / 3, and a few made of several boxes.
    assert 0.16 < np.mean(alone) < 0.23


def test_nothing_fits_in_too_small_a_budget():
    assert not boxes(50, (2, 6, 6), masked=3, min_area=9.0, aspect=1.0).any()
    counts = boxes(50, (2, 6, 6), masked=11, min_area=9.0, aspect=1.0, attempts=400).sum((1, 2, 3))
    assert set(counts.tolist()) <= {9, 10, 11}


def test_filled_masks_hold_the_boxes():
    settings = {"masked": 25, "min_area": 4.0, "aspect": 0.5}
    short, filled = (boxes(200, (3, 5, 4), fill=fill, **settings) for fill in (False, True))
    assert set(filled.sum((1, 2, 3)).tolist()) == {25}
    assert (short <= filled).all()
    full = short.sum((1, 2, 3)) == 25
    assert 0 < full.sum() < 200
    np.testing.assert_array_equal(short[full], filled[full])


def test_missing_cells_of_exact_cubes_are_filled_without_favourites():
    grid, count = (2, 4, 4), 4000
    masker = Cube(0.75, min_area=1.0, aspect=1.0)  # squares of 16 cells: none is small enough
    assert not draws(masker, 50, grid).any()
    frequency = draws(dataclasses.replace(masker, exact=True), count, grid).mean(0)
    expected = masker.masked(grid) / 32
    assert np.abs(frequency - expected).max() < 5 * math.sqrt(expected * (1 - expected) / count)


def test_cube_statistics_of_pyslowfast():
    """On 8x7x7 cells; 40,000 draws of the original have the mean 155.64 and 35.2 % of 157."""
    masks = draws(Cube(0.4), 4000, (8, 7, 7))
    counts = masks.sum((1, 2, 3))
    assert counts.max() == 157
    assert counts.min() >= 130
    assert abs(counts.mean() - 155.64) < 0.13
    assert abs((counts == 157).mean() - 0.352) < 0.038
    by_frame = [0.236, 0.377, 0.461, 0.508, 0.509, 0.466, 0.383, 0.237]
    by_row = [0.227, 0.404, 0.502, 0.529, 0.498, 0.398, 0.222]
    np.testing.assert_allclose(masks.mean((0, 2, 3)), by_frame, atol=0.025)
    np.testing.assert_allclose(masks.mean((0, 1, 3)), by_row, atol=0.025)
    np.testing.assert_allclose(masks.mean((0, 1, 2)), by_row, atol=0.025)
