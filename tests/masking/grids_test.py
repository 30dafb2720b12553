"""Properties of all block, tube and cube masks, and grids on which no mask can be drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from maskfeat_jax.masking import Block, Cube, Frame, Random, RandomPerFrame, RandomTube, Tube
from tests.masking.draws import draws


@pytest.mark.parametrize(
    ("masker", "grid", "cell"),  # tokens of a cell
    [
        *((Block(ratio, exact=True), (1, 14, 14), 1) for ratio in (0.4, 0.9)),
        *((Tube(ratio, exact=True), (8, 14, 14), 8) for ratio in (0.4, 0.9)),
        *((Tube(ratio, window=(3, 5), exact=True), (2, 9, 10), 12) for ratio in (0.4, 0.9)),
        (Cube(0.4, exact=True), (8, 14, 14), 1),
        (Cube(0.9, exact=True), (2, 4, 4), 1),
        (Cube(0.75, window=(1, 3, 5), exact=True), (2, 9, 10), 12),
    ],
)
def test_exact_masks_have_the_target_number(masker, grid, cell):
    counts = draws(masker, 16, grid).sum((1, 2, 3))
    assert counts.tolist() == [masker.masked(grid)] * 16
    assert abs(masker.masked(grid) - masker.ratio * math.prod(grid)) <= cell / 2


@pytest.mark.parametrize(
    ("masker", "plain", "coarse", "cell"),
    [
        (Tube(0.4, window=(7, 7)), Tube(0.4), (1, 7, 7), (8, 2, 3)),
        (Cube(0.4, window=(4, 7, 7)), Cube(0.4), (4, 7, 7), (2, 2, 3)),
    ],
)
def test_windows_are_enlarged_to_the_tokens(masker, plain, coarse, cell):
    grid = (8, 14, 21)
    expected = np.kron(draws(plain, 20, coarse), np.ones((1, *cell), bool))
    np.testing.assert_array_equal(draws(masker, 20, grid), expected)
    assert masker.masked(grid) == plain.masked(coarse) * math.prod(cell)


@pytest.mark.parametrize(
    ("masker", "grid", "words"),
    [
        (Block(), (8, 14, 14), "the clip has 8; use cube or tube masks"),
        (Block(), (1, 1, 14), "block masks need at least 2x2 tokens, got 1x14"),
        (Block(0.01), (1, 3, 3), "mask ratio 0.01 leaves no masked token of 9"),
        (Tube(window=(7, 7)), (8, 14, 15), "mask window 7x7 does not divide the token grid 14x15"),
        (Tube(), (8, 14, 1), "tube masks need at least 2x2 tokens, got 14x1"),
        (Tube(0.01), (1, 3, 3), "leaves no masked token of 9"),
        # Endless: no rectangle of 18 tokens is one row high and at most 3.3 times as wide.
        (Tube(0.94, exact=True), (2, 2, 48), "no rectangle of 18 tokens.* is smaller than 2x48; l"),
        (
            Cube(window=(8, 7, 7)),
            (8, 14, 15),
            "window 8x7x7 does not divide the token grid 8x14x15",
        ),
        (Cube(window=(8, 7, 7)), (4, 14, 14), "does not divide the token grid 4x14x14"),
        (Cube(), (8, 1, 14), "cube masks need at least 2x2 tokens, got 1x14"),
        (Cube(0.01), (1, 3, 3), "mask ratio 0.01 leaves no masked token of 9"),
        (Cube(0.1), (1, 10, 10), "is 10 cells of 1x10x10, but the smallest box has 20; raise"),
        (Random(0.99), (4, 3, 3), "mask ratio 0.99 leaves no visible token of 36"),
        (RandomPerFrame(0.99), (4, 3, 3), "leaves no visible token"),
        (RandomTube(0.99), (4, 3, 3), "leaves no visible token"),
        (Frame(0.1), (4, 3, 3), "mask ratio 0.1 leaves no masked token of 36"),
        (Frame(0.9), (4, 3, 3), "leaves no visible token"),
    ],
)
def test_grids_on_which_no_mask_can_be_drawn_are_refused(masker, grid, words):
    with pytest.raises(ValueError, match=words):
        masker.check(grid)


def test_a_ratio_out_of_reach_is_fine_where_masks_need_not_be_exact():
    Tube(0.94).check((2, 2, 48))


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        (Tube, {"window": (8, 7, 7)}, r"must be 2 positive sizes \(height, width\)"),
        (Cube, {"window": (7, 7)}, r"mask window \(7, 7\) must be 3 positive sizes \(time"),
        (Cube, {"window": (0, 7, 7)}, "must be 3 positive sizes"),
        *(
            (kind, fields, r"min_area=.* and aspect=.* must be in \(0, 1\]")
            for kind in (Block, Cube, Tube)
            for fields in ({"min_area": 0.0}, {"min_area": 1.5}, {"aspect": 1.5})
        ),
    ],
)
def test_refuses(kind, fields, words):
    with pytest.raises(ValueError, match=words):
        kind(**fields)
