from __future__ import annotations

import numpy as np
import pytest

from input_pipeline import MovingShapes, Shapes
from tests.input_pipeline.samples import ridge_accuracy


def test_pictures_are_a_function_of_seed_split_and_index():
    source = Shapes(size=32)
    example = source.read(17)
    assert example.data.shape == (32, 32, 3)
    assert example.data.dtype == np.uint8
    assert np.array_equal(example.data, Shapes(num_examples=20, size=32).read(17).data)
    for other in (Shapes("validation", size=32), Shapes(size=32, seed=1)):
        assert not np.array_equal(example.data, other.read(17).data)
    assert not np.array_equal(example.data, source.read(27).data)


def test_classes_come_in_turn():
    source = Shapes(num_examples=50)
    labels = [source.read(index).label for index in range(50)]
    assert np.bincount(labels).tolist() == [5] * 10
    assert len(source.class_names) == 10
    assert list(source.class_names) == sorted(source.class_names)


def summary(pixels: np.ndarray) -> np.ndarray:
    """Colours without place: mean, spread and histogram of each channel."""
    flat = pixels.reshape(-1, 3).astype(np.float64)
    bins = [np.histogram(flat[:, c], 8, (0, 256))[0] / len(flat) for c in range(3)]
    return np.concatenate([flat.mean(0) / 255, flat.std(0) / 255, *bins])


def test_neither_colours_nor_pixels_give_the_class_away():
    source = Shapes(size=32, num_examples=2000)
    examples = [source.read(index) for index in range(2000)]
    labels = np.array([example.label for example in examples])
    colours = np.stack([summary(example.data) for example in examples])
    assert ridge_accuracy(colours, labels, 1e-6) < 0.18  # chance is 0.1
    pixels = np.stack([example.data.reshape(-1) / 255 for example in examples])[:, ::7]
    assert ridge_accuracy(pixels, labels, 1e-6) < 0.2


REFUSED = [
    ({"split": "val"}, "split 'val' is not one of train, validation, test"),
    ({"num_examples": 0}, "num_examples is 0"),
    ({"size": 9}, "size is 9"),
    ({"seed": -1}, "seed is -1"),
]


@pytest.mark.parametrize(("settings", "words"), REFUSED)
def test_refuses_bad_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        Shapes(**settings)


@pytest.mark.parametrize(("settings", "words"), [*REFUSED, ({"frames": 0}, "frames is 0")])
def test_moving_shapes_refuse_bad_settings_before_making_files(settings, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        MovingShapes(path=str(tmp_path), **settings)
    assert not list(tmp_path.iterdir())


def test_fingerprint_tells_datasets_apart():
    sources = [Shapes(), Shapes("test"), Shapes(seed=1), Shapes(size=48), Shapes(num_examples=9)]
    assert len({source.fingerprint for source in sources}) == 5
    assert Shapes().fingerprint == sources[0].fingerprint
