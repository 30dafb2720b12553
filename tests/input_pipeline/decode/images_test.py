from __future__ import annotations

import io
import struct
import zlib

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
MODES += [("tiff", mode) for mode in ("RGB", "L", "RGBA", "P", "LA", "1", "CMYK")]
MODES += [("bmp", "RGB"), ("bmp", "P"), ("gif", "RGB"), ("gif", "L"), ("avif", "RGBA")]


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


@pytest.mark.parametrize("kind", ["webp", "tiff", "gif", "avif"])
def test_of_an_animation_the_first_frame_counts(kind):
    frames = [Image.fromarray(picture(seed)) for seed in (6, 7)]
    options = {"lossless": True} if kind == "webp" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    error = np.abs(np.asarray(decode.open_picture(data).whole()) - picture(6).astype(int)).mean()
    assert error < (10 if kind in ("gif", "avif") else 1e-9)  # another picture differs by 80


def test_pixels_pass_through():
    crop = decode.open_picture(picture(9)).crop(Window(1, 2, 30, 20))
    assert np.array_equal(np.asarray(crop), picture(9)[1:31, 2:22])


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404</html>", "not_media"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), "not_media"),
        (b"BM" + bytes(100), "not_media"),
    ],
)
def test_refuses_by_the_first_bytes(data, kind):
    with pytest.raises(BadMedia) as caught:
        decode.open_picture(data)
    assert caught.value.kind == kind


def tiff(pixels: np.ndarray, **more: int) -> bytes:
    """An uncompressed TIFF of pixels (height, width, samples) of any type, with more tags."""
    height, width, samples = pixels.shape
    tags = {256: width, 257: height, 258: 8 * pixels.itemsize, 259: 1, 262: min(samples, 2)}
    tags |= {273: 8, 277: samples, 278: height, 279: pixels.nbytes}
    tags |= {339: "uif".index(pixels.dtype.kind) + 1}
    tags |= {int(tag[1:]): value for tag, value in more.items()}
    entries = [struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags)]
    start = struct.pack("<4sI", b"II*", 8 + pixels.nbytes) + pixels.tobytes()
    return start + struct.pack("<H", len(tags)) + b"".join(entries) + bytes(4)


@pytest.mark.parametrize("samples", [1, 3])
def test_a_tiff_of_sixteen_bits_keeps_the_upper_eight(samples):
    pixels = np.random.default_rng(0).integers(0, 1 << 16, (6, 8, samples), dtype="<u2")
    image = decode.open_picture(tiff(pixels)).whole()
    assert np.array_equal(np.asarray(image), np.broadcast_to(pixels >> 8, (6, 8, 3)))


@pytest.mark.parametrize(
    ("dtype", "more", "reason"),
    [
        ("<f4", {}, r"decode_error: TIFF of \(32,\) bits, sample format \(3,\)"),
        ("<i2", {}, "expected 8 bits, or 16 unsigned bits where 0 is black"),
        ("<u2", {"t262": 0}, r"TIFF of \(16,\) bits, sample format \(1,\), colours 0"),
        ("u1", {"t254": 1}, "not_media: the first picture of this TIFF is a thumbnail"),
        ("u1", {"t322": 60000, "t323": 60000}, "too_large: 60000x60000 pixels"),
        ("u1", {"t262": 99}, "decode_error: a TIFF file that Pillow cannot read"),
    ],
)
def test_a_tiff_whose_picture_would_be_another_is_refused(dtype, more, reason):
    with pytest.raises(BadMedia, match=reason):
        decode.open_picture(tiff(np.ones((6, 8, 1), dtype), **more))


def test_avif_needs_a_decoder(monkeypatch):
    data = encode(picture(0), "avif")
    assert decode.open_picture(data).whole().size == (81, 60)
    monkeypatch.setattr(decode.features, "check", lambda _: False)
    with pytest.raises(BadMedia, match="AVIF, but this Pillow was built without its decoder"):
        decode.open_picture(data)


def test_refuses_large_images_before_decoding():
    data = encode(Image.new("L", (1000, 101)), "png")
    with pytest.raises(BadMedia, match="1000x101 pixels, the limit is 100000") as caught:
        decode.open_picture(data, max_pixels=100_000)
    assert caught.value.kind == "too_large"
    assert decode.open_picture(data, max_pixels=101_000).width == 1000


def test_a_recipe_may_allow_more_pixels_than_pillow():
    data = encode(Image.new("L", (8, 8)), "png")
    header = b"IHDR" + struct.pack(">II", 20_000, 10_000) + data[24:29]
    data = data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    with pytest.raises(BadMedia, match=r"20000x10000 pixels, the limit is 64000000 \(max_pixels"):
        decode.open_picture(data)
    assert decode.open_picture(data, max_pixels=200_000_000).width == 20_000


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "bmp", "tiff", "gif", "avif"])
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
    # Also with what looks like the end of the image in a comment.
    comment = b"\xff\xfe\0\x04\xff\xd9"
    with pytest.raises(BadMedia, match="too_large"):
        decode.open_picture(many.replace(b"\xff\xda", comment + b"\xff\xda") + b"\xff\xd9")


def test_the_limit_of_scans_holds_for_a_jpeg_of_several_images(monkeypatch):
    image = Image.fromarray(picture(13))
    data = encode(image, "mpo", save_all=True, append_images=[image], progressive=True)
    assert decode.open_picture(data).whole().size == image.size
    monkeypatch.setattr(decode, "MAX_SCANS", 5)
    with pytest.raises(BadMedia, match=r"a JPEG of \d+ scans, the limit is 5"):
        decode.open_picture(data)


def test_a_video_after_a_jpeg_does_not_count_as_scans():
    data = encode(picture(13), progressive=True)
    assert_equals_pillow(
        data + b"\0\0\0\x18ftypmp42" + b"\xff\xda\0\x04" * 100, Window(2, 3, 11, 12)
    )


def test_an_image_is_decoded_once_for_all_frames_of_a_clip():
    image = decode.open_picture(encode(picture(0)))
    assert image.whole() is image.whole()
    truncated = decode.open_picture(encode(picture(0))[:-20])
    with pytest.raises(OSError, match="truncated"):
        truncated.whole()
