"""Odd, wrong and explosive media made by hand, each with the result that it must have."""

from __future__ import annotations

import io
import pathlib
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image, features

from bench.faults.files.kinds import File, Format, load
from input_pipeline import EvalView, ImageFolder, TrainView, VideoFolder
from input_pipeline.decode.kinds import ENDINGS
from input_pipeline.decode.video import VideoFile
from tests.input_pipeline.decode.damaged_videos_test import audio_only
from tests.input_pipeline.decode.packets_test import in_packs, repeated
from tests.input_pipeline.samples import encode, picture
from tests.input_pipeline.video_samples import encode_video


def video(frames: int | list = 30, **options: Any) -> Callable[[], bytes]:
    """Makes a video; see `encode_video`."""
    return lambda: encode_video(frames, **options)


def image(kind: str = "jpeg", mode: str = "RGB", **options: Any) -> Callable[[], bytes]:
    """Makes an image in a mode of Pillow."""
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


def animated(kind: str) -> Callable[[], bytes]:
    """Makes a file of two pictures."""
    first, second = (Image.fromarray(picture(seed)) for seed in (1, 2))
    return lambda: encode(first, kind, save_all=True, append_images=[second])


def blank(height: int, width: int) -> Callable[[], bytes]:
    """Makes a black PNG."""
    return lambda: encode(np.zeros((height, width, 3), np.uint8), "png")


def made(suffix: str, make: Callable[[], bytes], expected: str | int) -> File:
    """With the result: a class of failure, "image", or how many frames a video has."""
    return File(suffix, make, frozenset([str(expected)]))


def read(path: pathlib.Path, _: str) -> str:
    """How many frames a video has; else "image"."""
    is_video = path.suffix not in ENDINGS["image"]
    source = (VideoFolder if is_video else ImageFolder)(path=str(path.parent))
    frames = 16 if is_video else 1
    for view in (EvalView(size=32, resize=36, frames=frames), TrainView(size=32, frames=frames)):
        load(source, view)
    if not is_video:
        return "image"
    with VideoFile(str(path)).open() as opened:
        return str(opened.num_frames)


MPEG = {"codec": "mpeg1video", "b": "2M"}
WMV = {"codec": "wmv2", "b": "2M", "b_frames": 0}
TEN_BITS = {"pixels": "yuv420p10le"}
UNEVEN = [0, 1, 5, 6, 7, 30, 31, 60, 61, 90]
SEGMENT = b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x01" + b"\xff" * 7
TEXT = b"a\0\0"
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500)

_ODD = {
    "0 bytes": made(".mp4", lambda: b"", "empty"),
    "a web page": made(".mp4", lambda: b"<!DOCTYPE html><title>404</title>", "not_media"),
    "zeros": made(".mp4", lambda: bytes(5000), "not_media"),
    "an image called video": made(".mp4", image(), "not_media"),
    "MPEG transport": made(".mp4", video(container="mpegts"), 30),
    "Flash": made(".mp4", video(container="flv"), 30),
    "MPEG transport by its name": made(".ts", video(container="mpegts"), 30),
    "Blu-ray": made(".m2ts", video(container="mpegts", muxer={"mpegts_m2ts_mode": "1"}), 30),
    "Flash by its name": made(".flv", video(container="flv"), 30),
    "MPEG": made(".mpg", video(container="mpeg", **MPEG), 30),
    "MPEG, frames without a container": made(
        ".mpg", video(container="mpeg1video", **MPEG), "not_media"
    ),
    "Windows Media": made(".wmv", video(container="asf", sound=True, **WMV), 30),
    "Windows Media called MP4": made(".mp4", video(container="asf", **WMV), 30),
    "M4V": made(".m4v", video(container="ipod"), 30),
    "3GP": made(".3gp", video(container="3gp", codec="mpeg4", b="2M"), 30),
    "Ogg": made(".mkv", lambda: b"OggS" + bytes(500), "not_media"),
    "a video without an ending": made("", video(), 30),
    "sound only": made(".mp4", audio_only, "no_video"),
    "HEIC": made(".mp4", lambda: HEIC, "not_media"),
    "an MP4 called AVI": made(".avi", video(), 30),
    "sound and a cover": made(".mp4", video(sound=True), 30),
    "1 frame": made(".mp4", video(1), 1),
    "2 frames, clips of 16": made(".mp4", video(2), 2),
    "uneven times": made(".mp4", video(10, times=UNEVEN, time_base=Fraction(1, 90)), 10),
    "rotated": made(
        ".mp4",
        patched(video(), b"tkhd", 40, struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)),
        30,
    ),
    "sides of odd length": made(".mp4", sized(63, 95, pixels="yuv444p"), 2),
    "ten bits": made(".mp4", video(**TEN_BITS), 30),
    "4:4:4": made(".mp4", video(pixels="yuv444p"), 30),
    "grey": made(".mp4", video(pixels="gray"), 30),
    "alpha": made(".webm", video(container="webm", codec="libvpx-vp9", pixels="yuva420p"), 30),
    "interlaced": made(".mp4", video(**{"x264-params": "tff=1"}), 30),
    "only key frames": made(".mp4", video(gop=1), 30),
    "one key frame": made(".mp4", video(gop=1000), 30),
    "VP8": made(".webm", video(container="webm", codec="libvpx"), 30),
    "MPEG-4 in AVI": made(".avi", video(container="avi", codec="mpeg4"), 30),
    "pictures of MPEG-4 that are not coded": made(
        ".avi", lambda: repeated("avi", 5, 0, True, b_frames=0), 18
    ),
    "two pictures in a packet": made(".avi", lambda: in_packs("avi", 1, 0), 18),
    "H.264 with B-frames in AVI": made(".avi", video(container="avi"), 30),
    "Motion JPEG": made(".avi", motion_jpeg, 30),
    "no duration": made(".mkv", video(container="matroska", muxer={"live": "1"}), 30),
    "wrong duration": made(".mp4", patched(video(), b"mvhd", 16, b"\x7f\xff\xff\xff"), 30),
    "an edit list that hides 10 frames": made(".mp4", video(shift=-10), 20),
    "late times": made(".mkv", video(container="matroska", shift=100_000), 30),
    "fragments": made(".mp4", video(muxer={"movflags": "frag_keyframe+empty_moov"}), 30),
    "QuickTime": made(".mov", video(container="mov"), 30),
    "1000 frames a second": made(".mp4", video(rate=1000), 30),
    "1 frame in 10 seconds": made(".mp4", video(rate=Fraction(1, 10)), 30),
    "16 x 16 pixels": made(".mp4", sized(16, 16), 2),
    "a strip of 16 x 2000": made(".mp4", sized(16, 2000), 2),
    "CMYK": made(".jpg", image(mode="CMYK"), "image"),
    "grey JPEG": made(".jpg", image(mode="L"), "image"),
    "16-bit PNG": made(
        ".png", lambda: encode(np.full((40, 40), 40_000, np.uint16), "png"), "image"
    ),
    "palette": made(".png", image("png", "P"), "image"),
    "one bit": made(".png", image("png", "1"), "image"),
    "alpha PNG": made(".png", image("png", "RGBA"), "image"),
    "animated WebP": made(".webp", animated("webp"), "image"),
    "a PNG called JPEG": made(".jpg", image("png"), "image"),
    "1 x 1 pixel": made(".png", blank(1, 1), "image"),
    "1 x 3000 pixels": made(".png", blank(1, 3000), "image"),
    "garbage after JPEG": made(".jpg", lambda: image()() + b"\xff\xd8" * 50, "image"),
    "GIF": made(".jpg", image("gif", "P"), "image"),
    "TIFF": made(".jpg", image("tiff"), "image"),
    "BMP": made(".jpg", image("bmp"), "image"),
    "JFIF": made(".jfif", image(), "image"),
    "animated GIF": made(".gif", animated("gif"), "image"),
    "TIFF of two pages": made(".tif", animated("tiff"), "image"),
    "TIFF of fractions": made(".tif", image("tiff", "F"), "decode_error"),
    "BMP with a palette": made(".bmp", image("bmp", "P"), "image"),
    "JPEG 2000": made(".jpg", image("jpeg2000"), "not_media"),
    "SVG": made(".jpg", lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not_media"),
    "EPS": made(".jpg", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n", "not_media"),
    "half a JPEG": made(".jpg", lambda: image()()[:900], "decode_error"),
}
if features.check("avif"):
    _ODD["AVIF"] = made(".avif", image("avif"), "image")
_BOMBS = {
    "PNG of 12,000 x 1": made(".png", blank(1, 12_000), "image"),
    "PNG of 2 x 60,000": made(".png", blank(60_000, 2), "image"),
    "a video of 8,000 x 16": made(".mp4", sized(16, 8000), 2),
    "a video of 16 x 8,000": made(".mp4", sized(8000, 16), 2),
    "GIF of 65,535 x 65,535": made(
        ".gif", patched(image("gif"), b"GIF87a", 0, b"\xff" * 4), "too_large"
    ),
    "BMP of 100,000 x 100,000": made(
        ".bmp", patched(image("bmp"), b"BM", 16, struct.pack("<ii", *[100_000] * 2)), "too_large"
    ),
    "TIFF of 100,000,000 x 60": made(
        ".tif",
        patched(image("tiff"), b"\0\1\4\0\1\0\0\0", 0, struct.pack("<I", 100_000_000)),
        "too_large",
    ),
    "PNG of 100,000 x 100,000": made(
        ".png", lambda: png(100_000, 100_000, (b"IDAT", zeros(1000))), "too_large"
    ),
    "PNG of 196 million pixels in 24 kB": made(
        ".png",
        lambda: png(14_000, 14_000, (b"IDAT", zeros(1751 * 14_000)), bits=1),
        "too_large",
    ),
    "PNG with 200 MB of text": made(
        ".png",
        lambda: png(8, 8, (b"zTXt", TEXT + zeros(200_000_000)), (b"IDAT", zeros(72))),
        "decode_error",
    ),
    "PNG with a profile of 200 MB": made(
        ".png",
        lambda: png(8, 8, (b"iCCP", TEXT + zeros(200_000_000)), (b"IDAT", zeros(72))),
        "decode_error",
    ),
    "JPEG of 65,500 x 65,500": made(
        ".jpg",
        patched(image(), b"\xff\xc0", 3, struct.pack(">HH", 65_500, 65_500)),
        "too_large",
    ),
    "JPEG of 1,000 scans": made(".jpg", many_scans, "too_large"),
    "WebP of 16,383 x 16,383": made(
        ".webp",
        patched(image("webp"), b"\x9d\x01\x2a", 0, struct.pack("<HH", 16_383, 16_383)),
        "too_large",
    ),
    "a frame of 7,680 x 4,320": made(".mp4", sized(4320, 7680, preset="ultrafast"), "too_large"),
    "a header of 65,535 x 65,535 on small frames": made(
        ".mp4", patched(video(), b"avc1", 24, struct.pack(">HH", 65_535, 65_535)), 30
    ),
    "frames of 65,500 x 65,500 behind a small header": made(
        ".avi",
        lambda: motion_jpeg().replace(
            b"\xff\xc0\0\x11\x08\0\x3c\0\x51", b"\xff\xc0\0\x11\x08\xff\xdc\xff\xdc"
        ),
        "decode_error",
    ),
    "VP8 of 16,383 x 16,383 behind a small header": made(
        ".webm",
        patched(
            video(container="webm", codec="libvpx"),
            b"\x9d\x01\x2a",
            0,
            struct.pack("<HH", 16_383, 16_383),
        ),
        "decode_error",
    ),
    "a million frames that are there": made(".mp4", lambda: many_frames(10**6, 10**6), "too_large"),
    "a billion frames that are not": made(".mp4", lambda: many_frames(10**9, 0), "short"),
    "500 streams": made(".mkv", many_streams, "too_large"),
    "20,000 boxes in each other": made(".mp4", lambda: nested(20_000), "decode_error"),
    "100,000 elements of nothing": made(
        ".mkv", lambda: SEGMENT + b"\xec\x80" * 100_000, "decode_error"
    ),
}
if features.check("avif"):
    _BOMBS["AVIF of 16,000 x 16,000"] = made(
        ".avif",
        patched(image("avif"), b"ispe", 4, struct.pack(">II", 16_000, 16_000)),
        "too_large",
    )

_SOUND = ("2 frames, clips of 16", "palette", "grey JPEG")
ODD = Format(
    "E3",
    "odd and wrong videos and images made by hand, each with its documented result",
    "each read as it is",
    _ODD,
    {"read": read},
    warm=_SOUND,
)
BOMBS = Format(
    "E4",
    "bombs: sizes, frames, streams, scans, text and nesting far beyond what is there",
    "sound files, strips of extreme shape and small frames behind a large header are read, all "
    "others are refused; each in 3 s of the processor and 200 MB more memory",
    {**{name: _ODD[name] for name in _SOUND}, **_BOMBS},
    {"read": read},
    warm=_SOUND,
)
