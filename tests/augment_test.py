from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskfeat_jax.augment import Augment, Mix, Normalise, random_erasing


def noise(b=4, t=2, h=12, w=20, seed=0):
    return jax.random.normal(jax.random.key(seed), (b, t, h, w, 3))


def test_normalise():
    video = np.random.default_rng(0).integers(0, 256, (2, 1, 4, 6, 3), dtype=np.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    expected = (video / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(Normalise(mean, std)(video), expected, atol=1e-6)


def test_flip_mirrors_half_of_the_clips_in_all_frames():
    clips = noise(b=400)
    flipped = np.asarray(Augment(flip=0.5)(jax.random.key(1), clips))
    turned = np.asarray(clips)[:, :, :, ::-1]
    is_turned = (flipped == turned).all((1, 2, 3, 4))
    assert (is_turned ^ (flipped == np.asarray(clips)).all((1, 2, 3, 4))).all()
    assert abs(is_turned.mean() - 0.5) < 0.1
    np.testing.assert_array_equal(Augment(flip=0.0)(jax.random.key(1), clips), clips)


def test_random_erasing_fills_one_box_of_all_frames():
    clips = jnp.zeros((3000, 2, 24, 32, 3))
    erased = (
        np.asarray(
            jax.jit(functools.partial(random_erasing, probability=0.25))(jax.random.key(0), clips)
        )
        != 0
    )
    boxes = erased.any(-1)
    np.testing.assert_array_equal(boxes[:, 0], boxes[:, 1])
    chosen = boxes[:, 0].any((1, 2))
    assert abs(chosen.mean() - 0.25) < 0.04
    for box in boxes[chosen, 0][:100]:
        rows, columns = np.flatnonzero(box.any(1)), np.flatnonzero(box.any(0))
        assert box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert 0.01 < box.mean() < 0.37
    areas = boxes[chosen, 0].mean((1, 2))
    assert abs(areas.mean() - 0.17) < 0.02  # uniform between 0.02 and 1/3, less what never fits
    values = np.asarray(random_erasing(jax.random.key(0), clips[:500], 1.0))
    values = values[values != 0]
    np.testing.assert_allclose([values.mean(), values.std()], [0, 1], atol=0.02)
    assert (values != values[0]).any()


def test_smoothing():
    targets = Mix(smoothing=0.1).smooth(jnp.array([2, 0]), 5)
    np.testing.assert_allclose(
        targets, [[0.02, 0.02, 0.92, 0.02, 0.02], [0.92] + [0.02] * 4], atol=1e-6
    )


@pytest.mark.parametrize("switch", [0.0, 1.0, 1])
def test_mixing_by_hand(switch):
    """Constant clips show the weights of a mix: those of pixels and labels agree."""
    b, group = 12, 4
    clips = jnp.broadcast_to(2.0 ** jnp.arange(b)[:, None, None, None, None], (b, 2, 16, 24, 3))
    mix = Mix(switch=switch, group=group, smoothing=0.0)
    mixed, targets = map(np.asarray, mix(jax.random.key(3), clips, jnp.arange(b), b))
    np.testing.assert_allclose(targets.sum(-1), 1, atol=1e-6)
    for i in range(b):
        partner = i // group * group + group - 1 - i % group
        share = targets[i, i]
        np.testing.assert_allclose(targets[i, partner], 1 - share, atol=1e-6)
        np.testing.assert_allclose(
            mixed[i].mean(), 2.0**i * share + 2.0**partner * (1 - share), rtol=1e-4
        )
        np.testing.assert_array_equal(mixed[i, 0], mixed[i, 1])
        if switch:  # a box, not a blend
            assert set(np.unique(mixed[i])) <= {2.0**i, 2.0**partner}
        else:
            assert np.ptp(mixed[i]) == 0
    shares = targets[np.arange(b), np.arange(b)].reshape(-1, group)
    np.testing.assert_allclose(shares, shares[:, :1].repeat(group, 1), atol=1e-6)
    assert len(np.unique(shares.round(5))) == b // group


def test_shares_have_the_right_distribution():
    clips, labels = jnp.zeros((4000, 1, 8, 8, 3)), jnp.arange(4000) % 2
    mix = Mix(switch=0.0, mixup=0.8, group=2, smoothing=0.0)
    _, targets = mix(jax.random.key(0), clips, labels, 2)
    first = np.asarray(targets)[::2, 0]
    assert abs((first**2).mean() - (0.25 + 0.25 / 2.6)) < 0.03


def test_probability_zero_only_smooths():
    clips = noise()
    mixed, targets = Mix(probability=0.0, group=3)(jax.random.key(0), clips, jnp.arange(4), 10)
    np.testing.assert_array_equal(mixed, clips)
    np.testing.assert_allclose(np.asarray(targets).max(-1), 0.91, atol=1e-6)


def test_refuses():
    with pytest.raises(ValueError, match="flip=1.5 is not a probability"):
        Augment(flip=1.5)
    with pytest.raises(ValueError, match="mixup=0.0"):
        Mix(mixup=0.0)
    with pytest.raises(ValueError, match="smoothing=2"):
        Mix(smoothing=2.0)


def test_integers_are_probabilities_too():
    clips, key = noise(), jax.random.key(0)
    for name in ("flip", "erase"):
        whole, fraction = (Augment(**{"flip": 0, name: one})(key, clips) for one in (1, 1.0))
        np.testing.assert_array_equal(whole, fraction)
    labels = jnp.arange(4)
    whole, _ = Mix(mixup=1, cutmix=1, probability=1, switch=0, group=4)(key, clips, labels, 5)
    assert not np.array_equal(whole, clips)
