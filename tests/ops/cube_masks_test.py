from __future__ import annotations

import functools

import jax
import numpy as np

from maskfeat_jax.ops.cube_masks import cube_mask


def draws(count, grid, **settings):
    one = functools.partial(cube_mask, grid=grid, **settings)
    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), count)))


def test_one_box_at_every_place_equally_often():
    """Squares of area 4 and a budget of 4: one 2x2 square in one frame, 3 * 4 * 3 places for it."""
    masks = draws(3600, (3, 5, 4), masked=4, min_area=4.0, aspect=1.0)
    places, counts = np.unique(masks, axis=0, return_counts=True)
    assert len(places) == 36
    assert counts.min() > 50
    assert counts.max() < 150
    for place in places:
        time, rows, columns = np.nonzero(place)
        assert len(set(time)) == 1
        assert sorted(set(zip(rows - rows.min(), columns - columns.min(), strict=True))) == [
            (0, 0),
            (0, 1),
            (1, 0),
            (1, 1),
        ]


def test_boxes_last_for_any_number_of_frames():
    """Squares of 2x2 and a budget of three: a box of 3, 2 or 1 frames comes first."""
    masks = draws(600, (3, 5, 4), masked=12, min_area=4.0, aspect=1.0)
    whole = [m for m in masks if m.sum() == 12 and (m == m[0]).all() and m[0].sum() == 4]
    assert 0.2 < len(whole) / len(masks) < 0.5


def test_nothing_fits_in_too_small_a_budget():
    assert not draws(50, (2, 6, 6), masked=3, min_area=9.0, aspect=1.0).any()
    counts = draws(50, (2, 6, 6), masked=11, min_area=9.0, aspect=1.0, attempts=400).sum((1, 2, 3))
    assert set(counts.tolist()) <= {9, 10, 11}
