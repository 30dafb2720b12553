"""Opens untrusted video files: a forced format, only the file itself, and limits.

FFmpeg would guess the format and, for a playlist, open the files and URLs in it. Here the format is
forced, only this file may be read, and sizes are checked before anything is decoded. Needs PyAV.
"""

from __future__ import annotations

import io
import os
import time
from typing import Any

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from input_pipeline.bad_inputs import BadMedia, refuse_larger
from input_pipeline.decode import kinds
from input_pipeline.decode.mp4 import Read, check_samples
from input_pipeline.decode.regular_files import open_regular
from input_pipeline.decode.structure import check_structure
from input_pipeline.source import Limits

MAX_STREAMS = 64  # sound tracks, subtitles and fonts; FFmpeg decodes a frame of each that is video
GENERATE_TIMES = 1  # FFmpeg's flag "genpts", which PyAV sets; it guesses wrong for packed AVI
# Text in a header need not be UTF-8. PyAV 19 replaces invalid bytes by default.
_TEXT: Any = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


def open_container(data: str | bytes, limits: Limits, whole: bool) -> InputContainer:
    """Opens an untrusted file.

    Args:
      data: the path of a file, or its bytes.
      limits: the time limit is for the header, and for each packet later; the decoder rejects
        larger frames.
      whole: check the structure of the whole file, see `check_structure`.

    Raises:
      BadMedia: empty; not a video of a known format; a pipe or a device; an MP4 file whose
        header states more samples than it has bytes; or, if `whole`, a damaged structure.
      OSError: it cannot be read.
      av.error.FFmpegError: the header is wrong.
    """
    seconds = limits.timeout_seconds
    if isinstance(data, bytes):
        name = _checked(lambda at, count: data[at : at + count], len(data), seconds, whole)
    else:
        with open_regular(data) as (descriptor, num_bytes):
            name = _checked(
                lambda at, count: os.pread(descriptor, count, at), num_bytes, seconds, whole
            )
    try:
        container = av.open(
            io.BytesIO(data) if isinstance(data, bytes) else f"file:{os.path.abspath(data)}",
            "r",
            format=name,
            options={"max_pixels": _decoder_limit(limits), "threads": "1"},
            container_options={"protocol_whitelist": "file", "max_streams": str(MAX_STREAMS + 1)},
            **_TEXT,
            timeout=seconds,
        )
    except av.error.PermissionError as error:  # -1, FFmpeg's answer to some wrong headers
        raise BadMedia("decode_error", "FFmpeg cannot read the header") from error
    container.flags &= ~GENERATE_TIMES
    return container


def video_stream(container: InputContainer, limits: Limits) -> VideoStream:
    """The main video stream (not a cover picture), set to decode on one thread.

    Raises:
      BadMedia: no video stream, no decoder for it, too many streams, or too large frames or too
        many according to the header.
    """
    if len(container.streams) > MAX_STREAMS:
        raise BadMedia("too_large", f"more than {MAX_STREAMS} streams (sound, subtitles, ...)")
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream):
        raise BadMedia("no_video", f"{len(container.streams)} streams, none of them video")
    codec = stream.codec_context
    if codec is None:
        raise BadMedia("decode_error", "no decoder for the codec of this video")
    if codec.width < 1 or codec.height < 1:
        raise BadMedia("decode_error", "the header states no frame size")
    refuse_larger(codec.width, codec.height, limits.frame_pixels)
    if stream.frames > limits.max_frames:
        raise BadMedia(
            "too_large", f"{stream.frames} frames, the limit is {limits.max_frames} (max_frames)"
        )
    codec.thread_count, codec.thread_type = 1, "NONE"
    codec.options = {"max_pixels": _decoder_limit(limits)}
    return stream


def _decoder_limit(limits: Limits) -> str:
    """Above the limit of the frames, as decoders count padding; a header may have no size."""
    return str(2 * limits.frame_pixels + 2**16)


def _checked(read: Read, num_bytes: int, timeout_seconds: float, whole: bool) -> str:
    """The format of a file, checked so that FFmpeg does not run out of memory on it."""
    deadline = time.monotonic() + timeout_seconds
    name = format_of(read(0, kinds.HEAD_BYTES), num_bytes)
    if name == "mov":
        check_samples(read, num_bytes, deadline)
    if whole:
        check_structure(name, read, num_bytes, deadline)
    return name


def format_of(head: bytes, num_bytes: int) -> str:
    """FFmpeg's name of a format, by the first `kinds.HEAD_BYTES` of a file.

    Raises:
      BadMedia: empty, not a video format, or shorter than its header states.
    """
    name = kinds.require(head, "video").format
    if name == "matroska" and num_bytes < (stated := _matroska_bytes(head)):
        raise BadMedia("short", f"{num_bytes} of {stated} bytes")
    return name


def _matroska_bytes(head: bytes) -> int:
    """Length of a Matroska file according to its header; 0 if unknown (live recordings)."""
    length, body = _matroska_size(head, 4)
    segment = body + length
    if head[segment : segment + 4] != b"\x18\x53\x80\x67":
        return 0
    length, body = _matroska_size(head, segment + 4)
    return body + length


def _matroska_size(head: bytes, at: int) -> tuple[int, int]:
    """Length of an element, 0 if unknown, and the offset of its content."""
    width = 9 - head[at].bit_length() if len(head) > at and head[at] else 1
    mask = (1 << 7 * width) - 1
    length = int.from_bytes(head[at : at + width], "big") & mask
    return (0 if length == mask else length), at + width
