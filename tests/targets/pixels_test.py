from __future__ import annotations

import jax
import numpy as np
import pytest

from maskfeat_jax.targets import Inputs, Pixels
from tests.targets.clips import clips


def test_pixels_orders_and_scales():
    x = clips()
    first, last = Pixels((2, 8, 16), False, "first"), Pixels((2, 8, 16), False, "last")
    patch = x[1, 2, 8:16, 32:48]
    np.testing.assert_array_equal(last(Inputs(x))[1, 1, 1, 2], patch.reshape(-1))
    np.testing.assert_array_equal(
        first(Inputs(x))[1, 1, 1, 2], patch.transpose(2, 0, 1).reshape(-1)
    )
    scaled = np.asarray(Pixels((2, 8, 16))(Inputs(5 * x + 3)))
    np.testing.assert_allclose(scaled.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.var(-1, ddof=1), 1, atol=1e-4)
    assert np.isfinite(np.asarray(Pixels((2, 8, 16))(Inputs(np.ones_like(x))))).all()


def test_pixels_of_one_frame_or_all():
    x = clips(t=8)
    u = (2, 16, 16)
    spread, every = Pixels(u, False, "last", "spread"), Pixels(u, False, "last", "all")
    for token, frame in enumerate([0, 2, 4, 7]):  # mae_st: the last token predicts its last frame
        np.testing.assert_array_equal(
            spread(Inputs(x))[0, token, 0, 1], x[0, frame, :16, 16:32].reshape(-1)
        )
    np.testing.assert_array_equal(every(Inputs(x))[1, 2, 0, 0], x[1, 4:6, :16, :16].reshape(-1))
    assert every.dim == 2 * 768 == every(Inputs(x)).shape[-1]


@pytest.mark.parametrize("channels", ["first", "last"])
@pytest.mark.parametrize("frames", ["first", "all"])
def test_pixels_scaled_by_channel(channels, frames):
    x = clips()
    target = Pixels((2, 8, 16), channels=channels, frames=frames, statistics="channel")
    order = (0, 3, 1, 2) if channels == "first" else (0, 1, 2, 3)
    for b, t, i, j in ((0, 0, 0, 0), (1, 1, 3, 2)):
        patch = x[b, 2 * t :, 8 * i :, 16 * j :][: 2 if frames == "all" else 1, :8, :16]
        patch = patch.astype(np.float64)
        over = (0, 1, 2)
        expected = (patch - patch.mean(over)) / (patch.std(over, ddof=1) + 1e-6)
        found = np.asarray(target(Inputs(x)))[b, t, i, j]
        np.testing.assert_allclose(found, expected.transpose(order).reshape(-1), atol=1e-5)
    # The normalisation of colours does not show.
    colours = x * np.float32([0.229, 0.224, 0.225]) + np.float32([0.485, 0.456, 0.406])
    np.testing.assert_allclose(target(Inputs(colours)), target(Inputs(x)), atol=1e-4)
    flat = np.broadcast_to(x[:, :1, :1, :1], x.shape)
    assert not np.any(target(Inputs(flat)))
    assert not np.any(jax.jit(target)(Inputs(flat)))


@pytest.mark.parametrize("channels", ["first", "last"])
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("frames", ["first", "all"])
@pytest.mark.parametrize("statistics", ["token", "channel"])
def test_pixels_are_drawn_as_they_were(channels, normalise, frames, statistics):
    video = np.random.default_rng(0).integers(0, 256, (1, 4, 32, 48, 3)).astype(np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    x = ((video / 255 - mean) / std).astype(np.float32)
    target = Pixels((2, 8, 16), normalise, channels, frames, statistics)
    restored = np.asarray(target.restore(target(Inputs(x)), Inputs(x), predicted=False))
    for token in range(2):
        np.testing.assert_array_equal(
            target.draw(restored[0, token], mean, std), video[0, 2 * token]
        )


def test_refuses():
    for name, value in (("frames", "last"), ("channels", "middle"), ("statistics", "batch")):
        with pytest.raises(ValueError, match=f"{name}='{value}'"):
            Pixels((1, 16, 16), **{name: value})


def test_clips_are_whole_tubelets():
    with pytest.raises(ValueError, match="4x32x40 is not a whole number of 2x16x16 tubelets"):
        Pixels((2, 16, 16))(Inputs(np.zeros((2, 4, 32, 40, 3), np.float32)))
