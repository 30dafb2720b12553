"""Videos with other numbers of packets than frames: the same request gives the same frame."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable
from fractions import Fraction

import av
import numpy as np
import pytest

from input_pipeline.bad_inputs import BadMedia
from input_pipeline.decode.video import VideoFile
from tests.input_pipeline.video_samples import Stored, encode_video, numbers_of, remux

PICTURE = b"\0\0\1\xb6"
# A picture like the one before: predicted, 0 seconds, a time of 5 bits, not coded.
NOT_CODED = PICTURE + bytes([0b01010000, 0b01001111, 0x7F])
PACKED = b"\0\0\1\xb2DivX503b1393p"


def numbered_again(packets: Iterable[bytes], keys: dict[bytes, bool], has_pts: bool):
    for number, data in enumerate(packets):
        yield Stored(data, number if has_pts else None, number, keys.get(data, False))


def with_repeats(every: int, at_end: int, has_pts: bool, first: int = 0):
    """After every few packets from `first`, and at the end, pictures that are not coded."""

    def edit(stored):
        data = []
        for number, packet in enumerate(stored, 1):
            data += [packet.data] + [NOT_CODED] * (number % every == first)
        keys = {packet.data: packet.is_key for packet in stored}
        return numbered_again(data + [NOT_CODED] * at_end, keys, has_pts)

    return edit


def packed(drops: int, has_pts: bool):
    """B-frames in the packet of the picture before them; sometimes a picture is not coded."""

    def edit(stored):
        first = stored[0].data.replace(PICTURE, PACKED + PICTURE, 1)
        keys = {packet.data: packet.is_key for packet in stored} | {first: True}
        data, groups = [], []
        for content in [first, *(packet.data for packet in stored[1:])]:
            is_b = content[content.index(PICTURE) + 4] >> 6 == 2
            if is_b:
                groups[-1].append(content)
            else:
                groups.append([content])
        for reference, *b_frames in groups:
            together = reference + b"".join(b_frames[:1])
            keys[together] = keys.get(reference, False)
            data += [together, *b_frames[1:], *[NOT_CODED] * bool(b_frames)]
            if drops and len(data) % drops == 0:
                data.append(NOT_CODED)
        return numbered_again(data, keys, has_pts)

    return edit


PLAIN = dict(codec="mpeg4", container="avi", b="2M")
ALTREF = dict(b="300k", **{"lag-in-frames": "16", "auto-alt-ref": "1", "cpu-used": "4"})
GAPS = dict(times=[i + i // 4 for i in range(18)], time_base=Fraction(1, 25))
COUNT = 18


def repeated(container: str, *settings, **options) -> bytes:
    return remux(encode_video(COUNT, **PLAIN, **options), container, with_repeats(*settings))


def in_packs(container: str, b_frames: int, drops: int) -> bytes:
    edit = packed(drops, container != "avi")
    return remux(encode_video(COUNT, **PLAIN, b_frames=b_frames), container, edit)


ENDS_TWICE = {  # OpenCV and PyAV: 0 ... 17, 17
    "avi": lambda: repeated("avi", 6, 0, True, b_frames=0),
    "mp4": lambda: repeated("mp4", 5, 2, True, b_frames=0),
    "mkv": lambda: repeated("matroska", 1, 0, True, b_frames=0),
}
FILES = ENDS_TWICE | {
    "mov": lambda: repeated("mov", 5, 0, True, b_frames=0),
    "avi_b": lambda: repeated("avi", 3, 0, False, 1),
    "avi_b_end": lambda: repeated("avi", 3, 1, False, 1),
    "avi_packed": lambda: in_packs("avi", 1, 0),
    "avi_packed_drops": lambda: in_packs("avi", 2, 4),
    "mkv_packed": lambda: in_packs("matroska", 2, 0),
    "avi_without_packets": lambda: encode_video(COUNT, **PLAIN, **GAPS, b_frames=0),
    "h263": lambda: encode_video(COUNT, codec="h263p", container="avi", b_frames=0, b="1M"),
    "vp8": lambda: encode_video(COUNT, codec="libvpx", container="webm", **ALTREF),
    "vp9": lambda: encode_video(COUNT, codec="libvpx-vp9", container="webm", **ALTREF),
    "interlaced": lambda: encode_video(COUNT, **{"x264-params": "interlaced=1"}),
    "mpeg2": lambda: encode_video(COUNT, codec="mpeg2video", container="avi", b="2M"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_frame_does_not_depend_on_the_others_of_a_request(name):
    data = FILES[name]()
    with av.open(io.BytesIO(data)) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    numbers = [*range(COUNT), *[COUNT - 1] * (name in ENDS_TWICE)]
    assert numbers_of(np.stack(expected)) == numbers
    with VideoFile(data).open() as video:
        assert video.num_frames == len(expected)
        whole = video.frames(range(video.num_frames))
        assert numbers_of(whole) == numbers
        if name != "interlaced":  # PyAV deinterlaces colours
            np.testing.assert_array_equal(whole, expected)
        rng = np.random.default_rng(0)
        subsets = [[i] for i in range(len(numbers))]
        subsets += [sorted(rng.integers(0, len(numbers), 3).tolist()) for _ in range(8)]
        for requested in itertools.chain(subsets, [[4, 5], [5, 6]]):
            np.testing.assert_array_equal(video.frames(requested), whole[requested])


def test_the_mean_rate_is_that_of_the_frames():
    with VideoFile(FILES["mov"]()).open() as video:
        assert video.fps == pytest.approx((COUNT - 1) / (20 / 25))  # 20 packets before the last


def test_a_picture_that_the_decoder_drops_is_an_error():
    """Without a check, the decoder's repetition of the picture before stands for it."""
    no_time = PICTURE + bytes([0b10010000, 0b01100000]) + bytes(20)  # a B-frame of the wrong time

    def edit(stored):
        for packet in stored:
            is_b = packet.data[packet.data.index(PICTURE) + 4] >> 6 == 2
            yield packet._replace(data=no_time) if is_b and packet.dts > 2000 else packet

    data = encode_video(12, codec="mpeg4", b="2M")
    broken = remux(data, "mp4", edit)
    failed = 0
    with VideoFile(data).open() as sound, VideoFile(broken).open() as video:
        assert video.num_frames == sound.num_frames
        for index in range(12):
            try:
                frames = video.frames([index])
            except BadMedia:
                failed += 1
            else:
                assert numbers_of(frames) == [index]
    assert failed > 3
