from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np

HEIGHT, WIDTH, BLOCK, BITS = 64, 96, 16, 12


def numbered(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A frame that shows its number: 12 black or white blocks, and stripes that move."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    frame = np.stack([(x + 3 * number) % 64, (y + number) % 64, (x + y) % 64], -1) * 2 + 64
    for bit in range(BITS):
        top, left = bit // 6 * BLOCK, bit % 6 * BLOCK
        frame[top : top + BLOCK, left : left + BLOCK] = 230 if number >> bit & 1 else 25
    return frame.astype(np.uint8)


def numbers_of(clip: np.ndarray) -> list[int]:
    """The numbers that frames of any size show."""
    scale = clip.shape[1] / HEIGHT
    numbers = []
    for frame in clip:
        number = 0
        for bit in range(BITS):
            top, left = bit // 6 * BLOCK + BLOCK // 2, bit % 6 * BLOCK + BLOCK // 2
            number += int(frame[int(top * scale), int(left * scale)].mean() > 128) << bit
        numbers.append(number)
    return numbers


def encode_video(
    frames: int | Sequence[np.ndarray] = 60,  # pictures, or how many numbered ones
    *,
    container: str = "mp4",
    codec: str = "libx264",
    gop: int = 12,  # frames from one key frame to the next
    b_frames: int = 2,  # at most so many in a row
    rate: int | Fraction = 25,  # frames per second
    times: Sequence[int] | None = None,  # of presentation, in `time_base`; None: evenly spaced
    time_base: Fraction | None = None,  # None means one frame
    shift: int = 0,  # added to the times of the packets, in `time_base`
    pixels: str = "yuv420p",
    muxer: dict[str, str] | None = None,  # options of the container
    sound: bool = False,  # adds a second of noise, and in MP4 a cover picture
    **options: str,  # of the encoder
) -> bytes:
    """A small video file; formats have FFmpeg's names."""
    pictures = [numbered(i) for i in range(frames)] if isinstance(frames, int) else frames
    if codec == "libx264":  # whose "mbtree" gives other bytes now and then
        options["x264-params"] = ":".join(["mbtree=0", *filter(None, [options.get("x264-params")])])
    file = io.BytesIO()
    same_bytes = {"fflags": "+bitexact"}  # else Matroska files have random identifiers
    with av.open(file, "w", format=container, options=same_bytes | (muxer or {})) as output:
        stream = output.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        stream.gop_size, stream.max_b_frames = gop, b_frames
        unit = time_base or 1 / Fraction(rate)
        stream.time_base = stream.codec_context.time_base = unit
        stream.codec_context.thread_count = 1
        packets = _sound_and_cover(output, container) if sound else []
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)
            frame.pts = number if times is None else times[number]
            frame.time_base = unit
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            if shift:
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
            output.mux(packet)
    return file.getvalue()


def decode_all(video) -> np.ndarray:
    """All frames of an example's video."""
    with video.open() as opened:
        return opened.frames(range(opened.num_frames))


def _sound_and_cover(output: av.container.OutputContainer, container: str) -> list[av.Packet]:
    sound = output.add_stream("aac", rate=48000)
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 48000)).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(noise, "flt", "mono")
    frame.sample_rate, frame.pts = 48000, 0
    packets = sound.encode(frame) + sound.encode(None)
    if container == "mp4":
        cover = output.add_stream("png", rate=1)
        cover.height, cover.width, cover.pix_fmt = 200, 300, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        packets += cover.encode(av.VideoFrame(300, 200, "rgb24")) + cover.encode(None)
    return packets


class Stored(NamedTuple):
    """A packet; `pts` None is for the container to find."""

    data: bytes
    pts: int | None
    dts: int
    is_key: bool


def remux(data: bytes, container: str, edit: Callable[[list[Stored]], Iterable[Stored]]) -> bytes:
    """The video of a file in another container, its packets changed by `edit`."""
    file = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(file, "w", format=container) as output:
        template = source.streams.video[0]
        stream = output.add_stream_from_template(template)
        stored = [
            Stored(bytes(packet), packet.pts, packet.dts, packet.is_keyframe)
            for packet in source.demux(template)
            if packet.size
        ]
        for content, pts, dts, is_key in edit(stored):
            packet = av.Packet(content)
            packet.pts, packet.dts, packet.time_base = pts, dts, template.time_base
            packet.is_keyframe, packet.stream = is_key, stream
            output.mux(packet)
    return file.getvalue()
