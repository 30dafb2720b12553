from __future__ import annotations

import time

import pytest

from input_pipeline.bad_inputs import BadMedia
from input_pipeline.decode.mp4 import check_samples
from input_pipeline.decode.video import VideoFile
from tests.input_pipeline.video_samples import encode_video


@pytest.mark.parametrize("box", ["stsz", "stts", "ctts", "trun"])
def test_samples_without_bytes_are_refused_before_there_is_room_made_for_them(box):
    data = bytearray(
        encode_video(48, muxer={"movflags": "frag_keyframe+empty_moov"} if box == "trun" else {})
    )
    at = data.index(box.encode()) + 8  # after the version
    count = (10**9).to_bytes(4, "big")
    if box == "stsz":
        data[at : at + 8] = (1).to_bytes(4, "big") + count
    elif box == "trun":
        data[at : at + 4] = count
    else:
        data[at + 4 : at + 8] = count
    start = time.monotonic()
    with (
        pytest.raises(BadMedia, match=r"short: 1000000\d\d\d samples in a file of"),
        VideoFile(bytes(data)).open(),
    ):
        pass
    assert time.monotonic() - start < 1


def test_a_million_boxes_of_nothing_end_with_the_time():
    data = b"\0\0\0\x08moof" * 500_000
    start = time.monotonic()
    with pytest.raises(BadMedia, match="timeout: not looked through in time"):
        check_samples(lambda at, count: data[at : at + count], len(data), start + 0.05)
    assert time.monotonic() - start < 1
