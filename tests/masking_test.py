from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskfeat_jax.masking import (
    MASKERS,
    Block,
    Cube,
    Frame,
    Masker,
    Random,
    RandomPerFrame,
    RandomTube,
    Tube,
)


def draws(masker, count, grid, seed=0):
    return np.asarray(jax.jit(masker, static_argnums=(1, 2))(jax.random.key(seed), count, grid))


@pytest.mark.parametrize("name", sorted(MASKERS))
def test_contract(name):
    masker = MASKERS[name](ratio=0.4)
    assert isinstance(masker, Masker)
    grid = (1 if name == "block" else 5, 6, 9)
    masks = draws(masker, 5, grid)
    assert masks.shape == (5, *grid)
    assert masks.dtype == bool
    assert masks.any((1, 2, 3)).all()
    assert not masks.all((1, 2, 3)).any()
    assert masks.sum((1, 2, 3)).max() <= masker.masked(grid)
    assert len(np.unique(masks, axis=0)) > 1
    np.testing.assert_array_equal(masks, masker(jax.random.key(0), 5, grid))
    assert (masks != draws(masker, 5, grid, seed=1)).any()
    with pytest.raises(TypeError, match="ration"):
        MASKERS[name](ration=0.4)
    with pytest.raises(ValueError, match="mask ratio 1.0 is not between 0 and 1"):
        MASKERS[name](ratio=1.0)
    few = name in ("block", "cube", "frame", "tube")
    with pytest.raises(ValueError, match=r"mask ratio 0.\d+ leaves no \w+ token of \d+"):
        MASKERS[name](ratio=0.01 if few else 0.99).check((1, 3, 3))


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


EXACT = {
    "block": Block(exact=True),
    "cube": Cube(exact=True),
    "tube": Tube(exact=True),
    **{name: MASKERS[name]() for name in ("frame", "random", "random_per_frame", "random_tube")},
}


@pytest.mark.parametrize("grid", [(8, 14, 14), (1, 14, 14), (2, 4, 4)])
@pytest.mark.parametrize("name", sorted(MASKERS))
def test_exact_maskers_hide_what_they_say(name, grid):
    """Where a mask of the ratio is possible: whole frames, or one frame, exclude some."""
    drawn = 0
    for ratio in (0.4, 0.75, 0.9):
        masker = dataclasses.replace(EXACT[name], ratio=ratio)
        assert masker.exact
        try:
            masker.check(grid)
        except ValueError:
            continue
        drawn += 1
        counts = draws(masker, 16, grid).sum((1, 2, 3))
        assert counts.tolist() == [masker.masked(grid)] * 16
        # The wanted part, up to the rounding of frames, of tokens per frame or of tokens.
        step = math.prod(grid[1:]) if name == "frame" else grid[0]
        assert abs(masker.masked(grid) - ratio * math.prod(grid)) <= step
    expected = {"block": 3 * (grid[0] == 1), "frame": {8: 3, 2: 1, 1: 0}[grid[0]]}
    assert drawn == expected.get(name, 3)


@given(
    st.integers(1, 3),
    st.integers(2, 8),
    st.integers(2, 8),
    st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 2)),
    st.floats(0.1, 0.95),
    st.integers(0, 2**31),
)
@settings(max_examples=5, deadline=None)
def test_exact_maskers_hide_what_they_say_with_windows(t, h, w, each, ratio, seed):
    cells, grid = (t, h, w), (t * each[0], h * each[1], w * each[2])
    for masker in (
        Cube(ratio, window=cells, exact=True),
        Tube(ratio, window=cells[1:], exact=True),
    ):
        try:
            masker.check(grid)
        except ValueError:
            continue
        counts = draws(masker, 3, grid, seed).sum((1, 2, 3))
        assert counts.tolist() == [masker.masked(grid)] * 3


def test_missing_cells_of_exact_cubes_are_filled_without_favourites():
    grid, count = (2, 4, 4), 4000
    masker = Cube(0.75, min_area=1.0, aspect=1.0)  # squares of 16 cells: none is small enough
    assert not draws(masker, 50, grid).any()
    frequency = draws(dataclasses.replace(masker, exact=True), count, grid).mean(0)
    wanted = masker.masked(grid) / 32
    assert np.abs(frequency - wanted).max() < 5 * math.sqrt(wanted * (1 - wanted) / count)


@pytest.mark.parametrize(
    ("tokens", "ratio", "visible"),
    [
        ((8, 14, 14), 0.9, 156),
        ((8, 14, 14), 0.95, 78),
        ((8, 14, 14), 0.8, 313),
        ((8, 14, 14), 0.75, 392),
        ((8, 14, 14), 0.6, 627),
        ((8, 14, 14), 0.5, 784),
        ((8, 16, 16), 0.9, 204),
        ((1, 14, 14), 0.9, 19),
    ],
)
def test_visible_tokens_of_random_masks_of_mae_for_video(tokens, ratio, visible):
    assert (~draws(Random(ratio), 3, tokens)).sum((1, 2, 3)).tolist() == [visible] * 3


@pytest.mark.parametrize(("ratio", "steps"), [(0.875, 1), (0.75, 2)])
def test_visible_steps_of_frame_masks_of_mae_for_video(ratio, steps):
    visible = ~draws(Frame(ratio), 5, (8, 14, 14))
    assert visible.all((2, 3)).sum(1).tolist() == [steps] * 5
    assert visible.sum((1, 2, 3)).tolist() == [steps * 196] * 5


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


def test_tube_statistics_of_pyslowfast():
    """On 7x7 cells; 12,000 draws of the original have the mean 19.971 and 97.1 % of 20."""
    masks = draws(Tube(0.4), 3000, (3, 7, 7))
    np.testing.assert_array_equal(masks, np.broadcast_to(masks[:, :1], masks.shape))
    counts = masks[:, 0].sum((1, 2))
    assert counts.max() == 20
    assert counts.min() >= 16
    assert abs(counts.mean() - 19.971) < 0.017
    assert abs((counts == 20).mean() - 0.971) < 0.016


@pytest.mark.parametrize(
    ("masker", "cells"),
    [(Cube(0.4, window=(8, 7, 7)), (8, 7, 7)), (Tube(0.4, window=(7, 7)), (1, 7, 7))],
)
def test_windows_are_enlarged_to_the_tokens(masker, cells):
    grid = (8, 14, 21)
    masks = draws(masker, 20, grid)
    each = [g // c for g, c in zip(grid, cells, strict=True)]
    coarse = masks[:, :: each[0], :: each[1], :: each[2]]
    assert coarse.shape[1:] == cells
    np.testing.assert_array_equal(masks, np.kron(coarse, np.ones((1, *each), bool)))
    same = type(masker)(0.4)
    np.testing.assert_array_equal(coarse, draws(same, 20, cells))
    assert masker.masked(grid) == same.masked(cells) * math.prod(each)


def test_frame_masks_whole_frames_equally_often():
    masks = draws(Frame(0.4), 3000, (8, 2, 3))
    frames = masks[:, :, 0, 0]
    np.testing.assert_array_equal(masks, np.broadcast_to(frames[..., None, None], masks.shape))
    assert set(frames.sum(1).tolist()) == {3}
    assert np.abs(frames.mean(0) - 3 / 8).max() < 5 * math.sqrt(0.24 / 3000)
    # Masks of one frame do not follow from those of another, beyond their number.
    assert len(np.unique(frames, axis=0)) == math.comb(8, 3)


def test_random_per_frame_is_independent_between_frames():
    masks = draws(RandomPerFrame(0.9), 3000, (3, 4, 5))
    assert (masks.sum((2, 3)) == 19).all() or (masks.sum((2, 3)) == 18).all()
    visible = ~masks
    share = visible.mean()
    assert np.abs(visible.mean(0) - share).max() < 5 * math.sqrt(share / 3000)
    both = (visible[:, 0] & visible[:, 1]).mean()
    assert abs(both - share**2) < 5 * share / math.sqrt(masks[:, 0].size)


@pytest.mark.parametrize("masker", [RandomPerFrame(0.9), RandomTube(0.9)])
def test_visible_tokens_of_mae_for_video(masker):
    """19 of 196 in each of 8 frames, as in dmae_st."""
    visible = ~draws(masker, 4, (8, 14, 14))
    assert set(visible.sum((2, 3)).ravel().tolist()) == {19}
    assert masker.masked((8, 14, 14)) == 8 * (196 - 19)


def test_random_tubes_are_tubes():
    masks = draws(RandomTube(0.75), 3000, (4, 3, 5))
    np.testing.assert_array_equal(masks, np.broadcast_to(masks[:, :1], masks.shape))
    assert np.abs(masks[:, 0].mean(0) - 12 / 15).max() < 5 * math.sqrt(0.16 / 3000)
    # VideoMAE leaves 20 of 196 places visible.
    assert 196 - RandomTube(0.897).masked((1, 14, 14)) == 20


@pytest.mark.parametrize(
    ("masker", "grid", "words"),
    [
        (
            Cube(window=(8, 7, 7)),
            (8, 14, 15),
            "mask window 8x7x7 does not divide the token grid 8x14x15",
        ),
        (Cube(window=(8, 7, 7)), (4, 14, 14), "does not divide the token grid 4x14x14"),
        (Tube(window=(7, 7)), (8, 14, 15), "mask window 7x7 does not divide the token grid 14x15"),
        (Cube(), (8, 1, 14), "cube masks need 2x2 tokens or more, there are 1x14"),
        (Tube(), (8, 14, 1), "tube masks need 2x2 tokens or more, there are 14x1"),
        (Cube(0.1), (1, 10, 10), "is 10 cells of 1x10x10, and the smallest box has 20; raise"),
        (Frame(0.1), (4, 14, 14), "leaves no masked token"),
        (Frame(0.9), (4, 14, 14), "leaves no visible token"),
    ],
)
def test_grids_on_which_no_mask_can_be_drawn_are_refused(masker, grid, words):
    with pytest.raises(ValueError, match=words):
        masker.check(grid)
    with pytest.raises(ValueError, match=words):
        masker(jax.random.key(0), 2, grid)


def test_windows_of_wrong_size_are_refused():
    with pytest.raises(ValueError, match=r"mask window \(7, 7\) must be 3 positive sizes \(time"):
        Cube(window=(7, 7))
    with pytest.raises(ValueError, match="must be 2 positive sizes"):
        Tube(window=(8, 7, 7))
    with pytest.raises(ValueError, match="must be 3 positive sizes"):
        Cube(window=(0, 7, 7))


def test_block_refuses_clips_and_slivers():
    with pytest.raises(ValueError, match="the clip has 8; for several there are cube and tube"):
        Block().check((8, 14, 14))
    with pytest.raises(ValueError, match="2x2 tokens or more"):
        Block().check((1, 1, 14))
    # Without an end: no rectangle of 36 tokens is one row high and at most 3.3 times as wide.
    with pytest.raises(
        ValueError, match=r"no rectangle of 18 tokens.* is smaller than 2x48; lower"
    ):
        Tube(0.94, exact=True).check((2, 2, 48))
    Tube(0.94).check((2, 2, 48))
