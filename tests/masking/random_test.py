from __future__ import annotations

import math

import numpy as np
import pytest

from maskfeat_jax.masking import Frame, Random, RandomPerFrame, RandomTube
from tests.masking.draws import draws


def test_random_has_no_favourites():
    masks = draws(Random(0.75), 4000, (2, 3, 5))
    assert set(masks.sum((1, 2, 3)).tolist()) == {23}
    assert np.abs(masks.mean(0) - 23 / 30).max() < 5 * math.sqrt(0.18 / 4000)


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
    assert math.prod(tokens) - Random(ratio).masked(tokens) == visible


@pytest.mark.parametrize(("ratio", "steps"), [(0.875, 1), (0.75, 2)])
def test_visible_steps_of_frame_masks_of_mae_for_video(ratio, steps):
    visible = ~draws(Frame(ratio), 5, (8, 14, 14))
    assert visible.all((2, 3)).sum(1).tolist() == [steps] * 5
    assert visible.sum((1, 2, 3)).tolist() == [steps * 196] * 5


@pytest.mark.parametrize("masker", [RandomPerFrame(0.9), RandomTube(0.9)])
def test_visible_tokens_of_mae_for_video(masker):
    """19 of 196 in each of 8 frames, as in dmae_st."""
    visible = ~draws(masker, 4, (8, 14, 14))
    assert set(visible.sum((2, 3)).ravel().tolist()) == {19}
    assert masker.masked((8, 14, 14)) == 8 * (196 - 19)


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


def test_random_tubes_are_tubes():
    masks = draws(RandomTube(0.75), 3000, (4, 3, 5))
    np.testing.assert_array_equal(masks, np.broadcast_to(masks[:, :1], masks.shape))
    assert np.abs(masks[:, 0].mean(0) - 12 / 15).max() < 5 * math.sqrt(0.16 / 3000)
    # VideoMAE leaves 20 of 196 positions visible.
    assert 196 - RandomTube(0.897).masked((1, 14, 14)) == 20
