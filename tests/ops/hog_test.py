from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskfeat_jax.ops.hog import gradients, hog


def by_atan2(images, bins=9, cell=8, signed=False, normalise="l2", window=0):
    """The definition, in float64, pixel by pixel."""
    x = np.pad(
        np.moveaxis(np.asarray(images, np.float64), -1, -3),
        [*[(0, 0)] * (images.ndim - 2), (1, 1), (1, 1)],
        "reflect",
    )
    across, smooth = x[..., :-2] - x[..., 2:], x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]
    gx = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    gy = smooth[..., :-2, :] - smooth[..., 2:, :]
    magnitude = np.hypot(gx, gy)
    if window:
        g = np.exp(-0.5 * ((np.arange(window) - (window - 1) / 2) / (window // 2)) ** 2)
        g = np.outer(g, g) / np.outer(g, g).sum()
        magnitude = magnitude * np.tile(g, [s // window for s in magnitude.shape[-2:]])
    turn = 2 * np.pi if signed else np.pi
    bin_of = np.floor(np.arctan2(gx, gy) / turn * bins).astype(int) % bins
    *lead, h, w = magnitude.shape
    votes = magnitude[..., None] * (bin_of[..., None] == np.arange(bins))
    votes = votes.reshape(*lead, h // cell, cell, w // cell, cell, bins).sum((-4, -2))
    norm = {
        "l2": np.linalg.norm(votes, axis=-1, keepdims=True),
        "l1": votes.sum(-1, keepdims=True),
        "none": np.ones(1),
    }[normalise]
    return np.moveaxis(votes / np.maximum(norm, 1e-12), -4, -2)


@pytest.mark.parametrize(("signed", "window", "colour"), [(False, 0, "rgb"), (True, 16, "grey")])
def test_the_form_for_accelerators_is_the_same(signed, window, colour, monkeypatch):
    images = np.random.default_rng(0).standard_normal((2, 48, 32, 3), np.float32)

    def run():
        return jax.jit(lambda: hog(images, signed=signed, window=window, colour=colour))()

    expected = run()
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda x, *, cpu, default: default(x))
    np.testing.assert_allclose(run(), expected, rtol=1e-6, atol=1e-6)


def wavy(height=32, width=32):
    """Test image of the specification of PySlowFast's layer."""
    c, i, j = np.meshgrid(np.arange(3), np.arange(height), np.arange(width), indexing="ij")
    x = np.sin(0.1 * (i + 1) * (c + 1)) + np.cos(0.07 * (j + 1) * (c + 2))
    return np.moveaxis(x, 0, -1).astype(np.float32)


GOLDEN = {
    (0, 0, 0): "0.130255 0 0 0 0.131078 0.031113 0.906743 0.377758 0",
    (0, 0, 1): "0 0 0 0 0.142131 0.231297 0.962445 0 0",
    (1, 0, 0): "0.114101 0 0 0 0.475689 0.367763 0.770097 0.180005 0",
    (1, 1, 2): "0 0 0 0 0 0.326208 0.899598 0.290365 0",
    (2, 3, 3): "0.137586 0.290690 0.777889 0.286195 0.401829 0.219283 0 0 0",
}
GOLDEN_WINDOW = {
    (0, 0, 0): "0.090675 0 0 0 0.095692 0.038211 0.940772 0.310015 0",
    (1, 1, 2): "0 0 0 0 0 0.394042 0.894827 0.209798 0",
}


@pytest.mark.parametrize(("window", "golden"), [(0, GOLDEN), (16, GOLDEN_WINDOW)])
def test_golden_numbers_of_pyslowfast(window, golden):
    histograms = np.asarray(hog(jnp.asarray(wavy()), window=window))
    for (c, row, column), text in golden.items():
        np.testing.assert_allclose(
            histograms[row, column, c], np.fromstring(text, sep=" "), atol=2e-6
        )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bins": 6, "cell": 4},
        {"bins": 12, "signed": True},
        {"bins": 18, "signed": True, "cell": 16},
        {"normalise": "l1", "window": 16},
        {"normalise": "none", "cell": 2},
        {"bins": 1, "normalise": "none"},
    ],
)
def test_equals_the_definition_with_atan2(settings):
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 48, 3)).astype(np.float32)
    ours, expected = np.asarray(hog(images, **settings)), by_atan2(images, **settings)
    assert ours.shape == expected.shape
    # A pixel within rounding of a border may vote for the other bin: seen once in 10^6 pixels.
    assert np.mean(~np.isclose(ours, expected, rtol=1e-4, atol=1e-4)) < 1e-4
    np.testing.assert_allclose(np.median(np.abs(ours - expected)), 0, atol=1e-4)


def test_ramps_fill_one_bin():
    y, x = np.mgrid[:32, :24].astype(np.float32)
    for ramp, main in ((x, 4), (y, 0), (x + y, 2), (x - y, 6)):
        image = np.repeat(ramp[..., None], 3, -1)
        inner = np.asarray(hog(image))[1:-1, 1:-1]
        np.testing.assert_allclose(inner[..., main], 1, atol=1e-6)
    corner = np.asarray(hog(np.repeat((x + y)[..., None], 3, -1)))[0, 0, 0]
    np.testing.assert_allclose(corner, [0.1, 0, 0.989949, 0, 0.1, 0, 0, 0, 0], atol=1e-6)


def test_flat_cells_are_zero_and_border_ties_go_to_bin_zero():
    assert not np.asarray(hog(np.full((16, 32, 3), 0.37, np.float32))).any()
    # Rows only: gx is exactly zero, whatever the sign of gy.
    rows = np.random.default_rng(1).standard_normal((16, 1, 1)).astype(np.float32)
    histograms = np.asarray(hog(np.broadcast_to(rows, (16, 16, 3))))
    np.testing.assert_allclose(histograms[..., 0], 1, atol=1e-6)
    assert not histograms[..., 1:].any()


def test_normal_derivative_is_exactly_zero_on_the_border():
    planes = jnp.asarray(np.random.default_rng(2).standard_normal((3, 20, 30)), jnp.float32)
    gx, gy = gradients(planes * 1e3)
    assert not np.asarray(gx[..., [0, -1]]).any()
    assert not np.asarray(gy[..., [0, -1], :]).any()


@given(st.integers(0, 2**32 - 1), st.sampled_from(["l2", "l1"]))
@settings(max_examples=20, deadline=None)
def test_unit_norm_and_independence_of_brightness(seed, normalise):
    images = np.random.default_rng(seed).standard_normal((1, 16, 24, 3)).astype(np.float32)
    histograms = np.asarray(hog(images, normalise=normalise))
    order = 2 if normalise == "l2" else 1
    np.testing.assert_allclose(np.linalg.norm(histograms, order, axis=-1), 1, atol=1e-5)
    scaled = images * np.float32([2, 4, 8])  # powers of two: exact
    np.testing.assert_allclose(hog(scaled, normalise=normalise), histograms, atol=1e-6)


def test_grey_is_the_histogram_of_the_luma():
    images = np.random.default_rng(3).standard_normal((2, 16, 16, 3)).astype(np.float32)
    luma = np.repeat(images @ np.float32([0.299, 0.587, 0.114])[:, None], 3, -1)
    grey = np.asarray(hog(images, colour="grey"))
    assert grey.shape == (2, 2, 2, 1, 9)
    np.testing.assert_allclose(grey[:, :, :, 0], np.asarray(hog(luma))[:, :, :, 0], atol=1e-5)


def test_jit_any_leading_axes_any_dtype_and_no_gradient():
    images = np.random.default_rng(4).standard_normal((2, 3, 5, 16, 8, 3)).astype(np.float32)
    eager = hog(images)
    np.testing.assert_allclose(jax.jit(hog)(images), eager, atol=1e-6)
    np.testing.assert_allclose(hog(images[1, 2, 3]), eager[1, 2, 3], atol=1e-6)
    assert hog(images.astype(jnp.bfloat16)).dtype == jnp.float32
    assert not np.asarray(jax.grad(lambda x: hog(x).sum())(images)).any()


def test_extreme_pixels_stay_finite():
    images = np.random.default_rng(5).standard_normal((4, 16, 16, 3)).astype(np.float32)
    for scale in (1e-30, 1e-12, 1e15):
        assert np.isfinite(np.asarray(hog(images * np.float32(scale)))).all()


@pytest.mark.parametrize(
    ("shape", "settings", "words"),
    [
        ((20, 16, 3), {}, "20x16 is not a whole number of 8x8 cells"),
        ((24, 24, 3), {"window": 16}, "24x24 is not a whole number of 16x16 windows"),
        ((16, 16, 3), {"normalise": "l3"}, "'l3' is not one of l2, l1, none"),
        ((16, 16, 3), {"colour": "lab"}, "'lab' is not one of rgb, grey"),
        ((16, 16, 3), {"bins": 0}, "bins=0"),
    ],
)
def test_refuses(shape, settings, words):
    with pytest.raises(ValueError, match=words):
        hog(np.zeros(shape, np.float32), **settings)
