from __future__ import annotations

import functools
import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from maskfeat_jax.ops import pooling
from maskfeat_jax.ops.pooling import depthwise_conv, max_pool

STRIDES = [(1, 1, 1), (1, 2, 2), (1, 4, 4), (1, 8, 8)]


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def normal(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def plain_conv(x, kernel, stride):
    """A grouped convolution with one channel per group."""
    kernel = jnp.tile(kernel, x.shape[-1] // kernel.shape[-1])[:, :, :, None]
    return lax.conv_general_dilated(
        x,
        kernel,
        stride,
        [(1, 1)] * 3,
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        feature_group_count=x.shape[-1],
    )


def plain_max(x, stride):
    """Max pooling, one window after the other."""
    b, *sides, c = x.shape
    sizes = [-(-side // step) for side, step in zip(sides, stride, strict=True)]
    y = np.empty((b, *sizes, c))
    for index in itertools.product(*map(range, sizes)):
        window = [
            slice(max(i * step - step // 2, 0), i * step + step // 2 + 1)
            for i, step in zip(index, stride, strict=True)
        ]
        y[:, *index] = x[:, *window].max((1, 2, 3))
    return y


def check_conv(shape, d, stride):
    x, kernel = normal(shape), normal((3, 3, 3, d), seed=1)
    g = normal((shape[0], *(-(-n // s) for n, s in zip(shape[1:4], stride, strict=True)), shape[4]))

    @functools.partial(jax.jit, static_argnums=0)
    def run(conv, x, kernel, g):
        y, gradients = jax.vjp(lambda x, k: conv(x, k, stride), x, kernel)
        return y, *gradients(g)

    expected = run(plain_conv, x, kernel, g)
    for ours, theirs in zip(run(depthwise_conv, x, kernel, g), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-10)


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("sides", [(2, 16, 24), (3, 39, 20), (1, 10, 9)])
def test_is_a_grouped_convolution_with_heads_slowest(sides, stride):
    check_conv((2, *sides, 6), 2, stride)


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
@pytest.mark.parametrize("stride", STRIDES)
def test_the_forms_for_accelerators_are_the_same(stride, platform, monkeypatch):
    monkeypatch.setattr(pooling, "_platform", lambda: platform)
    check_conv((2, 3, 39, 20, 6), 2, stride)


@hypothesis.settings(deadline=None, max_examples=6)
@hypothesis.given(
    sides=st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 5)),
    heads=st.integers(1, 3),
)
def test_any_sides_and_strides(sides, stride, heads):
    check_conv((1, *sides, heads * 2), 2, stride)


@pytest.mark.parametrize("stride", STRIDES)
def test_bfloat16_sums_in_float32(stride):
    x, kernel = normal((1, 4, 16, 16, 4)), normal((3, 3, 3, 4), seed=1)
    x = jnp.asarray(x, jnp.bfloat16)

    def loss(conv):
        return jax.value_and_grad(lambda k: (conv(x, k) ** 2).astype(jnp.float32).mean())

    y = depthwise_conv(x, kernel, stride)
    expected = plain_conv(x.astype(float), jnp.asarray(kernel, jnp.bfloat16).astype(float), stride)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(float), expected, rtol=2**-7, atol=1e-6)
    _, gradient = loss(lambda x, k: depthwise_conv(x, k, stride))(kernel)
    _, expected = loss(lambda x, k: plain_conv(x.astype(float), k, stride))(kernel)
    np.testing.assert_allclose(gradient, expected, rtol=0.02, atol=0.02)


def test_channels_that_are_not_whole_heads_are_refused():
    with pytest.raises(ValueError, match="7 channels are not a whole number of heads of 2"):
        depthwise_conv(np.zeros((1, 1, 1, 1, 7)), np.zeros((3, 3, 3, 2)), (1, 1, 1))


@pytest.fixture(params=["cpu", "tpu"])
def each_form(request, monkeypatch):
    """The forms for CPUs and GPUs, and for TPUs."""
    monkeypatch.setattr(pooling, "_platform", lambda: request.param)


@pytest.mark.usefixtures("each_form")
@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2), (1, 4, 2)])
@pytest.mark.parametrize("sides", [(2, 16, 24), (3, 39, 20), (1, 7, 9)])
def test_max_of_windows_one_longer_than_the_stride(sides, stride):
    x = normal((2, *sides, 3)) - 5  # zeros beyond the border would win
    np.testing.assert_array_equal(max_pool(x, stride), plain_max(x, stride))


@pytest.mark.usefixtures("each_form")
def test_gradient_of_the_maximum_goes_where_it_came_from():
    x, g = normal((2, 2, 9, 7, 3)), normal((2, 2, 5, 4, 3), seed=1)
    y, gradient = jax.vjp(lambda x: max_pool(x, (1, 2, 2)), x)
    (dx,) = gradient(g)
    np.testing.assert_allclose(dx.sum((2, 3)), g.sum((2, 3)), atol=1e-12)
    expected = np.zeros_like(x)
    for b, t, i, j, c in np.ndindex(*y.shape):
        at = np.argwhere(x[b, t, :, :, c] == y[b, t, i, j, c])[0]
        expected[b, t, at[0], at[1], c] += g[b, t, i, j, c]
    np.testing.assert_allclose(dx, expected, atol=1e-12)


def test_odd_strides_of_the_maximum_are_refused():
    with pytest.raises(ValueError, match=r"stride \(1, 3, 3\) .* not 1 or even"):
        max_pool(np.zeros((1, 1, 9, 9, 1)), (1, 3, 3))


@pytest.mark.usefixtures("each_form")
def test_equal_maxima_share_no_gradient():
    dx = jax.grad(lambda x: max_pool(x, (1, 2, 2)).sum())(np.ones((1, 1, 2, 2, 1)))
    np.testing.assert_array_equal(dx[0, 0, :, :, 0], [[1, 0], [0, 0]])
