from __future__ import annotations

import jax
import numpy as np
import pytest

from maskfeat_jax.ops.hog import hog
from maskfeat_jax.targets import TARGETS, Hog, Pixels


def clips(t=4, h=32, w=48, seed=0):
    return np.random.default_rng(seed).standard_normal((2, t, h, w, 3)).astype(np.float32)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_contract(name):
    target = TARGETS[name](tubelet=(2, 16, 16))
    features = jax.jit(target)(clips())
    assert features.shape == (2, 2, 2, 3, target.dim)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, target(clips()), atol=1e-5)
    changed = clips()
    changed[:, 1::2] += 1  # only the first frame of a tubelet is a target
    np.testing.assert_allclose(features, target(changed), atol=1e-5)
    with pytest.raises(TypeError, match="binz"):
        TARGETS[name](tubelet=(1, 16, 16), binz=3)
    with pytest.raises(ValueError, match="4x32x40 is not a whole number of 2x16x16 tubelets"):
        target(clips(w=40))


def integers():
    """Test image of the specification of OpenMMLab's generator."""
    c, y, x = np.meshgrid(np.arange(3), np.arange(224), np.arange(224), indexing="ij")
    image = ((c + 1) * 7 * x + (c + 2) * 5 * y + x * y) % 256
    return np.moveaxis(image, 0, -1)[None, None].astype(np.float32)


@pytest.mark.parametrize(
    ("window", "total", "weighted", "some"),
    [
        (
            0,
            4260.813043,
            22.786875,
            [0.1144689, 0.2532521, 0, 0.0653175, 0.9101664, 0.1272813, 0.1393349],
        ),
        (
            16,
            4243.577372,
            22.724208,
            [0.0824698, 0.2205339, 0, 0.0733648, 0.9198810, 0.1254751, 0.1116397],
        ),
    ],
)
def test_hog_golden_numbers_of_both_originals(window, total, weighted, some):
    features = np.asarray(Hog((1, 16, 16), window=window)(integers()), np.float64).reshape(196, 108)
    np.testing.assert_allclose(features.sum(), total, rtol=1e-6)
    np.testing.assert_allclose((features**2).sum(), 2352, rtol=1e-6)
    n, j = np.mgrid[1:197, 1:109]
    np.testing.assert_allclose((features * n * j).sum() / 1e6, weighted, rtol=1e-6)
    places = [(0, 0), (0, 1), (0, 35), (37, 50), (97, 107), (195, 72), (195, 3)]
    np.testing.assert_allclose([features[p] for p in places], some, atol=1e-6)


def test_hog_layout_is_channel_bin_row_column():
    x = clips(t=1)
    target = Hog((1, 16, 16), bins=6, cell=4)
    tokens, cells = np.asarray(target(x)), np.asarray(hog(x, bins=6, cell=4))
    for c, k, row, column in ((0, 0, 0, 0), (2, 5, 3, 1), (1, 3, 2, 0)):
        j = ((c * 6 + k) * 4 + row) * 4 + column
        np.testing.assert_array_equal(tokens[1, 0, 1, 2, j], cells[1, 0, 4 + row, 8 + column, c, k])
    assert target.dim == 3 * 6 * 16
    assert Hog((1, 16, 16), colour="grey").dim == 36


def test_pixels_orders_and_scales():
    x = clips()
    first, last = Pixels((2, 8, 16), False, "first"), Pixels((2, 8, 16), False, "last")
    patch = x[1, 2, 8:16, 32:48]
    np.testing.assert_array_equal(last(x)[1, 1, 1, 2], patch.reshape(-1))
    np.testing.assert_array_equal(first(x)[1, 1, 1, 2], patch.transpose(2, 0, 1).reshape(-1))
    scaled = np.asarray(Pixels((2, 8, 16))(5 * x + 3))
    np.testing.assert_allclose(scaled.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.var(-1, ddof=1), 1, atol=1e-4)
    assert np.isfinite(np.asarray(Pixels((2, 8, 16))(np.ones_like(x)))).all()


def test_pixels_of_one_frame_or_all():
    x = clips(t=8)
    u = (2, 16, 16)
    spread, every = Pixels(u, False, "last", "spread"), Pixels(u, False, "last", "all")
    for token, frame in enumerate([0, 2, 4, 7]):  # mae_st: the last token predicts its last frame
        np.testing.assert_array_equal(
            spread(x)[0, token, 0, 1], x[0, frame, :16, 16:32].reshape(-1)
        )
    np.testing.assert_array_equal(every(x)[1, 2, 0, 0], x[1, 4:6, :16, :16].reshape(-1))
    assert every.dim == 2 * 768 == every(x).shape[-1]


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
        wanted = (patch - patch.mean(over)) / (patch.std(over, ddof=1) + 1e-6)
        found = np.asarray(target(x))[b, t, i, j]
        np.testing.assert_allclose(found, wanted.transpose(order).reshape(-1), atol=1e-5)
    # The normalisation of colours does not show.
    colours = x * np.float32([0.229, 0.224, 0.225]) + np.float32([0.485, 0.456, 0.406])
    np.testing.assert_allclose(target(colours), target(x), atol=1e-4)
    flat = np.broadcast_to(x[:, :1, :1, :1], x.shape)
    assert not np.any(target(flat))
    assert not np.any(jax.jit(target)(flat))


@pytest.mark.parametrize("channels", ["first", "last"])
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("frames", ["first", "all"])
@pytest.mark.parametrize("statistics", ["token", "channel"])
def test_pixels_are_drawn_as_they_were(channels, normalise, frames, statistics):
    video = np.random.default_rng(0).integers(0, 256, (1, 4, 32, 48, 3)).astype(np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    x = ((video / 255 - mean) / std).astype(np.float32)
    target = Pixels((2, 8, 16), normalise, channels, frames, statistics)
    restored = np.asarray(target.restore(target(x), x))
    for token in range(2):
        np.testing.assert_array_equal(
            target.draw(restored[0, token], mean, std), video[0, 2 * token]
        )


def test_refuses():
    with pytest.raises(ValueError, match="frames='last'"):
        Pixels((1, 16, 16), frames="last")
    with pytest.raises(ValueError, match="patch 12x12 is not a whole number of 8x8 HOG cells"):
        Hog((1, 12, 12))
    with pytest.raises(ValueError, match="channels='middle'"):
        Pixels((1, 16, 16), channels="middle")
    with pytest.raises(ValueError, match="statistics='batch'"):
        Pixels((1, 16, 16), statistics="batch")
