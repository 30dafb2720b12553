"""Odd, wrong and explosive media made by hand, each with the result that it must have."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from tests.input_pipeline.decode.damaged_videos_test import audio_only
from tests.input_pipeline.samples import encode, picture
from tests.input_pipeline.video_samples import encode_video


class Odd(NamedTuple):
    """A file to make.

    Attributes:
      fault: number in the catalogue.
      suffix: of its name.
      make: gives its bytes.
      expected: class of failure, "image", or how many frames a video has.
    """

    fault: str
    suffix: str
    make: Callable[[], bytes]
    expected: str | int


def video(frames: int | list = 30, **options: Any) -> Callable[[], bytes]:
    """Makes a video; see `encode_video`."""
    return lambda: encode_video(frames, **options)


def image(kind: str = "jpeg", mode: str = "RGB", **options: Any) -> Callable[[], bytes]:
    """Makes an image in a mode of Pillow."""
    from PIL import Image

    return lambda: encode(Image.fromarray(picture(1)).convert(mode), kind, **options)


def sized(height: int, width: int, **options: Any) -> Callable[[], bytes]:
    """Makes a video of black frames."""
    frames = [np.zeros((height, width, 3), np.uint8)] * 2
    return lambda: encode_video(frames, **options)


def patched(make: Callable[[], bytes], after: bytes, skip: int, new: bytes) -> Callable[[], bytes]:
    """Changes bytes at a distance from the first place where some others stand."""

    def change() -> bytes:
        data = make()
        at = data.index(after) + len(after) + skip
        return data[:at] + new + data[at + len(new) :]

    return change


def png(width: int, height: int, *chunks: tuple[bytes, bytes], bits: int = 8) -> bytes:
    """A PNG with any chunks after its header."""
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in ((b"IHDR", header), *chunks, (b"IEND", b"")):
        parts.append(struct.pack(">I", len(data)) + kind + data)
        parts.append(struct.pack(">I", zlib.crc32(kind + data)))
    return b"".join(parts)


def zeros(count: int) -> bytes:
    """So many zero bytes, compressed."""
    squeeze = zlib.compressobj(9)
    parts = [squeeze.compress(bytes(min(1 << 20, count - at))) for at in range(0, count, 1 << 20)]
    return b"".join([*parts, squeeze.flush()])


def many_frames(claimed: int, there: int) -> bytes:
    """An MP4 file whose samples are of one byte."""
    data = bytearray(encode_video(48, b_frames=0))
    for name, skip, words in (
        (b"stsz", 4, (1, claimed)),
        (b"stts", 8, (claimed,)),
        (b"stsc", 12, (claimed,)),
    ):
        at = data.index(name) + 4 + skip
        data[at : at + 4 * len(words)] = struct.pack(f">{len(words)}I", *words)
    return bytes(data) + struct.pack(">I", 8 + there) + b"free" + bytes(there)


def many_streams() -> bytes:
    """Five hundred videos in one file."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        streams = [output.add_stream("mpeg4", rate=25) for _ in range(500)]
        for stream in streams:
            stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
        for stream in streams:
            output.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
            output.mux(stream.encode(None))
    return file.getvalue()


def motion_jpeg() -> bytes:
    """Thirty JPEG images in AVI."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="avi") as output:
        stream = output.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 81, 60, "yuvj420p"
        stream.codec_context.color_range = 2
        for number in range(30):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame = frame.reformat(format="yuvj420p", dst_color_range=2)
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def many_scans() -> bytes:
    """A progressive JPEG that is gone over a thousand times."""
    start, *scans = image(progressive=True)().split(b"\xff\xda")
    last = scans[-1].removesuffix(b"\xff\xd9")
    return b"\xff\xda".join([start, *scans[:-1], *[last] * 1000]) + b"\xff\xd9"


def nested(depth: int) -> bytes:
    """Boxes in boxes."""
    data = b""
    for _ in range(depth):
        data = struct.pack(">I", 8 + len(data)) + b"moov" + data
    return b"\0\0\0\x10ftypmp42\0\0\0\0" + data


def animated() -> bytes:
    """A WebP of two pictures."""
    from PIL import Image

    first, second = (Image.fromarray(picture(seed)) for seed in (1, 2))
    return encode(first, "webp", save_all=True, append_images=[second])


TEN_BITS = {"pixels": "yuv420p10le"}
UNEVEN = [0, 1, 5, 6, 7, 30, 31, 60, 61, 90]
SEGMENT = b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x01" + b"\xff" * 7
TEXT = b"a\0\0"
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500)

ODD: dict[str, Odd] = {
    "0 bytes": Odd("E3", "mp4", lambda: b"", "empty"),
    "a web page": Odd("E3", "mp4", lambda: b"<!DOCTYPE html><title>404</title>", "not_media"),
    "zeros": Odd("E3", "mp4", lambda: bytes(5000), "not_media"),
    "an image called video": Odd("E3", "mp4", image(), "not_media"),
    "MPEG transport": Odd("E3", "mp4", video(container="mpegts"), "not_media"),
    "Flash": Odd("E3", "mp4", video(container="flv"), "not_media"),
    "sound only": Odd("E3", "mp4", audio_only, "no_video"),
    "HEIC": Odd("E3", "mp4", lambda: HEIC, "decode_error"),
    "an MP4 called AVI": Odd("E3", "avi", video(), 30),
    "sound and a cover": Odd("E3", "mp4", video(sound=True), 30),
    "1 frame": Odd("E3", "mp4", video(1), 1),
    "2 frames, clips of 16": Odd("E3", "mp4", video(2), 2),
    "uneven times": Odd("E3", "mp4", video(10, times=UNEVEN, time_base=Fraction(1, 90)), 10),
    "rotated": Odd(
        "E3",
        "mp4",
        patched(video(), b"tkhd", 40, struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)),
        30,
    ),
    "sides of odd length": Odd("E3", "mp4", sized(63, 95, pixels="yuv444p"), 2),
    "ten bits": Odd("E3", "mp4", video(**TEN_BITS), 30),
    "4:4:4": Odd("E3", "mp4", video(pixels="yuv444p"), 30),
    "grey": Odd("E3", "mp4", video(pixels="gray"), 30),
    "alpha": Odd("E3", "webm", video(container="webm", codec="libvpx-vp9", pixels="yuva420p"), 30),
    "interlaced": Odd("E3", "mp4", video(**{"x264-params": "tff=1"}), 30),
    "only key frames": Odd("E3", "mp4", video(gop=1), 30),
    "one key frame": Odd("E3", "mp4", video(gop=1000), 30),
    "VP8": Odd("E3", "webm", video(container="webm", codec="libvpx"), 30),
    "MPEG-4 in AVI": Odd("E3", "avi", video(container="avi", codec="mpeg4"), 30),
    "H.264 with B-frames in AVI": Odd("E3", "avi", video(container="avi"), 30),
    "Motion JPEG": Odd("E3", "avi", motion_jpeg, 30),
    "no duration": Odd("E3", "mkv", video(container="matroska", muxer={"live": "1"}), 30),
    "wrong duration": Odd("E3", "mp4", patched(video(), b"mvhd", 16, b"\x7f\xff\xff\xff"), 30),
    "an edit list that hides 10 frames": Odd("E3", "mp4", video(shift=-10), 20),
    "late times": Odd("E3", "mkv", video(container="matroska", shift=100_000), 30),
    "fragments": Odd("E3", "mp4", video(muxer={"movflags": "frag_keyframe+empty_moov"}), 30),
    "QuickTime": Odd("E3", "mov", video(container="mov"), 30),
    "1000 frames a second": Odd("E3", "mp4", video(rate=1000), 30),
    "1 frame in 10 seconds": Odd("E3", "mp4", video(rate=Fraction(1, 10)), 30),
    "16 x 16 pixels": Odd("E3", "mp4", sized(16, 16), 2),
    "a strip of 16 x 2000": Odd("E3", "mp4", sized(16, 2000), 2),
    "CMYK": Odd("E3", "jpg", image(mode="CMYK"), "image"),
    "grey JPEG": Odd("E3", "jpg", image(mode="L"), "image"),
    "16-bit PNG": Odd(
        "E3", "png", lambda: encode(np.full((40, 40), 40_000, np.uint16), "png"), "image"
    ),
    "palette": Odd("E3", "png", image("png", "P"), "image"),
    "one bit": Odd("E3", "png", image("png", "1"), "image"),
    "alpha PNG": Odd("E3", "png", image("png", "RGBA"), "image"),
    "animated WebP": Odd("E3", "webp", animated, "image"),
    "a PNG called JPEG": Odd("E3", "jpg", image("png"), "image"),
    "1 x 1 pixel": Odd("E3", "png", lambda: encode(np.zeros((1, 1, 3), np.uint8), "png"), "image"),
    "1 x 3000 pixels": Odd(
        "E3", "png", lambda: encode(np.zeros((1, 3000, 3), np.uint8), "png"), "image"
    ),
    "garbage after JPEG": Odd("E3", "jpg", lambda: image()() + b"\xff\xd8" * 50, "image"),
    "GIF": Odd("E3", "jpg", image("gif", "P"), "not_media"),
    "TIFF": Odd("E3", "jpg", image("tiff"), "not_media"),
    "BMP": Odd("E3", "jpg", image("bmp"), "not_media"),
    "JPEG 2000": Odd("E3", "jpg", image("jpeg2000"), "not_media"),
    "SVG": Odd("E3", "jpg", lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not_media"),
    "EPS": Odd("E3", "jpg", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n", "not_media"),
    "half a JPEG": Odd("E3", "jpg", lambda: image()()[:900], "decode_error"),
    "PNG of 100,000 x 100,000": Odd(
        "E4", "png", lambda: png(100_000, 100_000, (b"IDAT", zeros(1000))), "too_large"
    ),
    "PNG of 196 million pixels in 24 kB": Odd(
        "E4",
        "png",
        lambda: png(14_000, 14_000, (b"IDAT", zeros(1751 * 14_000)), bits=1),
        "too_large",
    ),
    "PNG with 200 MB of text": Odd(
        "E4",
        "png",
        lambda: png(8, 8, (b"zTXt", TEXT + zeros(200_000_000)), (b"IDAT", zeros(72))),
        "decode_error",
    ),
    "PNG with a profile of 200 MB": Odd(
        "E4",
        "png",
        lambda: png(8, 8, (b"iCCP", TEXT + zeros(200_000_000)), (b"IDAT", zeros(72))),
        "decode_error",
    ),
    "JPEG of 65,500 x 65,500": Odd(
        "E4",
        "jpg",
        patched(image(), b"\xff\xc0", 3, struct.pack(">HH", 65_500, 65_500)),
        "too_large",
    ),
    "JPEG of 1,000 scans": Odd("E4", "jpg", many_scans, "too_large"),
    "WebP of 16,383 x 16,383": Odd(
        "E4",
        "webp",
        patched(image("webp"), b"\x9d\x01\x2a", 0, struct.pack("<HH", 16_383, 16_383)),
        "too_large",
    ),
    "a frame of 7,680 x 4,320": Odd(
        "E4", "mp4", sized(4320, 7680, preset="ultrafast"), "too_large"
    ),
    "a header of 65,535 x 65,535 on small frames": Odd(
        "E4", "mp4", patched(video(), b"avc1", 24, struct.pack(">HH", 65_535, 65_535)), 30
    ),
    "frames of 65,500 x 65,500 behind a small header": Odd(
        "E4",
        "avi",
        lambda: motion_jpeg().replace(
            b"\xff\xc0\0\x11\x08\0\x3c\0\x51", b"\xff\xc0\0\x11\x08\xff\xdc\xff\xdc"
        ),
        "decode_error",
    ),
    "VP8 of 16,383 x 16,383 behind a small header": Odd(
        "E4",
        "webm",
        patched(
            video(container="webm", codec="libvpx"),
            b"\x9d\x01\x2a",
            0,
            struct.pack("<HH", 16_383, 16_383),
        ),
        "decode_error",
    ),
    "a million frames that are there": Odd(
        "E4", "mp4", lambda: many_frames(10**6, 10**6), "too_large"
    ),
    "a billion frames that are not": Odd("E4", "mp4", lambda: many_frames(10**9, 0), "short"),
    "500 streams": Odd("E4", "mkv", many_streams, "too_large"),
    "20,000 boxes in each other": Odd("E4", "mp4", lambda: nested(20_000), "decode_error"),
    "100,000 elements of nothing": Odd(
        "E4", "mkv", lambda: SEGMENT + b"\xec\x80" * 100_000, "decode_error"
    ),
}
