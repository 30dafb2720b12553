from __future__ import annotations

import numpy as np
import pytest

from maskfeat_jax.ops.hog import hog
from maskfeat_jax.targets import Hog, Inputs
from tests.targets.clips import clips


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
    features = np.asarray(Hog((1, 16, 16), window=window)(Inputs(integers())), np.float64).reshape(
        196, 108
    )
    np.testing.assert_allclose(features.sum(), total, rtol=1e-6)
    np.testing.assert_allclose((features**2).sum(), 2352, rtol=1e-6)
    n, j = np.mgrid[1:197, 1:109]
    np.testing.assert_allclose((features * n * j).sum() / 1e6, weighted, rtol=1e-6)
    indices = [(0, 0), (0, 1), (0, 35), (37, 50), (97, 107), (195, 72), (195, 3)]
    np.testing.assert_allclose([features[i] for i in indices], some, atol=1e-6)


def test_hog_layout_is_channel_bin_row_column():
    x = clips(t=1)
    target = Hog((1, 16, 16), bins=6, cell=4)
    tokens, cells = np.asarray(target(Inputs(x))), np.asarray(hog(x, bins=6, cell=4))
    for c, k, row, column in ((0, 0, 0, 0), (2, 5, 3, 1), (1, 3, 2, 0)):
        j = ((c * 6 + k) * 4 + row) * 4 + column
        np.testing.assert_array_equal(tokens[1, 0, 1, 2, j], cells[1, 0, 4 + row, 8 + column, c, k])
    assert target.dim == 3 * 6 * 16
    assert Hog((1, 16, 16), colour="grey").dim == 36


def test_hog_is_of_the_first_frame_of_a_token():
    target, changed = Hog((2, 16, 16)), clips()
    changed[:, 1::2] += 1
    np.testing.assert_array_equal(target(Inputs(clips())), target(Inputs(changed)))


def test_refuses():
    with pytest.raises(ValueError, match="patch 12x12 is not a whole number of 8x8 HOG cells"):
        Hog((1, 12, 12))


def test_clips_are_whole_tubelets():
    with pytest.raises(ValueError, match="4x32x40 is not a whole number of 2x16x16 tubelets"):
        Hog((2, 16, 16))(Inputs(np.zeros((2, 4, 32, 40, 3), np.float32)))
