from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from input_pipeline import EvalView, TrainView
from input_pipeline.bad_inputs import BadMedia
from input_pipeline.crops import random_resized_crop
from tests.input_pipeline.samples import encode, picture


def test_training_crop_equals_pillow_bit_for_bit():
    data = encode(picture(0, 120, 170), quality=90)
    view = TrainView(size=56, crop_area=(0.08, 1.0))
    image = Image.open(io.BytesIO(data)).convert("RGB")
    for seed in range(30):
        top, left, height, width = random_resized_crop(
            np.random.default_rng(seed), 120, 170, (0.08, 1.0), (3 / 4, 4 / 3)
        )
        wanted = image.crop((left, top, left + width, top + height)).resize(
            (56, 56), Image.Resampling.BICUBIC
        )
        clip = view(data, np.random.default_rng(seed))
        assert view.shape == (1, 56, 56, 3)
        assert clip.shape == (1, *view.shape)
        assert clip.dtype == np.uint8
        assert np.array_equal(clip[0, 0], np.asarray(wanted))


@pytest.mark.parametrize(("height", "width"), [(75, 100), (101, 70), (30, 30)])
def test_evaluation_view_equals_pillow(height, width):
    data = encode(picture(1, height, width))
    image = Image.open(io.BytesIO(data))
    scale = 36 / min(height, width)
    size = (36, int(36 * height / width)) if width < height else (int(36 * width / height), 36)
    assert size[0] == pytest.approx(width * scale, abs=1)
    resized = image.resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - 32) / 2), round((size[1] - 32) / 2)
    wanted = np.asarray(resized.crop((left, top, left + 32, top + 32)))
    clip = EvalView(size=32, resize=36)(data, np.random.default_rng(0))
    assert np.array_equal(clip, wanted[None, None])


def test_evaluation_resizes_to_eight_sevenths_unless_told():
    data = encode(picture(2, 300, 400))
    rng = np.random.default_rng(0)
    assert np.array_equal(EvalView(size=224)(data, rng), EvalView(size=224, resize=256)(data, rng))
    assert not np.array_equal(
        EvalView(size=224)(data, rng), EvalView(size=224, resize=224)(data, rng)
    )


def test_augmentations_change_the_clip_and_repeat():
    data = encode(picture(3))
    plain = TrainView(size=32)
    for view in (
        TrainView(size=32, rand_augment="rand-m9-mstd0.5-inc1"),
        TrainView(size=32, color_jitter=0.4),
    ):
        changed = 0
        for seed in range(12):
            clip = view(data, np.random.default_rng(seed))
            assert np.array_equal(clip, view(data, np.random.default_rng(seed)))
            changed += not np.array_equal(clip, plain(data, np.random.default_rng(seed)))
        assert changed > 4


def test_bad_bytes_are_bad_media():
    for view in (TrainView(size=16), EvalView(size=16)):
        with pytest.raises(BadMedia):
            view(encode(picture(4))[:300], np.random.default_rng(0))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": 0}, "size is 0"),
        ({"crop_area": (0.0, 1.0)}, "crop_area"),
        ({"crop_area": (0.5, 1.1)}, "crop_area"),
        ({"crop_ratio": (2.0, 1.0)}, "crop_ratio"),
        ({"interpolation": "cubic"}, "'cubic' is not one of"),
        ({"rand_augment": "augmix"}, "augmix"),
        ({"color_jitter": -0.4}, "color_jitter is -0.4"),
        ({"max_pixels": 0}, "max_pixels is 0"),
    ],
)
def test_refuses_bad_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        TrainView(**settings)


def test_refuses_to_crop_more_than_it_resized():
    with pytest.raises(ValueError, match="resize=200 leaves less than the 224 pixels"):
        EvalView(size=224, resize=200)
