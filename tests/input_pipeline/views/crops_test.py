from __future__ import annotations

import numpy as np
import pytest

from input_pipeline.views import crops

RATIO = (3 / 4, 4 / 3)


@pytest.mark.parametrize(("area", "mean"), [((0.08, 1.0), 0.432), ((0.5, 1.0), 0.663)])
def test_mean_area_is_that_of_torchvision(area, mean):
    rng = np.random.default_rng(0)
    windows = [crops.random_resized_crop(rng, 375, 500, area, RATIO) for _ in range(20_000)]
    areas = [window.height * window.width / (375 * 500) for window in windows]
    assert np.mean(areas) == pytest.approx(mean, abs=0.006)


def test_windows_lie_inside_and_keep_the_ratio():
    rng = np.random.default_rng(1)
    for _ in range(2000):
        height, width = rng.integers(20, 300, size=2)
        top, left, crop_height, crop_width = crops.random_resized_crop(
            rng, height, width, (0.2, 1.0), RATIO
        )
        assert 0 <= top <= height - crop_height
        assert 0 <= left <= width - crop_width
        slack = 1 / min(crop_height, crop_width)
        assert RATIO[0] - 2 * slack < crop_width / crop_height < RATIO[1] + 2 * slack


def test_ratio_is_log_uniform_and_every_position_is_reached():
    rng = np.random.default_rng(2)
    windows = [crops.random_resized_crop(rng, 1000, 1000, (0.1, 0.1), RATIO) for _ in range(5000)]
    logs = np.log([window.width / window.height for window in windows])
    assert np.mean(logs) == pytest.approx(0, abs=0.01)
    assert np.std(logs) == pytest.approx(np.log(16 / 9) / np.sqrt(12), rel=0.03)
    small = [crops.random_resized_crop(rng, 4, 4, (0.56, 0.57), (1, 1)) for _ in range(200)]
    assert {(window.top, window.left) for window in small} == {(0, 0), (0, 1), (1, 0), (1, 1)}


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (30, 400, crops.Window(0, 180, 30, 40)),  # too wide: all of the height, ratio 4/3
        (400, 30, crops.Window(180, 0, 40, 30)),  # too high: all of the width, ratio 3/4
    ],
)
def test_falls_back_to_the_largest_centred_window(height, width, expected):
    # Whole area at a ratio that the image does not have: no try can fit.
    rng = np.random.default_rng(0)
    assert crops.random_resized_crop(rng, height, width, (1.0, 1.0), RATIO) == expected


def test_falls_back_to_the_whole_image_if_its_ratio_is_allowed():
    class Largest(np.random.Generator):
        def uniform(self, low=0.0, high=1.0, size=None):
            return high

    rng = Largest(np.random.PCG64(0))
    assert crops.random_resized_crop(rng, 90, 100, (1.0, 1.0), RATIO) == crops.Window(0, 0, 90, 100)


def test_one_pixel_is_a_crop_of_itself():
    rng = np.random.default_rng(0)
    assert crops.random_resized_crop(rng, 1, 1, (0.08, 1.0), RATIO) == (0, 0, 1, 1)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (375, 500, (256, 341)),
        (500, 375, (341, 256)),
        (100, 100, (256, 256)),
        (333, 500, (256, 384)),
    ],
)
def test_short_side(height, width, expected):
    assert crops.short_side(height, width, 256) == expected


def test_centre_rounds_half_pixels_to_even():
    assert crops.centre(256, 341, 224) == (16, 58, 224, 224)  # 58.5 -> 58
    assert crops.centre(227, 224, 224) == (2, 0, 224, 224)  # 1.5 -> 2
