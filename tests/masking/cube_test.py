from __future__ import annotations

import functools

import jax
import numpy as np

from maskfeat_jax.masking.cube import cube_mask


def draws(count, grid, **settings):
    one = functools.partial(cube_mask, grid=grid, **settings)
    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), count)))


def test_one_box_at_every_place_equally_often():
    """Squares of area 4 and a budget of 4: 2x2 in one frame, at one of 3 * 4 * 3 places."""
    masks = draws(3600, (3, 5, 4), masked=4, min_area=4.0, aspect=1.0)
    # One box in twenty fits: a hundred refused in a row happen, and leave nothing masked.
    masks = masks[masks.any((1, 2, 3))]
    assert len(masks) > 3500
    places, counts = np.unique(masks, axis=0, return_counts=True)
    assert len(places) == 36
    assert counts.min() > 50
    assert counts.max() < 150
    for place in places:
        time, rows, columns = np.nonzero(place)
        assert len(set(time)) == 1
        assert (np.ptp(rows), np.ptp(columns), len(rows)) == (1, 1, 4)


def test_length_in_time_is_uniform():
    """The first of the boxes that fit: 2x2 over 1, 2 or 3 frames, or 3x3 in one frame."""
    masks = draws(2000, (3, 5, 4), masked=12, min_area=4.0, aspect=1.0)
    boxes = [(m == m[0]).all() and m[0].sum() == 4 for m in masks]
    # Areas up to 6.25 of U(4, 20) are 2x2 and up to 12.25 are 3x3, so a third of 0.141 over
    # 0.141 + 0.375 / 3, and a few made of several boxes.
    assert 0.16 < np.mean(boxes) < 0.23


def test_nothing_fits_in_too_small_a_budget():
    assert not draws(50, (2, 6, 6), masked=3, min_area=9.0, aspect=1.0).any()
    counts = draws(50, (2, 6, 6), masked=11, min_area=9.0, aspect=1.0, attempts=400).sum((1, 2, 3))
    assert set(counts.tolist()) <= {9, 10, 11}


def test_filled_masks_hold_the_boxes():
    settings = {"masked": 25, "min_area": 4.0, "aspect": 0.5}
    short, filled = (draws(200, (3, 5, 4), fill=fill, **settings) for fill in (False, True))
    assert set(filled.sum((1, 2, 3)).tolist()) == {25}
    assert (short <= filled).all()
    full = short.sum((1, 2, 3)) == 25
    assert 0 < full.sum() < 200
    np.testing.assert_array_equal(short[full], filled[full])
