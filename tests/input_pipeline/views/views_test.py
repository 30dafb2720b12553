from __future__ import annotations

import contextlib
import io
import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from input_pipeline import EvalView, TrainView
from input_pipeline.bad_inputs import BadMedia
from input_pipeline.decode.video import VideoFile
from input_pipeline.views import clips
from input_pipeline.views.crops import Window, random_resized_crop, short_side
from tests.input_pipeline.samples import FakeVideo, encode, picture
from tests.input_pipeline.video_samples import encode_video


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_training_crop_equals_pillow_bit_for_bit():
    data = encode(picture(0, 120, 170), quality=90)
    view = TrainView(size=56, crop_area=(0.08, 1.0))
    image = Image.open(io.BytesIO(data)).convert("RGB")
    for seed in range(30):
        top, left, height, width = random_resized_crop(
            rng(seed), 120, 170, (0.08, 1.0), (3 / 4, 4 / 3)
        )
        expected = image.crop((left, top, left + width, top + height)).resize(
            (56, 56), Image.Resampling.BICUBIC
        )
        clip = view(data, rng(seed))
        assert view.shape == (1, 56, 56, 3)
        assert clip.shape == (1, *view.shape)
        assert clip.dtype == np.uint8
        assert np.array_equal(clip[0, 0], np.asarray(expected))


@pytest.mark.parametrize(("height", "width"), [(75, 100), (101, 70), (30, 30)])
def test_evaluation_view_equals_pillow(height, width):
    data = encode(picture(1, height, width))
    image = Image.open(io.BytesIO(data))
    scale = 36 / min(height, width)
    size = (36, int(36 * height / width)) if width < height else (int(36 * width / height), 36)
    assert size[0] == pytest.approx(width * scale, abs=1)
    resized = image.resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - 32) / 2), round((size[1] - 32) / 2)
    expected = np.asarray(resized.crop((left, top, left + 32, top + 32)))
    clip = EvalView(size=32, resize=36)(data, rng())
    assert np.array_equal(clip, expected[None, None])


def test_evaluation_resizes_to_eight_sevenths_by_default():
    data = encode(picture(2, 300, 400))
    by_default, to_256, to_224 = (
        EvalView(size=224, resize=resize)(data, rng()) for resize in (None, 256, 224)
    )
    assert np.array_equal(by_default, to_256)
    assert not np.array_equal(by_default, to_224)


def test_augmentations_change_the_clip_and_repeat():
    data = encode(picture(3))
    plain = TrainView(size=32)
    for view in (
        TrainView(size=32, rand_augment="rand-m9-mstd0.5-inc1"),
        TrainView(size=32, color_jitter=0.4),
    ):
        changed = 0
        for seed in range(12):
            clip = view(data, rng(seed))
            assert np.array_equal(clip, view(data, rng(seed)))
            changed += not np.array_equal(clip, plain(data, rng(seed)))
        assert changed > 4


def test_bad_bytes_are_bad_media():
    for view in (TrainView(size=16), EvalView(size=16)):
        with pytest.raises(BadMedia):
            view(encode(picture(4))[:300], rng())


def test_refuses_to_crop_more_than_it_resized():
    with pytest.raises(ValueError, match="resize=200 is less than the 224 pixels"):
        EvalView(size=224, resize=200)


def still(pixels: np.ndarray) -> FakeVideo:
    """A video in which each frame is the same."""
    video = FakeVideo(100)
    video.frames = lambda indices, short_side: np.stack([pixels] * len(indices))
    return video


def test_a_clip_shares_one_window_and_one_augmentation():
    video = still(picture(5, 60, 81))
    for view in (
        TrainView(size=32, frames=5, stride=3, rand_augment="rand-m9-mstd0.5-inc1"),
        TrainView(size=32, frames=5, color_jitter=0.4),
        TrainView(
            size=32,
            frames=5,
            rand_augment="rand-m9-mstd0.5-inc1",
            augment_first=True,
            interpolation="bilinear",
            antialias=False,
            short_side=60,
        ),
        TrainView(size=32, frames=5, scale_jitter=(32, 48)),
    ):
        for seed in range(5):
            (clip,) = view(video, rng(seed))
            assert clip.shape == view.shape == (5, 32, 32, 3)
            assert (clip == clip[:1]).all()


def test_only_the_frames_of_the_clip_are_decoded_and_each_once():
    video = FakeVideo(10)
    (clip,) = TrainView(size=16, frames=16, stride=4)(video, rng())
    assert clip[:, 0, 0, 0].tolist() == [0, 4, 8] + [9] * 13
    assert video.decoded == [0, 4, 8, 9]


def test_repeats_share_frames_by_default():
    video = FakeVideo(200)
    for seed in range(5):
        clips = TrainView(size=16, frames=4, stride=4, repeats=3)(video, rng(seed))
        assert (clips[:, :, 0, 0, 0] == clips[:1, :, 0, 0, 0]).all()
    clips = TrainView(size=16, frames=4, repeats=8, new_frames=True)(video, rng())
    assert len({tuple(clip[:, 0, 0, 0]) for clip in clips}) > 4


def test_repeats_are_cropped_each_on_its_own():
    video = still(picture(6, 60, 81))
    first, second = TrainView(size=16, frames=2, repeats=2)(video, rng())
    assert not np.array_equal(first, second)


def test_resizing_without_antialiasing_equals_torch():
    """Numbers of torch.nn.functional.interpolate(bilinear, align_corners=False)."""
    pixels = np.arange(6 * 9, dtype=np.uint8).reshape(6, 9, 1).repeat(3, 2) * 4
    view = TrainView(
        size=4,
        crop_area=(1.0, 1.0),
        crop_ratio=(1.5, 1.5),
        interpolation="bilinear",
        antialias=False,
    )
    (clip,) = view(still(pixels), rng())
    y = (np.arange(4) + 0.5) * 6 / 4 - 0.5
    x = (np.arange(4) + 0.5) * 9 / 4 - 0.5
    expected = 4 * (9 * y[:, None] + x[None])  # the picture is linear
    np.testing.assert_allclose(clip[0, :, :, 0], expected, atol=0.6)


def test_crops_of_evaluation_lie_along_the_longer_side():
    wide = np.arange(297, dtype=np.uint8)[None, :, None].repeat(224, 0).repeat(3, 2)
    view = EvalView(size=224, resize=224, frames=1, crops=3)
    for pixels in (wide, wide.swapaxes(0, 1)):
        assert view(still(pixels), rng())[:, 0, 0, 0, 0].tolist() == [0, 37, 73]
    odd = np.arange(341).astype(np.uint8)[None, :, None].repeat(256, 0).repeat(3, 2)
    (clip,) = EvalView(size=224, resize=256, frames=2)(still(odd), rng())
    assert clip[0, 0, 0, 0] == 59  # PySlowFast rounds up


def test_an_image_is_a_video_of_one_frame():
    data = encode(picture(7))
    (clip,) = EvalView(size=32, frames=4, stride=2)(data, rng())
    assert (clip == EvalView(size=32)(data, rng())[0]).all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": 0}, "size is 0"),
        ({"frames": 0}, "frames is 0"),
        ({"repeats": 0}, "repeats is 0"),
        ({"new_frames": True}, "new_frames=True"),
        ({"crop_area": (0.0, 1.0)}, "crop_area"),
        ({"crop_area": (0.5, 1.1)}, "crop_area"),
        ({"crop_ratio": (2.0, 1.0)}, "crop_ratio"),
        ({"scale_jitter": (200, 320)}, "scale_jitter"),
        (
            {"sampling": "densely"},
            "sampling 'densely' is not one of dense, segment, strided, centred",
        ),
        ({"sampling": "segment", "stride": 4}, "stride=4"),
        ({"interpolation": "cubic"}, "'cubic' is not one of"),
        ({"interpolation": "lanczos", "antialias": False}, "'lanczos' is not one of"),
        ({"rand_augment": "augmix"}, "augmix"),
        ({"color_jitter": -0.4}, "color_jitter is -0.4"),
        ({"max_pixels": 0}, "max_pixels is 0"),
    ],
)
def test_refuses_bad_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        TrainView(**settings)


def test_too_large_videos_are_refused_before_decoding():
    video = FakeVideo()
    with pytest.raises(BadMedia, match="81x60 pixels"):
        TrainView(size=16, max_pixels=1000)(video, rng())
    assert video.decoded == []


def test_the_limit_of_pixels_holds_for_images_and_for_videos():
    data = encode_video([np.zeros((90, 120, 3), np.uint8)] * 2)
    for view in (TrainView(size=16, max_pixels=10_799), EvalView(size=16, max_pixels=10_799)):
        for example in (VideoFile(data), encode(np.zeros((90, 120, 3), np.uint8), "png")):
            with pytest.raises(BadMedia, match="120x90 pixels, the limit is 10799 .max_pixels"):
                view(example, rng())
    assert EvalView(size=16, max_pixels=10_800)(VideoFile(data), rng()).shape == (1, 1, 16, 16, 3)


def test_the_limit_of_pixels_of_a_video_can_be_raised():
    data = encode_video([np.full((4098, 4098, 3), 200, np.uint8)], preset="ultrafast")
    view = EvalView(size=16, resize=16)
    with pytest.raises(BadMedia, match="4098x4098 pixels, the limit is 16777216 .max_pixels"):
        view(VideoFile(data), rng())
    clip = EvalView(size=16, resize=16, max_pixels=4098 * 4098)(VideoFile(data), rng())
    assert np.abs(clip.astype(int) - 200).max() < 5  # of YUV


def test_limits_of_frames_and_time_are_those_of_the_view():
    data = encode_video(6)
    with pytest.raises(BadMedia, match="6 frames, the limit is 5 .max_frames"):
        EvalView(size=16, max_frames=5)(VideoFile(data), rng())
    with pytest.raises(BadMedia, match="timeout: .*timeout_seconds"):
        EvalView(size=16, timeout_seconds=1e-9)(VideoFile(data), rng())


@contextlib.contextmanager
def at_most_more(num_bytes: int):
    """The process may not allocate more than this on top."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def strip(length: int, thickness: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (length, thickness, 3), np.uint8)


VIEWS = [
    EvalView(size=224, frames=16, resize=256),
    EvalView(size=224, frames=16, crops=3, sampling="strided"),
    TrainView(size=224, frames=16, short_side=256),
    TrainView(size=224, frames=16, scale_jitter=(256, 320)),
    TrainView(
        size=224,
        frames=16,
        short_side=256,
        scale_jitter=(256, 320),
        interpolation="bilinear",
        antialias=False,
    ),
    TrainView(
        size=224,
        frames=16,
        short_side=256,
        augment_first=True,
        rand_augment="rand-m9-mstd0.5-inc1",
        color_jitter=0.4,
    ),
]


@pytest.fixture(scope="module")
def strips() -> list[bytes | VideoFile]:
    """Of which the whole would be scaled to 1 to 8 GiB."""
    video = encode_video([strip(8000, 16)] * 16, preset="ultrafast")
    turned = encode_video([strip(8000, 16).swapaxes(0, 1)] * 16, preset="ultrafast")
    pictures = [strip(12000, 1), strip(12000, 1).swapaxes(0, 1), strip(60000, 2)]
    return [VideoFile(video), VideoFile(turned), *(encode(p, "png") for p in pictures)]


@pytest.mark.parametrize("view", VIEWS, ids=range(len(VIEWS)))
def test_extreme_shapes_need_little_memory(view, strips):
    for example in strips:
        view(example, rng())  # loads libraries
        with at_most_more(500 * 2**20):
            clip = view(example, rng())
        assert clip.shape == (view.clips_per_read, 16, 224, 224, 3)


@pytest.mark.parametrize("turned", [False, True])
def test_the_middle_of_a_strip_is_that_of_the_whole(turned):
    pixels = strip(12000, 1).swapaxes(0, 1) if turned else strip(12000, 1)
    (clip,) = EvalView(size=224, resize=256)(encode(pixels, "png"), rng())
    near = pixels[:, 5990:6010] if turned else pixels[5990:6010]
    large = (5120, 256) if turned else (256, 5120)
    whole = np.asarray(Image.fromarray(near).resize(large, Image.Resampling.BICUBIC))
    middle = whole[16:240, 2448:2672] if turned else whole[2448:2672, 16:240]
    np.testing.assert_array_equal(clip[0], middle)


def test_windows_of_an_enlarged_strip_are_those_of_the_whole():
    for height, width in ((700, 13), (9, 400)):
        image = Image.fromarray(strip(height, width))
        large = short_side(height, width, 41)
        windows = [Window(0, 0, 41, 41), Window(large[0] - 41, large[1] - 41, 41, 41)]
        windows.append(Window((large[0] - 30) // 2, (large[1] - 30) // 2, 30, 30))
        assert clips.enlarges_strip(height, width, 41)
        cut = clips.resize_and_crop(image, *large, windows, "bicubic", True)
        whole = image.resize(large[::-1], Image.Resampling.BICUBIC)
        for window, pixels in zip(windows, cut, strict=True):
            expected = np.asarray(clips.crop(whole, window)).astype(int)
            assert np.abs(np.asarray(pixels) - expected).max() <= 1


def test_rand_augment_can_be_switched_off_by_a_word():
    assert TrainView(rand_augment="none") == TrainView()


@pytest.mark.parametrize(
    "view",
    [
        TrainView(size=32, repeats=6, interpolation="bilinear", antialias=False),
        TrainView(size=32, repeats=6, augment_first=True),
        TrainView(size=32, repeats=6, scale_jitter=(32, 64)),
        EvalView(size=32, crops=3),
        EvalView(size=32, resize=32),
    ],
)
@pytest.mark.parametrize("shape", [(120, 200), (200, 120)])
def test_boxes_are_where_the_pixels_are_from(view, shape):
    rows, columns = (np.arange(n, dtype=np.float32) + 0.5 for n in shape)
    position = np.stack(np.broadcast_arrays(columns / shape[1], rows[:, None] / shape[0], 0.0), -1)
    video, placements = view.cut((position * 255).astype(np.uint8), np.random.default_rng(0))
    boxes = np.array([placement.box for placement in placements])
    assert boxes.shape == (len(video), 4)
    centres = (np.arange(32) + 0.5) / 32
    for clip, (left, top, right, bottom) in zip(video[:, 0] / 255, boxes, strict=True):
        np.testing.assert_allclose(
            clip[:, :, 0].mean(0), left + (right - left) * centres, atol=0.02
        )
        np.testing.assert_allclose(clip[:, :, 1].mean(1), top + (bottom - top) * centres, atol=0.02)
    if isinstance(view, TrainView):
        assert len(np.unique(boxes, axis=0)) == 6
