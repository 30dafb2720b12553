from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from input_pipeline.bad_inputs import BadMedia
from input_pipeline.decode import images as decode
from input_pipeline.views.crops import Window
from tests.input_pipeline.samples import encode, picture


def assert_equals_pillow(data: bytes, window: Window) -> None:
    top, left, height, width = window
    image = Image.open(io.BytesIO(data)).convert("RGB")
    expected = np.asarray(image.crop((left, top, left + width, top + height)))
    assert np.array_equal(np.asarray(decode.open_picture(data).crop(window)), expected), window


def random_windows(seed: int, height: int, width: int, count: int = 40):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        crop_height, crop_width = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
        top = int(rng.integers(0, height - crop_height + 1))
        left = int(rng.integers(0, width - crop_width + 1))
        yield Window(top, left, crop_height, crop_width)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_any_window_of_a_jpeg_equals_pillow_bit_for_bit(subsampling, progressive):
    data = encode(picture(0, 93, 130), quality=85, subsampling=subsampling, progressive=progressive)
    for window in random_windows(1, 93, 130):
        assert_equals_pillow(data, window)


MODES = [("png", mode) for mode in ("RGB", "L", "RGBA", "P", "LA", "1")]
MODES += [("webp", mode) for mode in ("RGB", "L", "RGBA", "P")] + [("jpeg", "L"), ("jpeg", "CMYK")]


@pytest.mark.parametrize(("kind", "mode"), MODES)
def test_other_formats_and_modes_equal_pillow(kind, mode):
    data = encode(Image.fromarray(picture(4)).convert(mode), kind)
    for window in random_windows(3, 60, 81, count=8):
        assert_equals_pillow(data, window)


def test_sixteen_bits_keep_the_upper_eight():
    values = np.arange(0, 65536, 65536 // 64, dtype=np.uint16).reshape(8, 8)
    crop = decode.open_picture(encode(values, "png")).whole()
    assert np.array_equal(np.asarray(crop), np.repeat((values >> 8)[..., None], 3, axis=2))


def test_orientation_tags_are_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    data = encode(picture(5, 40, 64), exif=exif)
    opened = decode.open_picture(data)
    assert (opened.height, opened.width) == (40, 64)


def test_of_an_animation_the_first_frame_counts():
    frames = [Image.fromarray(picture(seed)) for seed in (6, 7)]
    data = encode(frames[0], "webp", save_all=True, append_images=frames[1:], lossless=True)
    assert np.array_equal(np.asarray(decode.open_picture(data).whole()), picture(6))


def test_pixels_pass_through():
    crop = decode.open_picture(picture(9)).crop(Window(1, 2, 30, 20))
    assert np.array_equal(np.asarray(crop), picture(9)[1:31, 2:22])


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404</html>", "not_media"),
        (b"GIF89a" + bytes(100), "not_media"),
        (b"BM" + bytes(100), "not_media"),
    ],
)
def test_refuses_by_the_first_bytes(data, kind):
    with pytest.raises(BadMedia) as caught:
        decode.open_picture(data)
    assert caught.value.kind == kind


def test_refuses_large_images_before_decoding():
    data = encode(Image.new("L", (1000, 101)), "png")
    with pytest.raises(BadMedia, match="1000x101 pixels, the limit is 100000") as caught:
        decode.open_picture(data, max_pixels=100_000)
    assert caught.value.kind == "too_large"
    assert decode.open_picture(data, max_pixels=101_000).width == 1000


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("window", [Window(0, 0, 5, 5), Window(0, 0, 60, 81)])
def test_half_a_file_is_an_error_for_any_window(kind, window):
    data = encode(picture(10), kind)
    with pytest.raises(Exception):  # noqa: B017, PT011 decoders raise many kinds
        decode.open_picture(data[: len(data) // 2]).crop(window)


def test_a_jpeg_with_trailing_bytes_is_fine():
    assert_equals_pillow(encode(picture(11)) + bytes(7), Window(2, 3, 11, 12))


def test_pixels_of_a_png_that_do_not_fit_their_checksum_are_refused():
    data = bytearray(encode(picture(12), "png", compress_level=0))
    decode.open_picture(bytes(data)).whole()
    data[len(data) // 2] ^= 1  # stored, not deflated: only the checksum detects it
    with pytest.raises(
        BadMedia, match=r"checksum of the pixel data at byte \d+ is wrong"
    ) as caught:
        decode.open_picture(bytes(data)).whole()
    assert caught.value.kind == "decode_error"


def test_a_jpeg_of_a_thousand_scans_is_refused_before_decoding():
    """Each scan of a few bytes makes the decoder go over all pixels once more."""
    start, *scans = encode(picture(13), progressive=True).split(b"\xff\xda")
    many = b"\xff\xda".join([start, *scans[:-1], *[scans[-1].removesuffix(b"\xff\xd9")] * 1000])
    with pytest.raises(BadMedia, match=r"a JPEG of 10\d\d scans, the limit is 64") as caught:
        decode.open_picture(many + b"\xff\xd9")
    assert caught.value.kind == "too_large"
