from __future__ import annotations

import io
import os
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from input_pipeline.bad_inputs import BadMedia
from input_pipeline.decode import packets as video_packets
from input_pipeline.decode.video import VideoFile
from input_pipeline.source import Video
from tests.input_pipeline.video_samples import encode_video, numbered, numbers_of

WEBM = dict(container="webm", deadline="realtime", **{"cpu-used": "8"})
OPEN_GOP = {"x264-params": "open-gop=1:bframes=3:keyint=12:min-keyint=12:scenecut=0"}
REFRESH = {"x264-params": "intra-refresh=1:keyint=12"}
KINDS = dict(
    every_frame_a_key=dict(gop=1),
    key_frames=dict(gop=12),
    one_key=dict(gop=250),
    no_b_frames=dict(b_frames=0),
    b_pyramid=dict(b_frames=5),
    open_gop=dict(b_frames=3, **OPEN_GOP),
    gradual_refresh=REFRESH,
    late_start=dict(shift=5),
    no_edit_list=dict(muxer={"use_editlist": "0"}),
    fragments=dict(muxer={"movflags": "frag_keyframe+empty_moov"}),
    uneven=dict(times=[i * i + i for i in range(40)], time_base=Fraction(1, 1000)),
    with_sound_and_cover=dict(sound=True),
    mkv_with_sound=dict(container="matroska", sound=True),
    mov=dict(container="mov"),
    mkv=dict(container="matroska", rate=Fraction(30000, 1001)),
    mkv_late=dict(container="matroska", shift=3),
    hevc=dict(codec="libx265", **{"x265-params": "log-level=none"}),
    vp8=dict(codec="libvpx", b="1M", **WEBM),
    vp9=dict(codec="libvpx-vp9", **WEBM),
    mpeg4=dict(codec="mpeg4", b="2M"),
    avi=dict(codec="mpeg4", container="avi", b_frames=0, b="2M"),
    avi_b_frames=dict(codec="mpeg4", container="avi", b="2M"),
    avi_h264=dict(container="avi"),
    ten_bits=dict(pixels="yuv420p10le"),
    grey=dict(pixels="gray"),
)


def decode_all(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


@pytest.mark.parametrize("kept_bytes", [0, video_packets.KEPT_BYTES], ids=["seek", "kept"])
@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_the_ones_asked_for(kind, kept_bytes, monkeypatch):
    monkeypatch.setattr(video_packets, "KEPT_BYTES", kept_bytes)
    data = encode_video(40, **KINDS[kind])
    expected = decode_all(data)
    assert numbers_of(expected) == list(range(40))
    rng = np.random.default_rng(0)
    with VideoFile(data).open() as video:
        assert (video.num_frames, video.height, video.width) == (40, 64, 96)
        for count in (1, 1, 3, 5, 16, 40):
            requested = sorted(rng.integers(0, 40, count).tolist())
            np.testing.assert_array_equal(video.frames(requested), expected[requested])
        np.testing.assert_array_equal(video.frames(range(40)), expected)


def test_hidden_frames_of_an_edit_list_do_not_count():
    with VideoFile(encode_video(40, shift=-7)).open() as video:
        assert video.num_frames == 33
        assert numbers_of(video.frames(range(33))) == list(range(7, 40))
        assert numbers_of(video.frames([0])) == [7]


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("container", ["mp4", "matroska"])
@pytest.mark.parametrize("first", [3, 12, 23])
def test_a_file_cut_out_of_another_begins_where_it_can_be_decoded(codec, container, first):
    options = OPEN_GOP if codec == "libx264" else {"x265-params": "log-level=none"}
    output = io.BytesIO()
    source = av.open(io.BytesIO(encode_video(50, codec=codec, b_frames=3, **options)))
    with av.open(output, "w", format=container) as cut:
        stream = cut.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if number >= first and packet.size:
                packet.stream = stream
                cut.mux(packet)
    expected = decode_all(output.getvalue())
    assert numbers_of(expected)[-1] == 49
    with VideoFile(output.getvalue()).open() as video:
        assert video.num_frames == len(expected)
        np.testing.assert_array_equal(video.frames(range(video.num_frames)), expected)
        for index in (0, 1, 2, 5, 15):
            np.testing.assert_array_equal(video.frames([index]), expected[[index]])


def test_hidden_frames_of_vp8_do_not_count():
    output = io.BytesIO()
    source = av.open(io.BytesIO(encode_video(20, codec="libvpx", b="1M", **WEBM)))
    with av.open(output, "w", format="webm") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if not packet.size:
                continue
            content = bytearray(bytes(packet))
            if number == 8:
                content[0] &= ~16  # show_frame
            copy = av.Packet(bytes(content))
            copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
            copy.is_keyframe, copy.stream = packet.is_keyframe, stream
            container.mux(copy)
    with VideoFile(output.getvalue()).open() as video:
        assert video.num_frames == 19
        assert numbers_of(video.frames(range(19))) == [*range(8), *range(9, 20)]


@pytest.mark.parametrize(
    ("options", "fps"),
    [
        ({"rate": 12}, 12),
        ({"rate": Fraction(30000, 1001)}, 30000 / 1001),
        ({"rate": Fraction(30000, 1001), "container": "matroska"}, 30000 / 1001),
        ({"rate": 12, "container": "avi", "codec": "mpeg4"}, 12),
        ({"times": [0, 40, 120, 400], "time_base": Fraction(1, 1000)}, 7.5),
    ],
)
def test_frames_per_second(options, fps):
    with VideoFile(encode_video(4, **options)).open() as video:
        assert video.fps == pytest.approx(fps, rel=1e-6)


def test_one_frame_is_a_video():
    with VideoFile(encode_video(1)).open() as video:
        assert video.num_frames == 1
        assert numbers_of(video.frames([0, 0, 0])) == [0, 0, 0]


def test_a_file_as_well_as_bytes(tmp_path):
    data = encode_video(12)
    path = tmp_path / "http:a, b\udce4%2f.mp4"
    path.write_bytes(data)
    assert isinstance(VideoFile(str(path)), Video)
    with VideoFile(str(path)).open() as video:
        assert numbers_of(video.frames([3, 11])) == [3, 11]


@pytest.mark.parametrize("short_side", [32, 48, 100])
def test_scales_while_decoding_as_pillow_does(short_side):
    picture = Image.fromarray(numbered(5)).resize((117, 83), Image.Resampling.BICUBIC)
    data = encode_video([np.asarray(picture)] * 3, pixels="yuv444p", crf="1")
    with VideoFile(data).open() as video:
        (whole,) = video.frames([1])
        (scaled,) = video.frames([1], short_side=short_side)
    height, width = short_side, int(short_side * 117 / 83)
    assert scaled.shape == (height, width, 3)
    reference = Image.fromarray(whole).resize((width, height), Image.Resampling.BICUBIC)
    assert np.abs(scaled.astype(int) - np.asarray(reference)).mean() < 1.5


def test_portrait_and_odd_sizes():
    with VideoFile(encode_video([numbered(0, 81, 65)] * 2, pixels="yuv444p")).open() as video:
        assert video.frames([0]).shape == (1, 81, 65, 3)
        assert video.frames([1], short_side=32).shape == (1, 39, 32, 3)


def test_rotation_is_ignored_as_in_the_originals():
    data = bytearray(encode_video(3))
    turned = (0, 1, 0, -1, 0, 0, 0, 0, 1)  # a quarter turn, in the track header
    matrix = b"".join(
        (value * (1 << (30 if position % 3 == 2 else 16))).to_bytes(4, "big", signed=True)
        for position, value in enumerate(turned)
    )
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = matrix
    with av.open(io.BytesIO(bytes(data))) as container:
        assert abs(next(container.decode(video=0)).rotation) == 90
    with VideoFile(bytes(data)).open() as video:
        assert numbers_of(video.frames([0, 1, 2])) == [0, 1, 2]


def test_the_index_determines_the_number_of_frames():
    data = encode_video(30)
    with VideoFile(data, num_frames=20, fps=12.5).open() as video:
        assert (video.num_frames, video.fps) == (20, 12.5)
        with pytest.raises(BadMedia, match="short: 20 frames, no frame 20"):
            video.frames([19, 20])
    with (
        pytest.raises(BadMedia, match="short: 30 frames, 31 when it was indexed"),
        VideoFile(data, num_frames=31).open(),
    ):
        pass


@pytest.mark.parametrize("requested", [[], [3, 2], [-1, 2]])
def test_refuses_indices_out_of_order(requested):
    with (
        VideoFile(encode_video(5)).open() as video,
        pytest.raises(ValueError, match="in increasing order"),
    ):
        video.frames(requested)


def test_leaves_nothing_open(tmp_path):
    path = tmp_path / "x.mp4"
    path.write_bytes(encode_video(12))
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with VideoFile(str(path)).open() as video:
            video.frames([5])
        with pytest.raises(BadMedia), VideoFile(str(path)).open() as video:
            video.frames([12])
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == files
