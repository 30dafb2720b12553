"""RoIAlign against numbers of the originals, and against one sample after the other."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from maskfeat_jax.ops.roi_align import roi_align

RAMP = np.arange(25.0).reshape(5, 5)


def aligned_boxes(plane, boxes, bins, **settings):
    """Bins of boxes of one plane, on a second channel twice as large."""
    features = np.stack([plane, 2 * plane], -1)[None].astype(np.float32)
    boxes = np.asarray(boxes, np.float32)[None]
    found = np.asarray(roi_align(jnp.asarray(features), jnp.asarray(boxes), bins, **settings))[0]
    np.testing.assert_allclose(found[..., 1], 2 * found[..., 0], rtol=1e-6)
    return found[..., 0]


@pytest.mark.parametrize(
    ("box", "aligned", "plain"),
    [
        ((1, 1, 3, 3), (6, 7, 11, 12), (9, 10, 14, 15)),
        (
            (0, 0, 5, 5),
            (4.666667, 7.111111, 16.888889, 19.333333),
            (7.5, 9.805556, 19.027778, 21.333333),
        ),
        ((0.5, 1, 4.5, 2), (4.75, 6.75, 7.25, 9.25), (7.75, 9.75, 10.25, 12.25)),
        ((-1, -1, 2, 2), (0, 0.375, 1.875, 4.5), (0.375, 1.5625, 6.3125, 7.5)),
        ((3, 3, 6, 6), (19.5, 10.125, 11.625, 6), (22.125, 11.21875, 11.84375, 6)),
        ((2, 2, 2, 2), (0, 0, 0, 0), (13.5, 14, 16, 16.5)),
    ],
)
def test_boxes_of_a_ramp_are_those_of_the_original(box, aligned, plain):
    for expected, setting in ((aligned, True), (plain, False)):
        found = aligned_boxes(RAMP, [box], (2, 2), aligned=setting)[0]
        np.testing.assert_allclose(found.ravel(), expected, atol=1e-5)


def test_published_numbers_of_detectron2():
    boxes = [(1, 1, 3, 3)]
    steps = np.arange(4) * 0.5 + np.array([4.5, 7, 9.5, 12])[:, None]
    np.testing.assert_allclose(aligned_boxes(RAMP, boxes, (4, 4))[0], steps, atol=1e-5)
    found = aligned_boxes(RAMP, boxes, (4, 4), aligned=False)[0]
    np.testing.assert_allclose(found, steps + 3, atol=1e-5)


def test_boxes_in_pixels_of_a_map_of_stride_32():
    rows, columns = np.indices((7, 7))
    plane = (7 * rows + columns) % 11.0
    boxes = [(16, 32, 96, 208), (0, 0, 223, 223)]
    small, whole = aligned_boxes(plane, boxes, (7, 7), scale=1 / 32)
    np.testing.assert_allclose(small[0, :3], (6.428571, 6.785714, 7.142857), atol=1e-5)
    np.testing.assert_allclose((small.max(), small.mean()), (8.571429, 5.137990), atol=1e-5)
    np.testing.assert_allclose((whole.max(), whole.mean()), (9.9375, 4.694676), atol=1e-5)
    (twice,) = aligned_boxes(plane, boxes[:1], (7, 7), scale=1 / 16)
    np.testing.assert_allclose((twice.max(), twice.mean()), (7.339286, 2.271033), atol=1e-5)


def one_by_one(plane, box, bins, aligned):
    """The definition: one sample after the other."""
    height, width = plane.shape
    left, top, right, bottom = np.asarray(box) - 0.5 * aligned
    sizes = [(bottom - top), (right - left)]
    sizes = sizes if aligned else [max(size, 1) for size in sizes]
    n, m = (math.ceil(size / count) for size, count in zip(sizes, bins, strict=True))

    def value(y, x):
        if not (-1 <= y <= height and -1 <= x <= width):
            return 0
        y, x = (min(max(p, 0), cells - 1) for p, cells in ((y, height), (x, width)))
        i, j = int(y), int(x)
        below, right_of = min(i + 1, height - 1), min(j + 1, width - 1)
        upper = plane[i, j] * (1 - (x - j)) + plane[i, right_of] * (x - j)
        lower = plane[below, j] * (1 - (x - j)) + plane[below, right_of] * (x - j)
        return upper * (1 - (y - i)) + lower * (y - i)

    found = np.zeros(bins)
    for by, bx in np.ndindex(*bins):
        for sy, sx in np.ndindex(n, m):
            y = top + (by + (sy + 0.5) / n) * sizes[0] / bins[0]
            x = left + (bx + (sx + 0.5) / m) * sizes[1] / bins[1]
            found[by, bx] += value(y, x) / (n * m)
    return found


@pytest.mark.parametrize("aligned", [True, False])
def test_any_box_equals_the_definition(aligned):
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(6, 9))
    corners = rng.uniform(-1.5, 6, (20, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.05, 6, (20, 2))], 1).astype(np.float32)
    found = aligned_boxes(plane, boxes, (2, 3), aligned=aligned)
    expected = [one_by_one(plane, box, (2, 3), aligned) for box in boxes.astype(float)]
    np.testing.assert_allclose(found, expected, atol=2e-5)
