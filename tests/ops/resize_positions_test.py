from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskfeat_jax.ops.resize_positions import resize_positions

SIDES = st.integers(1, 9)


def waves(*shape):
    return np.sin(0.7 * np.arange(np.prod(shape))).reshape(shape)


@pytest.mark.parametrize(
    ("size", "first", "total", "moment"),
    [
        (
            (5, 6),
            [-0.099163779, 0.314040731, 0.86973376, 1.1269811, 1.141807273, 1.029687078],
            5.6375083893512326,
            144.2518518946427,
        ),
        (
            (2, 3),
            [0.150522055, 0.498847201, 0.397001537, -0.363664481, 0.078314063, 0.449620254],
            1.7895511424939026,
            8.013576896260851,
        ),
    ],
)
def test_sides_are_bicubic_as_in_pytorch(size, first, total, moment):
    """Golden: `interpolate(x, size, mode="bicubic")` of torch 2.13, float64."""
    rows = waves(2, 3, 4).transpose(1, 2, 0).reshape(1, 12, 2)
    found = resize_positions(rows, (1, 3, 4), (1, *size))[0].T.ravel()
    np.testing.assert_allclose(found[:6], first, atol=1e-9)
    np.testing.assert_allclose(found.sum(), total, rtol=1e-12)
    np.testing.assert_allclose((found * np.arange(found.size)).sum(), moment, rtol=1e-12)


@pytest.mark.parametrize(
    ("frames", "first"),
    [
        (8, [0.0, 0.2818452381664898, 0.6655446899096141, 0.8788147166288447]),
        (3, [0.21473922907923038, 0.9854497299884601, 0.5110618889868945]),
    ],
)
def test_time_is_linear_as_in_pytorch(frames, first):
    """Golden: `interpolate(x, frames, mode="linear")` of torch 2.13, float64."""
    found = resize_positions(waves(2, 5).T, (5, 1, 1), (frames, 1, 1))
    np.testing.assert_allclose(found[: len(first), 0], first, rtol=1e-12)


@given(before=st.tuples(SIDES, SIDES, SIDES), after=st.tuples(SIDES, SIDES, SIDES))
def test_constants_stay_and_the_same_grid_changes_nothing(before, after):
    constant = np.full((np.prod(before), 2), 0.3, np.float32)
    found = resize_positions(constant, before, after)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.full((np.prod(after), 2), 0.3), rtol=1e-6)
    rows = waves(int(np.prod(before)), 2)
    np.testing.assert_allclose(resize_positions(rows, before, before), rows, atol=1e-12)


def test_rows_of_another_grid_are_an_error():
    with pytest.raises(ValueError, match="12 rows are not a grid of 1x3x5 tokens"):
        resize_positions(waves(12, 2), (1, 3, 5), (1, 3, 4))
