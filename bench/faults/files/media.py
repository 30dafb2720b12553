"""Videos and images: frames show their numbers, so that what is read can be compared."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, features

from bench.faults.files.kinds import REFUSED, File, Format, load
from input_pipeline import EvalView, ImageFolder, TrainView, VideoFolder
from input_pipeline.bad_inputs import BadMedia
from input_pipeline.decode.video import VideoFile
from input_pipeline.loader import example_generator
from input_pipeline.prepare import __main__ as prepare
from tests.input_pipeline.samples import encode, picture
from tests.input_pipeline.video_samples import encode_video, numbered, numbers_of

# Else x264 looks ahead in other threads, and now and then makes other files of the same frames.
SAME_BYTES = "threads=1:sync-lookahead=0:rc-lookahead=0:mbtree=0"
PICTURE = picture(3, 120, 160)
NUM_FRAMES, EXPECTED = 48, list(range(0, 48, 3))
# Damage that a codec cannot notice shows other pixels: VP9, JPEG and WebP hold no checksums, JPEG
# and WebP not even of their size.
RIGHT = REFUSED | {"equal", "other pixels", "other size"}
VIDEO = EvalView(size=64, resize=64, frames=16, stride=3, sampling="strided", crops=3)
WHOLE: Any = EvalView(size=120, resize=120)
WINDOW: Any = TrainView(size=48, crop_area=(0.1, 0.3))  # which another decoder makes of JPEG


def _video(suffix: str, **options: Any) -> File:
    if "codec" not in options:
        options["x264-params"] = SAME_BYTES
    return File(suffix, functools.cache(lambda: encode_video(NUM_FRAMES, **options)), RIGHT)


def _image(suffix: str, kind: str, **options: Any) -> File:
    return File(suffix, functools.cache(lambda: encode(PICTURE, kind, **options)), RIGHT)


def encoded(numbers: Sequence[int], crf: int | None = None) -> bytes:
    """An MP4 file whose frames show these numbers."""
    options = {} if crf is None else {"crf": str(crf)}
    return encode_video([numbered(number) for number in numbers], **options)


def without_index(path: pathlib.Path, file: str) -> str:
    """As training reads a folder that was never prepared."""
    return compared(path, file, path.parent)


def with_index(path: pathlib.Path, file: str) -> str:
    """As evaluation reads a folder that was prepared before a disk damaged it.

    The file keeps its time of modification. If it keeps its length too, the index counts; if not,
    it is "stale": refused here, and read without the index in training.
    """
    index = path.parent.with_name("out") / "index.jsonl"
    text = _index_of(file, index.parent)
    index.write_text(text)
    os.utime(path, ns=(json.loads(text)["mtime_ns"],) * 2)
    return compared(path, file, path.parent, index)


def prepared(path: pathlib.Path, file: str) -> str:
    """As training reads what `prepare` found to be good."""
    index = prepare_folder(path.parent, path.parent.with_name("out"))
    line = json.loads(index.read_text())
    if line["status"] != "ok":
        raise BadMedia(line["status"], line["reason"])
    return compared(path, file, path.parent, index)


def prepare_folder(folder: pathlib.Path, out: pathlib.Path) -> pathlib.Path:
    """Runs `python -m input_pipeline.prepare`; returns its index."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        prepare.main([str(folder), str(out), "--workers=0"])
    return out / "index.jsonl"


_indices: dict[str, str] = {}


def _index_of(file: str, out: pathlib.Path) -> str:
    if file not in _indices:
        folder = out / "sound"
        folder.mkdir()
        (folder / f"x{VIDEOS.files[file].suffix}").write_bytes(VIDEOS.files[file].make())
        _indices[file] = prepare_folder(folder, folder).read_text()
    return _indices[file]


def compared(
    path: pathlib.Path, file: str, folder: pathlib.Path, index: pathlib.Path | None = None
) -> str:
    """Reads a video in place of a sound one: "equal", "other pixels", "frames" or "count"."""
    try:
        source = VideoFolder(path=str(folder), index=None if index is None else str(index))
    except ValueError as left_out:  # its ending is not usual for videos, and now its content
        raise BadMedia("not_media", str(left_out)) from left_out
    video = load(source, VIDEO)
    assert video.shape == (3, 16, 64, 64, 3)
    if np.array_equal(video, _reference(file)):
        return "equal"
    frames = np.concatenate([video[0], video[2, :, :, 32:]], axis=2)
    numbers = numbers_of(frames)
    if numbers != EXPECTED and _frames_of(path) != NUM_FRAMES:
        return "other count"
    shown = zip(frames, numbers, EXPECTED, strict=True)
    if any(number != wanted and _shows(frame, number) for frame, number, wanted in shown):
        return "other frames"
    return "other pixels"


@functools.cache
def _reference(file: str) -> np.ndarray:
    return VIDEO(VideoFile(VIDEOS.files[file].make()), None)


def _frames_of(path: pathlib.Path) -> int:
    with VideoFile(str(path)).open() as video:
        return video.num_frames


def _shows(frame: np.ndarray, number: int) -> bool:
    """Whether a frame is, but for what compression does, the one of this number."""
    return number < NUM_FRAMES and bool(np.abs(frame.astype(int) - numbered(number)).mean() < 10)


def image_through(view: Any) -> Callable[[pathlib.Path, str], str]:
    """Reads an image in place of a sound one: "equal", "other pixels" or "other size"."""

    def read(path: pathlib.Path, file: str) -> str:
        image = load(ImageFolder(path=str(path.parent)), view)
        assert image.shape == (1, *view.shape)
        if np.array_equal(image, view(IMAGES.files[file].make(), example_generator(0, 0, 0))):
            return "equal"
        with Image.open(path) as opened:
            return "other pixels" if opened.size == (160, 120) else "other size"

    return read


_VIDEO_FILES = {
    "mp4": _video(".mp4"),
    "mp4-fragments": _video(".mp4", muxer={"movflags": "frag_keyframe+empty_moov"}),
    "mkv": _video(".mkv", container="matroska"),
    "webm": _video(".webm", container="webm", codec="libvpx-vp9", deadline="realtime"),
    "avi": _video(".avi", container="avi", codec="mpeg4", b="1M"),
    "flv": _video(".flv", container="flv"),
    "ts": _video(".ts", container="mpegts"),
    "m2ts": _video(".m2ts", container="mpegts", muxer={"mpegts_m2ts_mode": "1"}),
    "wmv": _video(".wmv", container="asf", codec="wmv2", b="2M", b_frames=0, sound=True),
    "mpg": _video(".mpg", container="mpeg", codec="mpeg1video", b="2M"),
}
_IMAGE_FILES = {
    "jpg": _image(".jpg", "jpeg", quality=85),
    "jpg-progressive": _image(".jpg", "jpeg", quality=85, progressive=True),
    "png": _image(".png", "png"),
    "webp": _image(".webp", "webp", quality=80),
    "webp-lossless": _image(".webp", "webp", lossless=True),
    "jfif": _image(".jfif", "jpeg"),
    "bmp": _image(".bmp", "bmp"),
    "tif": _image(".tif", "tiff"),
    "tif-deflate": _image(".tif", "tiff", compression="tiff_deflate"),
    "gif": _image(".gif", "gif"),
}
if features.check("avif"):
    _IMAGE_FILES["avif"] = _image(".avif", "avif", max_threads=1)
VIDEOS = Format(
    "E1",
    "videos",
    "clean stop: refused and counted, classes in the details. Recovered: the frames that were "
    "asked for; 'other pixels' is damage that the codec cannot notice. Wrong in silence: the list "
    "of frames was damaged, and what is left is a consistent, other file",
    _VIDEO_FILES,
    {
        "read without an index": without_index,
        "read with an index of before a damage that keeps the time of the file": with_index,
        "prepared, then read": prepared,
    },
    whole=True,
    damaged=tuple(_VIDEO_FILES),
    warm=("mp4",),
)
IMAGES = Format(
    "E2",
    "images",
    "as above; JPEG and WebP hold no checksums, not even of their size",
    _IMAGE_FILES,
    {"whole": image_through(WHOLE), "a window": image_through(WINDOW)},
    whole=True,
    damaged=tuple(_IMAGE_FILES),
    warm=("jpg",),
)
