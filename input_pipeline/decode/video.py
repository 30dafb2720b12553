"""Decodes selected frames of video files. Needs PyAV.

Frame i is the i-th that decoding the whole file gives, in presentation order, even if frames are
not evenly spaced; what only repeats the frame before (a picture of MPEG-4 that is not coded, a
frame of AVI without a packet) does not count. Opening a file reads it once and lists its packets, 3
microseconds each: this gives the number and timestamps of the frames without trusting the header,
and a decoded frame is identified by its timestamp. A frame that cannot be decoded is an error; none
is ever replaced by a neighbour. Unscaled pixels equal those of PyAV's own conversion and, for
H.264, of decord and OpenCV, bit for bit.

As in the original implementations, rotation, pixel aspect ratio and interlacing are ignored. Frames
that an edit list hides do not count; ten bits are rounded to eight, alpha is dropped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Iterator, Sequence

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from input_pipeline.bad_inputs import BadMedia
from input_pipeline.decode.container import open_container, video_stream
from input_pipeline.decode.packets import Packets
from input_pipeline.decode.time_limit import LimitedThread
from input_pipeline.source import LIMITS, Limits
from input_pipeline.views.crops import short_side as short_side_of


@dataclasses.dataclass(frozen=True)
class VideoFile:
    """A video in a file or in memory.

    If `num_frames` is known from an index, additional frames are not used and fewer are an error;
    if not, the structure of the whole file is checked. If `fps` is not known, it is that of the
    header, unless the timestamps contradict it.
    """

    data: str | bytes  # the path of the file, or its bytes
    num_frames: int | None = None  # None if unknown
    fps: float | None = None  # frames per second; None if unknown
    key_frame: int | None = None  # see `OpenVideo`

    @contextlib.contextmanager
    def open(self, limits: Limits = LIMITS) -> Iterator[OpenVideoFile]:
        """Opens the file and lists its frames; see `Video.open`."""
        thread = LimitedThread(limits.timeout_seconds)
        try:
            decoder = thread.run(_Decoder, self, limits, thread.cleanup)
            yield OpenVideoFile(thread, decoder, self.key_frame)
        finally:
            thread.end()


class OpenVideoFile:
    """An open video file, a `source.OpenVideo`; the decoder runs on a thread of its own."""

    def __init__(self, thread: LimitedThread, decoder: _Decoder, key_frame: int | None):
        self._thread, self._decoder, self.key_frame = thread, decoder, key_frame
        self.num_frames, self.fps = decoder.num_frames, decoder.fps
        self.height, self.width = decoder.height, decoder.width

    def frames(self, indices: Sequence[int], short_side: int | None = None) -> np.ndarray:
        """See `OpenVideo.frames`; scaling is bicubic, together with the colour conversion."""
        requested = [int(index) for index in indices]
        increasing = all(a <= b for a, b in itertools.pairwise(requested))
        if not requested or requested[0] < 0 or not increasing:
            raise ValueError(f"frames {requested}: expected indices from 0, in increasing order")
        if requested[-1] >= self.num_frames:
            raise BadMedia("short", f"{self.num_frames} frames, no frame {requested[-1]}")
        return self._thread.run(self._decoder.frames, requested, short_side)


class _Decoder:
    """Opens a file, lists its packets and decodes frames, all on one thread."""

    # Non-reference frames are skipped unless they are requested. In HEVC and VP9, frames that the
    # decoder skips as such may be referenced nevertheless.
    SKIPS = ("h264", "mpeg4")

    def __init__(self, file: VideoFile, limits: Limits, cleanup: contextlib.ExitStack):
        self._timeout_seconds = limits.timeout_seconds
        deadline = time.monotonic() + limits.timeout_seconds
        container = open_container(file.data, limits, file.num_frames is None)
        cleanup.callback(container.close)
        stream = video_stream(container, limits)
        self._codec = stream.codec_context
        self._packets = Packets(container, stream, limits.max_frames, deadline)
        self._scaler = VideoReformatter()
        self.height, self.width = self._codec.height, self._codec.width
        self.num_frames = self._packets.num_frames
        if file.num_frames is not None:
            if self.num_frames < file.num_frames:
                raise BadMedia(
                    "short", f"{self.num_frames} frames, {file.num_frames} when it was indexed"
                )
            self.num_frames = file.num_frames
        self.fps = file.fps or self._packets.frames_per_second()

    def frames(self, requested: list[int], short_side: int | None) -> np.ndarray:
        deadline = time.monotonic() + self._timeout_seconds
        height, width = self.height, self.width
        if short_side is not None:
            height, width = short_side_of(height, width, short_side)
        clip = np.empty((len(requested), height, width, 3), np.uint8)
        rows: dict[int, list[int]] = {}  # of the clip, by timestamp
        for row, index in enumerate(requested):
            rows.setdefault(self._packets.time_of(index), []).append(row)
        spans = self._packets.spans(sorted(set(requested)))
        try:
            self._decode(spans, rows, clip, deadline)
        except (BadMedia, av.error.InvalidDataError):
            all_before = [(0, spans[-1][1])]
            if spans == all_before:
                raise
            # A keyframe may not be decodable alone, as in streams with gradual intra refresh.
            self._decode(all_before, rows, clip, deadline)
        return clip

    def _decode(
        self,
        spans: list[tuple[int, int]],
        rows: dict[int, list[int]],
        clip: np.ndarray,
        deadline: float,
    ) -> None:
        missing = set(rows)
        for start, stop in spans:
            latest, number = self._packets.start_time(start), -1
            for number, frame in enumerate(self._decode_span(start, stop, rows, deadline)):
                if frame.is_corrupt:
                    raise BadMedia("decode_error", f"the frame at {frame.time} s is damaged")
                timestamp = frame.pts if self._packets.timed else number
                if start and timestamp == self._packets.start_time(start) and not frame.key_frame:
                    # As in H.263, where FFmpeg takes every packet for a keyframe.
                    raise BadMedia("decode_error", f"the frame at {frame.time} s is no keyframe")
                if timestamp is not None:
                    if timestamp < latest:  # decoders order frames without timestamps
                        raise BadMedia(
                            "decode_error", f"the frame at {frame.time} s follows a later one"
                        )
                    latest = timestamp
                if timestamp in rows:
                    first, *others = rows[timestamp]
                    self._convert(frame, clip[first])
                    clip[others] = clip[first]
                    missing.discard(timestamp)
            if not self._packets.timed and number + 1 < (
                count := self._packets.frames_before(stop)
            ):
                raise BadMedia("short", f"the decoder returned {number + 1} of {count} frames")
        if missing:
            raise BadMedia(
                "short", f"the decoder did not return {len(missing)} of {len(rows)} frames"
            )

    def _decode_span(
        self, start: int, stop: int, rows: dict[int, list[int]], deadline: float
    ) -> Iterator[av.VideoFrame]:
        codec = self._codec
        skips, skipping = self._packets.timed and codec.name in self.SKIPS, None
        codec.flush_buffers()
        for packet, timestamp in self._packets.read(start, stop):
            if time.monotonic() > deadline:
                raise BadMedia(
                    "timeout", f"not decoded after {self._timeout_seconds:g} s (timeout_seconds)"
                )
            if skips and skipping != (timestamp not in rows):
                skipping = timestamp not in rows
                codec.skip_frame = "NONREF" if skipping else "DEFAULT"
            yield from codec.decode(packet)
        delayed = codec.decode(None)
        to_the_end = self._packets.repeats_last and stop == self._packets.num_packets
        if codec.name == "mpeg4" and not to_the_end:
            # If the last picture is not coded or is damaged, the one before it comes once more.
            delayed = delayed[: int(codec.has_b_frames)]
        yield from delayed

    def _convert(self, frame: av.VideoFrame, out: np.ndarray) -> None:
        if (frame.height, frame.width) != (self.height, self.width):
            raise BadMedia(
                "decode_error",
                f"{frame.width}x{frame.height} pixels at {frame.time} s, "
                f"{self.width}x{self.height} before",
            )
        height, width, _ = out.shape
        scaled = (height, width) != (self.height, self.width)
        picture = self._scaler.reformat(
            frame,
            width=width,
            height=height,
            format="rgb24",
            interpolation=Interpolation.BICUBIC if scaled else Interpolation.BILINEAR,  # of colours
            threads=1,
        )
        plane = picture.planes[0]
        lines = np.frombuffer(plane, np.uint8).reshape(height, plane.line_size)
        out.reshape(height, 3 * width)[:] = lines[:, : 3 * width]
