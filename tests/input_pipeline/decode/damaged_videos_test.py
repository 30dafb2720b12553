"""Hostile and damaged video files: no crash, no hang, no clip with other frames than asked for."""

from __future__ import annotations

import collections
import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest

from input_pipeline.bad_inputs import CLASSES, BadMedia, media_boundary
from input_pipeline.decode import video as video_decode
from input_pipeline.decode.video import VideoFile
from input_pipeline.source import Limits
from tests.input_pipeline.video_samples import encode_video, numbers_of, remux

NUM_FRAMES, WANTED = 48, list(range(1, 48, 3))


def outcome(
    data: bytes | str, num_frames: int | None = None, **limits
) -> str | tuple[int, np.ndarray]:
    """Class of the problem, or the number of frames and the clip."""
    try:
        with media_boundary(), VideoFile(data, num_frames).open(Limits(**limits)) as video:
            return video.num_frames, video.frames(WANTED)
    except BadMedia as bad:
        kind, reason = bad.kind, bad.reason
    assert kind in CLASSES
    assert "\n" not in reason
    return kind


def damaged(data: bytes, seed: int) -> bytes:
    """One to nineteen bytes are something else."""
    rng = np.random.default_rng(seed)
    changed = bytearray(data)
    for at in rng.integers(0, len(data), int(rng.integers(1, 20))):
        changed[at] = int(rng.integers(256))
    return bytes(changed)


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(container="webm", codec="libvpx-vp9", deadline="realtime"),
        dict(container="avi", codec="mpeg4", b="1M"),
    ],
    ids=["mp4", "webm", "avi"],
)
def test_damaged_bytes(options):
    data = encode_video(NUM_FRAMES, **options)
    with VideoFile(data).open() as video:
        whole = video.frames(WANTED)
    counts: collections.Counter = collections.Counter()
    differ = 0
    for seed in range(300):
        start = time.monotonic()
        result = outcome(damaged(data, seed), num_frames=NUM_FRAMES, timeout_seconds=5)
        assert time.monotonic() - start < 5
        if isinstance(result, str):
            counts[result] += 1
            continue
        num_frames, clip = result
        assert num_frames == NUM_FRAMES
        assert len(clip) == len(WANTED)
        differ += clip.shape != whole.shape or np.abs(clip.astype(int) - whole).max() > 64
    assert counts["timeout"] == 0
    assert counts["decode_error"] > 30
    if options.get("container") != "webm":  # VP9 has nothing by which to notice other bytes
        assert differ < 10


@pytest.mark.parametrize("container", ["mp4", "matroska", "webm", "avi"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.95])
def test_a_file_cut_short_is_noticed(container, share):
    codec = {"webm": "libvpx-vp9", "avi": "mpeg4"}.get(container, "libx264")
    data = encode_video(NUM_FRAMES, container=container, codec=codec)
    result = outcome(data[: int(len(data) * share)])
    if container == "avi" and share == 0.95:  # all frames are there, the index at the end is not
        assert result[0] == NUM_FRAMES
    else:
        assert result in ("short", "decode_error")


def test_fragments_cut_short_are_noticed():
    data = encode_video(NUM_FRAMES, muxer={"movflags": "frag_keyframe+empty_moov"})
    assert outcome(data[: int(len(data) * 0.7)]) == "short"


def test_fewer_frames_than_the_header_states():
    data = bytearray(encode_video(NUM_FRAMES, b_frames=0))
    sizes = data.index(b"stsz") + 16
    assert int.from_bytes(data[sizes - 4 : sizes], "big") == NUM_FRAMES
    last = sizes + 4 * (NUM_FRAMES - 1)
    data[last : last + 4] = (10**6).to_bytes(4, "big")  # the last frame is beyond the end
    assert outcome(bytes(data)) == "short"


def test_a_frame_that_comes_twice_does_not_stand_for_another(monkeypatch):
    decode_span = video_decode._Decoder._decode_span

    def twice(self, *args):
        first = next(decode_span(self, *args))
        return [first, first]

    monkeypatch.setattr(video_decode._Decoder, "_decode_span", twice)
    with (
        VideoFile(encode_video(2)).open() as video,
        pytest.raises(BadMedia, match="short: the decoder did not return 1 of 2 frames"),
    ):
        video.frames([0, 1])


@pytest.mark.parametrize(
    ("late", "message"),
    [
        (5.5, r"the frame at .* s follows a later one"),
        (25.5, "the timestamps contradict the order of the frames"),
    ],
)
def test_a_frame_with_the_timestamp_of_another_does_not_stand_for_it(late, message):
    def edit(stored):
        for number, packet in enumerate(stored):
            yield packet._replace(pts=packet.pts + int(512 * late)) if number == 20 else packet

    data = remux(encode_video(NUM_FRAMES, b_frames=0), "matroska", edit)
    with (
        pytest.raises(BadMedia, match=f"decode_error: {message}"),
        VideoFile(data).open() as video,
    ):
        video.frames(range(NUM_FRAMES))


def test_a_frame_that_the_decoder_drops_does_not_move_the_others():
    """Without timestamps, frames are counted."""
    data = encode_video(NUM_FRAMES, container="mpeg", codec="mpeg1video", b="2M")
    picture = data.index(b"\0\0\1\0")
    damaged = data[:picture] + bytes(4) + data[picture + 4 :]
    with VideoFile(damaged).open() as video:
        for requested in ([20], [0, 40], [45]):
            with pytest.raises(BadMedia, match=r"short: the decoder returned \d+ of \d+ frames"):
                video.frames(requested)


def test_a_wrong_header_is_not_a_file_without_permission():
    data = encode_video(NUM_FRAMES, container="asf", codec="wmv2", b="2M", b_frames=0)
    stream = data.index(b"\xc0\xef\x19\xbc\x4d\x5b\xcf\x11")  # a stream of video
    assert outcome(data[:stream] + bytes(8) + data[stream + 8 :]) == "decode_error"


def audio_only() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        output.mux(stream.encode(frame) + stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><title>404 Not Found</title>", "not_media"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "not_media"),
        (bytes(1000), "not_media"),
        (b"\0\0\0\x18ftypmp42" + bytes(12), "decode_error"),
        (b"\x1a\x45\xdf\xa3", "decode_error"),
        (b"RIFF\0\0\0\0AVI ", "decode_error"),
        (audio_only(), "no_video"),
    ],
)
def test_no_videos(data, kind):
    assert outcome(data) == kind


def test_too_large_or_too_long_or_too_many_streams():
    data = encode_video(NUM_FRAMES)
    assert outcome(data, max_pixels=64 * 96 - 1) == "too_large"
    assert outcome(data, max_frames=NUM_FRAMES - 1) == "too_large"
    assert outcome(encode_video(NUM_FRAMES, container="matroska"), max_frames=47) == "too_large"
    many = io.BytesIO()
    with av.open(many, "w", format="matroska") as output:
        streams = [output.add_stream("mpeg4", rate=25) for _ in range(500)]
        for stream in streams:
            stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
        for stream in streams:
            output.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
            output.mux(stream.encode(None))
    assert outcome(many.getvalue()) == "too_large"


def test_a_video_with_many_sound_tracks_is_read():
    file = io.BytesIO()
    with (
        av.open(io.BytesIO(encode_video(4, container="matroska", sound=True))) as source,
        av.open(file, "w", format="matroska") as output,
    ):
        video, sound = source.streams
        copies = [output.add_stream_from_template(template) for template in [video] + [sound] * 40]
        for packet in source.demux():
            for copy in copies[:1] if packet.stream is video else copies[1:]:
                if packet.size:
                    again = av.Packet(bytes(packet))
                    again.pts, again.dts, again.stream = packet.pts, packet.dts, copy
                    again.time_base = packet.time_base
                    output.mux(again)
    with VideoFile(file.getvalue()).open() as opened:
        assert numbers_of(opened.frames(range(4))) == [0, 1, 2, 3]


def test_pictures_that_change_their_size_are_refused():
    small, large = (encode_video([np.zeros((s, s, 3), np.uint8)] * 24, gop=8) for s in (64, 96))
    mixed = io.BytesIO()
    with av.open(mixed, "w", format="matroska") as output:
        stream, offset = None, 0
        for part in (small, large):
            with av.open(io.BytesIO(part)) as source:
                template = source.streams.video[0]
                stream = stream or output.add_stream_from_template(template)
                to_annex_b = av.bitstream.BitStreamFilterContext("h264_mp4toannexb", template)
                for packet in source.demux(template):
                    for converted in to_annex_b.filter(packet if packet.size else None):
                        converted.pts += offset
                        converted.dts += offset
                        converted.stream = stream
                        output.mux(converted)
                offset += template.duration
    assert outcome(mixed.getvalue()) == "decode_error"


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXTINF:1,\nsecret.mp4\n",
        "ffconcat version 1.0\nfile secret.mp4\n",
        "v=0\nm=video 9 RTP/AVP 96\n",
    ],
)
@pytest.mark.parametrize("name", ["list.mp4", "list.m3u8"])
def test_play_lists_are_refused_and_open_nothing(text, name, tmp_path):
    os.mkfifo(tmp_path / "secret.mp4")  # whoever opens it waits for ever
    (tmp_path / name).write_text(text)
    assert outcome(str(tmp_path / name)) == "not_media"


@pytest.mark.parametrize(
    "name", ["http://127.0.0.1:9/x.mp4", "concat:a.mp4|b.mp4", "subfile,,start,0,end,9,,:x.mp4"]
)
def test_names_are_only_ever_file_names(name):
    assert outcome(name) == "missing"


def test_pipes_devices_and_folders_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    start = time.monotonic()
    assert outcome(str(tmp_path / "pipe.mp4")) == "not_media"
    assert outcome(str(tmp_path / "folder.mp4")) == "not_media"
    assert outcome("/dev/zero") == "not_media"
    assert outcome(str(tmp_path / "gone.mp4")) == "missing"
    assert time.monotonic() - start < 1


def test_a_file_that_changes_while_it_is_read(tmp_path: Path):
    path = tmp_path / "x.mp4"
    path.write_bytes(encode_video(NUM_FRAMES))
    with VideoFile(str(path)).open() as video:
        path.unlink()
        assert numbers_of(video.frames([7])) == [7]


class Stuck:
    """Stands for a decoder that does not return until it is let go."""

    def __init__(self):
        self.let_go, self.left = threading.Event(), threading.Event()

    def sleep(self, *_args):
        self.let_go.wait()
        self.left.set()

    def spin(self, *_args):
        while not self.let_go.is_set():
            pass
        self.left.set()


@pytest.mark.parametrize("how", ["sleep", "spin"])
@pytest.mark.parametrize("where", ["open_container", "_Decoder.frames"])
def test_a_decoder_that_never_returns_is_left_behind(how, where, monkeypatch):
    data = encode_video(NUM_FRAMES)
    stuck = Stuck()
    with monkeypatch.context() as patch:
        patch.setattr(f"input_pipeline.decode.video.{where}", getattr(stuck, how))
        start = time.monotonic()
        assert outcome(data, timeout_seconds=0.2) == "timeout"
        assert time.monotonic() - start < 2
    # Others go on meanwhile, and the thread ends when it can.
    assert isinstance(outcome(data), tuple)
    assert not stuck.left.is_set()
    stuck.let_go.set()
    assert stuck.left.wait(5)


def test_slow_decoding_ends_itself(monkeypatch):
    slow = video_decode.Packets.read

    def read(self, start, stop):
        for packet in slow(self, start, stop):
            time.sleep(0.05)
            yield packet

    monkeypatch.setattr(video_decode.Packets, "read", read)
    before = threading.active_count()
    assert outcome(encode_video(NUM_FRAMES), timeout_seconds=0.2) == "timeout"
    limit = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < limit:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_a_stuck_decoder_does_not_keep_the_program_from_ending():
    package = os.path.dirname(os.path.dirname(video_decode.__file__))
    code = f"""
import sys, time, types
package = sys.modules["input_pipeline"] = types.ModuleType("input_pipeline")
package.__path__ = [{package!r}]  # without TensorFlow: seconds
from input_pipeline.bad_inputs import BadMedia
from input_pipeline.decode.time_limit import LimitedThread
try:
    LimitedThread(0.1).run(time.sleep, 1000)
except BadMedia as bad:
    print(bad)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0
    assert run.stdout == "timeout: no result after 0.1 s (timeout_seconds)\n"
