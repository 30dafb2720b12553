from __future__ import annotations

import importlib.util
import os

import numpy as np
import pytest
from PIL import Image

from input_pipeline.views.randaugment import OPERATIONS, RandAugment
from tests.input_pipeline.samples import picture

FILL = (124, 116, 104)


class Coin:
    """A stand-in for a generator whose fair coin always falls the same way."""

    def __init__(self, value: float):
        self.value = value

    def random(self) -> float:
        return self.value


NEGATIVE, POSITIVE = Coin(0.0), Coin(0.9)


def apply(name: str, pixels: np.ndarray, argument: float) -> np.ndarray:
    return np.asarray(OPERATIONS[name][1](Image.fromarray(pixels), argument, FILL))


@pytest.mark.parametrize(
    ("name", "low", "half", "full"),
    [
        ("Rotate", 0, 15, 30),
        ("Posterize", 4, 2, 0),
        ("Solarize", 256, 128, 0),
        ("SolarizeAdd", 0, 55, 110),
        ("Color", 1, 1.45, 1.9),
        ("Contrast", 1, 1.45, 1.9),
        ("Brightness", 1, 1.45, 1.9),
        ("Sharpness", 1, 1.45, 1.9),
        ("ShearX", 0, 0.15, 0.3),
        ("ShearY", 0, 0.15, 0.3),
        ("TranslateX", 0, 0.225, 0.45),
        ("TranslateY", 0, 0.225, 0.45),
    ],
)
def test_arguments(name, low, half, full):
    assert len(OPERATIONS) == 15
    draw = OPERATIONS[name][0]
    for level, expected in ((0.0, low), (0.5, half), (1.0, full)):
        assert draw(POSITIVE, level) == pytest.approx(expected)
    centre = 1 if name in ("Color", "Contrast", "Brightness", "Sharpness") else 0
    signed = name not in ("Posterize", "Solarize", "SolarizeAdd")
    assert draw(NEGATIVE, 1.0) == pytest.approx(2 * centre - full if signed else full)


def test_whole_numbers_are_cut_not_rounded():
    assert OPERATIONS["Posterize"][0](POSITIVE, 0.9) == 1  # 4 - int(3.6)
    assert OPERATIONS["Solarize"][0](POSITIVE, 0.9) == 26  # 256 - int(230.4)
    assert OPERATIONS["SolarizeAdd"][0](POSITIVE, 0.95) == 104  # int(104.5)


def test_tone_operations_by_hand():
    values = np.array([[0, 63, 64, 127, 128, 200, 254, 255]], np.uint8)
    pixels = np.repeat(values[..., None], 3, axis=2)
    for name, argument, expected in (
        ("Invert", 0, 255 - values),
        ("Posterize", 2, values & 0b11000000),
        ("Posterize", 0, values * 0),
        ("Solarize", 128, [[0, 63, 64, 127, 127, 55, 1, 0]]),
        ("Solarize", 256, values),
        ("SolarizeAdd", 110, [[110, 173, 174, 237, 128, 200, 254, 255]]),
        ("Brightness", 0.5, values // 2),
    ):
        assert np.array_equal(apply(name, pixels, argument)[..., 0], expected), name


def test_contrast_stretching_by_hand():
    pixels = np.full((1, 3, 3), 100, np.uint8)
    pixels[0, :, 0] = (50, 100, 150)
    stretched = apply("AutoContrast", pixels, 0)
    assert stretched[0, :, 0].tolist() == [0, 127, 255]
    assert np.array_equal(stretched[..., 1], pixels[..., 1])  # nothing to stretch
    ramp = np.tile(np.arange(100, 164, dtype=np.uint8)[:, None, None], (1, 64, 3))
    assert np.ptp(apply("Equalize", ramp, 0)) > 240


def test_blending_operations():
    pixels = picture(0)
    for name in ("Color", "Contrast", "Brightness", "Sharpness"):
        assert np.array_equal(apply(name, pixels, 1.0), pixels)
    grey = apply("Color", pixels, 0.1).astype(int)
    assert np.ptp(grey, axis=2).mean() < 0.2 * np.ptp(pixels.astype(int), axis=2).mean()
    assert apply("Contrast", pixels, 0.1).std() < 0.2 * pixels.std()
    rough = np.abs(np.diff(pixels.astype(int), axis=1)).mean()
    assert np.abs(np.diff(apply("Sharpness", pixels, 0.1).astype(int), axis=1)).mean() < 0.7 * rough
    assert np.abs(np.diff(apply("Sharpness", pixels, 1.9).astype(int), axis=1)).mean() > 1.2 * rough


def test_moving_operations_by_hand():
    pixels = picture(1, 20, 40)
    left = apply("TranslateX", pixels, 0.25)  # of the width: 10 pixels
    assert np.array_equal(left[:, :30], pixels[:, 10:])
    assert np.array_equal(left[:, 30:], np.broadcast_to(np.uint8(FILL), (20, 10, 3)))
    up = apply("TranslateY", pixels, 0.25)  # of the height: 5 pixels
    assert np.array_equal(up[:15], pixels[5:])
    assert np.array_equal(up[15:], np.broadcast_to(np.uint8(FILL), (5, 40, 3)))
    assert np.array_equal(apply("Rotate", pixels, 0.0), pixels)
    half_turn = apply("Rotate", apply("Rotate", pixels, 90.0), -90.0)
    assert np.array_equal(half_turn[:, 12:28], pixels[:, 12:28])
    corner = apply("Rotate", pixels, 30.0)[0, 0]
    assert corner.tolist() == list(FILL)


def test_shear_moves_rows_and_columns_in_proportion():
    column = np.zeros((20, 40, 3), np.uint8)
    column[:, 20] = 255
    sheared = apply("ShearX", column, 0.5).argmax(axis=1)[:, 0]
    assert sheared[2] - sheared[12] == 5  # row y shows what was 0.5 * y further right
    row = np.zeros((40, 20, 3), np.uint8)
    row[20] = 255
    sheared = apply("ShearY", row, 0.5).argmax(axis=0)[:, 0]
    assert sheared[2] - sheared[12] == 5


def test_parse():
    assert RandAugment.parse("rand-m9-mstd0.5-inc1") == RandAugment(9.0, 0.5, 2)
    assert RandAugment.parse("rand-inc1-n4-m7") == RandAugment(7.0, 0.0, 4)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rand",
        "m9-inc1",
        "rand-m9",  # the other set of operations
        "rand-m9-inc0",
        "rand-m9-inc1-w0",
        "rand-m9-m8-inc1",
        "rand-m11-inc1",
        "rand-inc1",
        "rand-m9-n0-inc1",
        "rand-m9-n1.5-inc1",
        "rand-m9--inc1",
        "rand-m9-mstdx-inc1",
    ],
)
def test_parse_refuses_what_it_does_not_understand(text):
    with pytest.raises(ValueError, match="rand_augment"):
        RandAugment.parse(text)


def test_each_operation_is_applied_half_of_the_time():
    frames = [Image.fromarray(picture(4, 8, 8))]
    same = sum(
        RandAugment(9, 0.5, 1)(frames, np.random.default_rng(seed))[0] is frames[0]
        for seed in range(2000)
    )
    assert same / 2000 == pytest.approx(0.5, abs=0.04)


@pytest.mark.original
@pytest.mark.parametrize("name", sorted(OPERATIONS))
@pytest.mark.parametrize("magnitude", [0.0, 3.3, 7.1, 9.0])
@pytest.mark.parametrize("coin", [0.0, 0.9])
def test_operations_equal_the_originals(name, magnitude, coin, monkeypatch):
    folder = os.environ.get("SLOWFAST_DIR")
    if folder is None:
        pytest.skip("SLOWFAST_DIR is not set")
    spec = importlib.util.spec_from_file_location(
        "rand_augment", f"{folder}/slowfast/datasets/rand_augment.py"
    )
    original = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(original)
    theirs = [one for one in original._RAND_INCREASING_TRANSFORMS if one.startswith(name)]
    settings = {"img_mean": FILL, "interpolation": Image.BICUBIC}
    operation = original.AugmentOp(theirs[0], 1.0, magnitude, settings)
    # Theirs is negative above one half, ours below.
    monkeypatch.setattr(original.random, "random", lambda: 1 - coin)
    image = Image.fromarray(picture(5, 33, 50))
    draw, ours = OPERATIONS[name]
    argument = draw(Coin(coin), magnitude / 10)
    assert np.array_equal(np.asarray(ours(image, argument, FILL)), np.asarray(operation(image)))
