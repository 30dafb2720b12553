from __future__ import annotations

import io

import av
import numpy as np
import pytest

from input_pipeline.bad_inputs import BadMedia
from input_pipeline.decode import packets
from input_pipeline.decode.kinds import HEAD_BYTES, kind_of, require
from input_pipeline.decode.video import VideoFile
from tests.input_pipeline.samples import encode, picture
from tests.input_pipeline.video_samples import encode_video, numbers_of

MPEG = dict(b="2M")
WMV = dict(codec="wmv2", b="2M", b_frames=0)
VIDEOS = {
    "m4v": ("mov", dict(container="ipod")),
    "3gp": ("mov", dict(container="3gp", codec="mpeg4", b="2M")),
    "mpg": ("mpeg", dict(container="mpeg", codec="mpeg1video", b="2M")),
    "vob": ("mpeg", dict(container="vob", codec="mpeg2video", b="2M")),
    "ts": ("mpegts", dict(container="mpegts", sound=True)),
    "ts_mpeg2": ("mpegts", dict(container="mpegts", codec="mpeg2video", b="2M")),
    "m2ts": ("mpegts", dict(container="mpegts", muxer={"mpegts_m2ts_mode": "1"})),
    "wmv": ("asf", dict(container="asf", sound=True, **WMV)),
    "wmv_h264": ("asf", dict(container="asf")),
    "flv": ("flv", dict(container="flv", codec="flv", b="2M", b_frames=0)),
    "flv_h264": ("flv", dict(container="flv", sound=True)),
}


@pytest.mark.parametrize("kept_bytes", [0, packets.KEPT_BYTES], ids=["seek", "kept"])
@pytest.mark.parametrize("name", VIDEOS)
def test_any_frame_of_any_video_format(name, kept_bytes, monkeypatch):
    monkeypatch.setattr(packets, "KEPT_BYTES", kept_bytes)
    kind, options = VIDEOS[name]
    data = encode_video(30, **options)
    assert require(data[:HEAD_BYTES], "video").format == kind
    with av.open(io.BytesIO(data)) as container:
        expected = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    with VideoFile(data).open() as video:
        assert (video.num_frames, video.fps) == (30, 25)
        frames = video.frames(range(30))
        assert numbers_of(frames) == list(range(30))
        np.testing.assert_array_equal(frames, expected)
        for index in (29, 0, 17, 16, 5):
            np.testing.assert_array_equal(video.frames([index])[0], expected[index])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF"])
def test_images(kind):
    assert require(encode(picture(0), kind)[:HEAD_BYTES], "image").format == kind


def test_big_endian_and_big_tiff_and_avif_as_a_general_brand():
    for head in (b"MM\0*" + bytes(8), b"II+\0\x08\0\0\0"):
        assert require(head, "image").format == "TIFF"
    brands = b"\0\0\0\x20ftypmif1\0\0\0\0mif1miafavif"
    assert require(brands + bytes(100), "image").format == "AVIF"


@pytest.mark.parametrize(
    "head",
    [
        b"The free software of this folder",
        b"BMW 320i, a car; " + b"(" * 40,
        b"GGGG ACGT " * 200,
        b"ACGT" * 300,
        b"<!DOCTYPE html>",
        b"RIFF\x24\0\0\0WAVEfmt ",
        bytes(HEAD_BYTES),
        b"\x80\x04\x95",
    ],
)
def test_neither_texts_nor_other_files(head):
    assert kind_of(head) is None


@pytest.mark.parametrize(
    ("head", "title"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIF"),
        (b"\0\0\0\x1cftypM4A \0\0\0\0M4A mp42", "sound"),
        (b"II*\0\x10\0\0\0CR\x02\0", "a raw photograph"),
        (b"\0\0\x01\xb3\x06\0\x40\x13", "elementary stream"),
        (b"OggS\0\2", "Ogg"),
        (b"GIF89a", "GIF"),
    ],
)
def test_what_is_known_but_is_no_video_is_named(head, title):
    with pytest.raises(BadMedia, match=f"not_media: this is .*{title}.*; expected MP4/MOV, Matr"):
        require(head, "video")
