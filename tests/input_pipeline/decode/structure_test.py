"""Damage that FFmpeg passes over in silence, in files without an index."""

from __future__ import annotations

import time

import pytest

from input_pipeline.bad_inputs import BadMedia
from input_pipeline.decode.structure import check_matroska, check_mp4
from input_pipeline.decode.video import VideoFile
from tests.input_pipeline.video_samples import encode_video

FRAMES = 48
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
LIVE = {"live": "1"}  # clusters that do not say how long they are
SOUND = {
    "mkv": dict(container="matroska"),
    "webm": dict(container="webm", codec="libvpx-vp9", deadline="realtime"),
    "live": dict(container="matroska", muxer=LIVE),
    "sound": dict(container="matroska", sound=True),
    "fragments": dict(muxer=FRAGMENTS),
    "mp4": dict(),
}


def frames_of(data: bytes) -> int:
    with VideoFile(data).open() as video:
        return video.num_frames


def reader(data: bytes):
    return lambda at, count: data[at : at + count]


@pytest.mark.parametrize("options", SOUND.values(), ids=SOUND.keys())
def test_sound_files_pass(options):
    assert frames_of(encode_video(FRAMES, **options)) == FRAMES


@pytest.mark.parametrize("name", ["mkv", "webm", "live", "fragments"])
def test_a_file_in_pieces_that_were_changed_never_gives_fewer_frames_in_silence(name):
    data = encode_video(FRAMES, **SOUND[name])
    refused = 0
    for at in range(len(data) // 3, len(data) - 40, len(data) // 40):
        for piece in (b"", bytes(40), bytes(range(7, 47)), data[at : at + 40] * 2):
            try:
                assert frames_of(data[:at] + piece + data[at + 40 :]) == FRAMES
            except (BadMedia, OSError, ValueError, IndexError):
                refused += 1
    assert refused > 30


def test_an_mp4_whose_first_key_frame_is_damaged_does_not_begin_with_the_next():
    data = encode_video(FRAMES)
    start = data.index(b"mdat") + 4
    assert frames_of(data) == FRAMES
    damaged = data[:start] + bytes(1200) + data[start + 1200 :]
    with pytest.raises((BadMedia, OSError, ValueError)):
        frames_of(damaged)


def test_what_follows_the_parts_of_an_mp4_does_no_harm():
    assert frames_of(encode_video(FRAMES) + b"\xff" * 100) == FRAMES
    with pytest.raises(BadMedia, match="there is no box of MP4 at byte"):
        frames_of(encode_video(FRAMES, muxer=FRAGMENTS) + b"\xff" * 100)


HEADER = b"\x1a\x45\xdf\xa3\x80" + b"\x18\x53\x80\x67\x01" + b"\xff" * 7


@pytest.mark.parametrize(
    ("check", "data"),
    [
        (check_matroska, HEADER + b"\xec\x80" * 1_000_000),
        (check_matroska, HEADER + b"\x1f\x43\xb6\x75\xff" + b"\xec\x80" * 1_000_000),
        (check_mp4, b"\0\0\0\x08moof" * 500_000),
    ],
    ids=["segment", "cluster", "boxes"],
)
def test_a_million_parts_of_nothing_end_with_the_time(check, data):
    start = time.monotonic()
    with pytest.raises(BadMedia) as caught:
        check(reader(data), len(data), start + 0.05)
    assert caught.value.kind == "timeout"
    assert time.monotonic() - start < 1


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (HEADER + b"\xec", "decode_error"),
        (HEADER + b"\x00" * 20, "decode_error"),
        (HEADER + b"\x42\x86\x80", "decode_error"),  # known, elsewhere
        (HEADER + b"\xec\x88", "short"),
        (HEADER + b"\x1f\x43\xb6\x75\x82\xe7\x81\x00", "decode_error"),  # beyond its cluster
        (HEADER + b"\x1f\x43\xb6\x75\xff\xe7\x81\x00", None),
        (b"", "decode_error"),
    ],
)
def test_elements_fit_into_one_another(data, kind):
    if kind is None:
        check_matroska(reader(data), len(data), time.monotonic() + 5)
        return
    with pytest.raises(BadMedia) as caught:
        check_matroska(reader(data), len(data), time.monotonic() + 5)
    assert caught.value.kind == kind


@pytest.mark.parametrize("box", ["stsz", "stts", "ctts", "trun"])
def test_samples_without_bytes_are_refused_before_there_is_room_made_for_them(box):
    data = bytearray(encode_video(FRAMES, muxer=FRAGMENTS if box == "trun" else {}))
    at = data.index(box.encode()) + 8  # after the version
    count = (10**9).to_bytes(4, "big")
    if box == "stsz":
        data[at : at + 8] = (1).to_bytes(4, "big") + count
    elif box == "trun":
        data[at : at + 4] = count
    else:
        data[at + 4 : at + 8] = count
    start = time.monotonic()
    with pytest.raises(BadMedia, match=r"short: 1000000\d\d\d samples in a file of"):
        frames_of(bytes(data))
    assert time.monotonic() - start < 1
