"""Damage that FFmpeg passes over in silence: seen by the structure, or by the count of an index."""

from __future__ import annotations

import re
import time

import pytest

from input_pipeline.bad_inputs import BadMedia, media_boundary
from input_pipeline.decode.mp4 import check_samples
from input_pipeline.decode.structure import check_structure
from input_pipeline.decode.video import VideoFile
from input_pipeline.prepare.scan import LIMITS, examine
from tests.input_pipeline.video_samples import encode_video

FRAMES = 48
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
LIVE = {"live": "1"}  # clusters of unknown length
SOUND = {
    "mkv": dict(container="matroska"),
    "webm": dict(container="webm", codec="libvpx-vp9", deadline="realtime"),
    "live": dict(container="matroska", muxer=LIVE),
    "sound": dict(container="matroska", sound=True),
    "fragments": dict(muxer=FRAGMENTS),
    "mp4": dict(),
}
NEW = {
    "flv": dict(container="flv"),
    "wmv": dict(container="asf", codec="wmv2", b="2M", b_frames=0, sound=True),
    "ts": dict(container="mpegts"),
    "m2ts": dict(container="mpegts", muxer={"mpegts_m2ts_mode": "1"}),
}
HEADER = b"\x1a\x45\xdf\xa3\x80" + b"\x18\x53\x80\x67\x01" + b"\xff" * 7


@pytest.fixture
def examined(tmp_path):
    """Writes a file and returns its entry in an index."""

    def write_and_examine(data: bytes) -> dict:
        (tmp_path / "x").write_bytes(data)
        return examine(tmp_path, False, LIMITS, "x")

    return write_and_examine


@pytest.mark.parametrize("options", (SOUND | NEW).values(), ids=(SOUND | NEW).keys())
def test_sound_files_pass(options, examined):
    line = examined(encode_video(FRAMES, **options))
    assert (line["status"], line["num_frames"]) == ("ok", FRAMES)


@pytest.mark.parametrize("name", ["mkv", "webm", "live", "fragments", *NEW])
def test_a_piece_that_was_changed_does_not_shorten_a_video_in_silence(name, examined):
    data = encode_video(FRAMES, **(SOUND | NEW)[name])
    pieces = [
        data[:at] + piece + data[at + 40 :]
        for at in range(len(data) // 3, len(data) - 40, len(data) // 40)
        for piece in (b"", bytes(40), bytes(range(7, 47)), data[at : at + 40] * 2)
    ]
    lines = [examined(damaged) for damaged in pieces]
    usable = [line["num_frames"] for line in lines if line["status"] == "ok"]
    assert len(usable) < len(pieces) - 30
    # The header of a block, 4 bytes, has nothing by which to notice other values.
    # In a transport stream a frame has no length: only its start code separates it from the last.
    allowed = 4 if name in ("ts", "m2ts") else 2
    assert sum(num_frames != FRAMES for num_frames in usable) <= allowed
    assert [frames_of(damaged) for damaged in pieces if frames_of(damaged)] == usable
    # An index from before the damage is trusted: only its number of frames is compared.
    assert {frames_of(damaged, FRAMES) for damaged in pieces} <= {FRAMES, None}


# Of a frame in two pieces: number, offset 0, size; then number, offset and the same size.
TWO_PIECES = rb"\x01(.)\0{4}\x08(..)\0\0.*?\x01\1..\0\0\x08\2\0\0"


@pytest.mark.parametrize("size", ["smallest packet", "largest packet", "frame"])
def test_sizes_in_an_asf_file_agree(size, examined):
    data = bytearray(encode_video(FRAMES, **NEW["wmv"]))
    packets = data.index(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")) + 92
    pieces = re.search(TWO_PIECES, data, re.DOTALL)
    frame = pieces.start(2) + 1
    data[{"smallest packet": packets + 2, "largest packet": packets + 6, "frame": frame}[size]] ^= (
        16
    )
    line = examined(bytes(data))
    assert line["status"] == "decode_error"
    assert "no valid ASF" in line["reason"]


def frames_of(data: bytes, num_frames: int | None = None) -> int | None:
    """Frames of a video as training opens it; None if it is refused."""
    try:
        with media_boundary(), VideoFile(data, num_frames).open() as video:
            return video.num_frames
    except BadMedia:
        return None


def test_an_mp4_whose_first_key_frame_is_damaged_does_not_begin_with_the_next():
    data = encode_video(FRAMES)
    start = data.index(b"mdat") + 4
    assert frames_of(data) == FRAMES
    assert frames_of(data[:start] + bytes(1200) + data[start + 1200 :]) is None


def test_what_follows_the_last_box_of_an_mp4_does_no_harm(examined):
    assert examined(encode_video(FRAMES) + b"\xff" * 100)["num_frames"] == FRAMES
    line = examined(encode_video(FRAMES, muxer=FRAGMENTS) + b"\xff" * 100)
    assert line["reason"].startswith("no valid MP4 box at byte")


def check(data: bytes, seconds: float) -> None:
    container = "matroska" if data.startswith(HEADER[:4]) else "mov"
    deadline = time.monotonic() + seconds
    check_structure(container, lambda at, count: data[at : at + count], len(data), deadline)


def samples_of(data: bytes, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    check_samples(lambda at, count: data[at : at + count], len(data), deadline)


@pytest.mark.parametrize(
    ("run", "data"),
    [
        (check, HEADER + b"\xec\x80" * 1_000_000),
        (check, HEADER + b"\x1f\x43\xb6\x75\xff" + b"\xec\x80" * 1_000_000),
        (check, b"\0\0\0\x08ftyp" + b"\0\0\0\x08moof" * 500_000),
        (samples_of, b"\0\0\0\x08moof" * 500_000),
    ],
    ids=["segment", "cluster", "boxes", "samples"],
)
def test_a_million_elements_of_nothing_end_with_the_time(run, data):
    start = time.monotonic()
    with pytest.raises(BadMedia, match="timeout: structure not checked in time"):
        run(data, 0.05)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("box", ["stsz", "stts", "ctts", "trun"])
def test_samples_without_bytes_are_refused_before_memory_is_allocated(box):
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
    with (
        pytest.raises(BadMedia, match=r"short: 1000000\d\d\d samples in a file of"),
        VideoFile(bytes(data)).open(),
    ):
        pass
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
        (HEADER[:4], "decode_error"),
    ],
)
def test_elements_fit_into_one_another(data, kind):
    if kind is None:
        check(data, 5)
        return
    with pytest.raises(BadMedia) as caught:
        check(data, 5)
    assert caught.value.kind == kind
