from __future__ import annotations

import numpy as np
from PIL import Image

from input_pipeline.views.color_jitter import ColorJitter
from tests.input_pipeline.samples import picture


def jitter(pixels: np.ndarray, seed: int, strength: float = 0.4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    (frame,) = ColorJitter(strength)([Image.fromarray(pixels)], rng)
    return np.asarray(frame)


def test_no_strength_changes_nothing():
    assert np.array_equal(jitter(picture(0), 1, strength=0.0), picture(0))


def test_brightness_of_a_grey_image_stays_in_its_range():
    # A constant grey has neither contrast nor saturation: only brightness shows.
    grey = np.full((4, 5, 3), 100, np.uint8)
    values = np.array([jitter(grey, seed)[0, 0, 0] for seed in range(300)])
    assert values.min() >= 59
    assert values.max() <= 141
    assert values.min() < 66
    assert values.max() > 134


def test_contrast_and_saturation_vary():
    pixels = picture(1)
    changed = [jitter(pixels, seed).astype(int) for seed in range(60)]
    saturation = [np.ptp(one, axis=2).mean() / one.mean() for one in changed]
    contrast = [one.mean(axis=2).std() / one.mean() for one in changed]
    assert max(saturation) / min(saturation) > 1.4
    assert max(contrast) / min(contrast) > 1.4
