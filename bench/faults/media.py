"""Damaged videos and images, by the real pipeline: the right clip or a counted class of failure.

    python -m bench.faults.media --videos=2000 --images=2000 --record

Files are read in another process, so that a crash or a hang of a decoder is seen. Half of the
videos lie beside an index as `input_pipeline.prepare` makes it, from before they were damaged.
Frames show their numbers, so that what comes out can be compared with what was asked for.
"""

from __future__ import annotations

import argparse
import collections
import functools
import io
import json
import pathlib
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from bench.faults import isolation, results
from bench.faults.damage import damage
from bench.faults.isolation import peak_megabytes
from input_pipeline import EvalView, ImageFolder, Loader, TrainView, VideoFolder
from input_pipeline.bad_inputs import CLASSES
from input_pipeline.decode.video import VideoFile
from input_pipeline.order import example_generator
from tests.input_pipeline.samples import encode, picture
from tests.input_pipeline.video_samples import encode_video, numbered, numbers_of

SECONDS = 60.0  # for a hang; the pipeline's own limit is lower
MEMORY = 4 << 30
NUM_FRAMES, EXPECTED = 48, list(range(0, 48, 3))
VIDEOS = {
    "mp4": {},
    "mp4, fragments": {"muxer": {"movflags": "frag_keyframe+empty_moov"}},
    "mkv": {"container": "matroska"},
    "webm": {"container": "webm", "codec": "libvpx-vp9", "deadline": "realtime"},
    "avi": {"container": "avi", "codec": "mpeg4", "b": "1M"},
}
IMAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "jpg": ("jpeg", {"quality": 85}),
    "jpg, progressive": ("jpeg", {"quality": 85, "progressive": True}),
    "png": ("png", {}),
    "webp": ("webp", {"quality": 80}),
    "webp, lossless": ("webp", {"lossless": True}),
}


class Read(NamedTuple):
    """What became of a file.

    Attributes:
      kind: class of failure; or "equal", "other pixels", "other frames", "other size" of the clip
        that came out, compared with that of the sound file.
      words: what was said, or the numbers of the frames.
      seconds: it took.
      megabytes: most memory that the process ever had.
    """

    kind: str
    words: str
    seconds: float
    megabytes: float = 0.0


Job = tuple[str, int, str]  # "videos" or "images", seed, folder


def attempt(job: Job) -> Read:
    """Damages a file, reads it."""
    what, seed, folder = job
    draws = random.Random(seed)
    sound = sound_videos() if what == "videos" else sound_images()
    name = draws.choice(sorted(sound))
    others = [data for other, data in sound.items() if other.split(",")[0] != name.split(",")[0]]
    _, data = damage(sound[name], draws, others)
    place = pathlib.Path(folder) / str(seed)
    place.mkdir()
    try:
        read = (read_video if what == "videos" else read_image)(place, name, data, seed)
        return read._replace(megabytes=peak_megabytes())
    finally:
        shutil.rmtree(place)


@functools.cache
def sound_videos() -> dict[str, bytes]:
    """By name."""
    return {name: encode_video(NUM_FRAMES, **options) for name, options in VIDEOS.items()}


def encoded(numbers: Sequence[int], crf: int | None = None) -> bytes:
    """An MP4 file whose frames show these numbers."""
    options = {} if crf is None else {"crf": str(crf)}
    return encode_video([numbered(number) for number in numbers], **options)


@functools.cache
def sound_images() -> dict[str, bytes]:
    """By name."""
    return {name: encode(picture(3, 120, 160), kind, **o) for name, (kind, o) in IMAGES.items()}


def _load(source: Any, view: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    part = Loader(source, view, batch_size=view.clips_per_part).load(0, 0)
    return part, time.perf_counter() - start


def read_video(place: pathlib.Path, name: str, data: bytes, seed: int) -> Read:
    """Reads a video in place of a sound one; with an index if the seed is odd."""
    view = EvalView(size=64, resize=64, frames=16, stride=3, sampling="strided", crops=3)
    file = place / f"x.{name.split(',')[0]}"
    file.write_bytes(data)
    if seed % 2:
        entry = {"path": file.name, "status": "ok", "num_frames": NUM_FRAMES, "fps": 25.0}
        (place / "index.jsonl").write_text(json.dumps(entry) + "\n")
    part, seconds = _load(VideoFolder(path=str(place)), view)
    if part.problem is not None:
        return Read(part.problem.kind, part.problem.reason, seconds)
    assert part.video.shape == (3, 16, 64, 64, 3)
    whole = _reference(name, view)
    if np.array_equal(part.video, whole):
        return Read("equal", "", seconds)
    frames = np.concatenate([part.video[0], part.video[2, :, :, 32:]], axis=2)
    numbers = numbers_of(frames)
    if numbers != EXPECTED and _frames_of(file) != NUM_FRAMES:
        return Read("other count", f"{_frames_of(file)} frames, {numbers}", seconds)
    shown = zip(frames, numbers, EXPECTED, strict=True)
    if any(number != wanted and _shows(frame, number) for frame, number, wanted in shown):
        return Read("other frames", str(numbers), seconds)
    return Read("other pixels", "" if numbers == EXPECTED else str(numbers), seconds)


def _frames_of(file: pathlib.Path) -> int:
    with VideoFile(str(file)).open() as video:
        return video.num_frames


@functools.cache
def _reference(name: str, view: Any) -> np.ndarray:
    return view(VideoFile(sound_videos()[name]), None)


def _shows(frame: np.ndarray, number: int) -> bool:
    """Whether a frame is, but for what compression does, the one of this number."""
    return number < NUM_FRAMES and bool(np.abs(frame.astype(int) - numbered(number)).mean() < 10)


def read_image(place: pathlib.Path, name: str, data: bytes, seed: int) -> Read:
    """Reads an image in place of a sound one; a window of it if the seed is odd."""
    # Half through windows of the file, which another decoder makes of JPEG.
    view: Any = EvalView(size=120, resize=120)
    if seed % 2:
        view = TrainView(size=48, crop_area=(0.1, 0.3))
    file = place / f"x.{name.split(',')[0]}"
    file.write_bytes(data)
    part, seconds = _load(ImageFolder(path=str(place)), view)
    if part.problem is not None:
        return Read(part.problem.kind, part.problem.reason, seconds)
    assert part.video.shape == (1, *view.shape)
    if np.array_equal(part.video, view(sound_images()[name], example_generator(0, 0, 0))):
        return Read("equal", "", seconds)
    size = Image.open(io.BytesIO(data)).size
    return Read("other pixels" if size == (160, 120) else "other size", str(size), seconds)


def verdict(outcome: Any) -> str:
    """One of the five outcomes."""
    if not isinstance(outcome, Read):
        return "hang or damage"
    if outcome.kind in ("equal", "other pixels", "other size"):
        return "recovered"
    return "clean stop" if outcome.kind in CLASSES else "wrong in silence"


def series(
    what: str, seeds: Iterable[int], log: Callable[[str], None] = print
) -> tuple[dict[str, int], dict[str, Any]]:
    """Counts by outcome; details: counts by class, the longest time and the most memory."""
    outcomes: collections.Counter[str] = collections.Counter()
    kinds: collections.Counter[str] = collections.Counter()
    seconds, megabytes = [0.0], [0.0]
    with tempfile.TemporaryDirectory() as folder:
        jobs = ((what, seed, folder) for seed in seeds)
        for (_, seed, _), outcome in isolation.each(attempt, jobs, SECONDS, MEMORY):
            judged = verdict(outcome)
            outcomes[judged] += 1
            if isinstance(outcome, Read):
                kinds[outcome.kind] += 1
                seconds.append(outcome.seconds)
                megabytes.append(outcome.megabytes)
            if judged not in results.GOOD:
                log(f"{what} {seed} {description(what, seed)}: {outcome}")
    seconds.sort()
    details = {
        "classes": dict(kinds.most_common()),
        "longest_seconds": round(
            seconds[-2 if what == "images" else -1], 2
        ),  # one loads TensorFlow
        "process_megabytes": round(max(megabytes)),
    }
    return dict(outcomes), details


def description(what: str, seed: int) -> str:
    """Which file, and what is done to it."""
    draws = random.Random(seed)
    sound = sound_videos() if what == "videos" else sound_images()
    name = draws.choice(sorted(sound))
    others = [data for other, data in sound.items() if other.split(",")[0] != name.split(",")[0]]
    way, _ = damage(sound[name], draws, others)
    return f"{name}, {way}"


NOTES = {
    "videos with an index": "clean stop: refused and counted, classes in the details. Recovered: "
    "the frames that were asked for; 'other pixels' is damage that the codec cannot notice",
    "videos without an index": "as above. Wrong in silence: the list of frames was damaged, and "
    "what is left is a consistent, shorter file; an index from before tells",
    "images": "as above; JPEG and WebP hold no checksums, not even of their size",
}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=0, help="half with, half without an index")
    parser.add_argument("--images", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="seed")
    parser.add_argument("--record", action="store_true", help="in docs/faults.jsonl")
    chosen = parser.parse_args()
    all_seeds = range(chosen.first, chosen.first + max(chosen.videos, chosen.images))
    parts = {
        "videos with an index": ("E1", "videos", [s for s in all_seeds[: chosen.videos] if s % 2]),
        "videos without an index": (
            "E1",
            "videos",
            [s for s in all_seeds[: chosen.videos] if not s % 2],
        ),
        "images": ("E2", "images", list(all_seeds[: chosen.images])),
    }
    for name, (fault, what, seeds) in parts.items():
        if not seeds:
            continue
        start = time.monotonic()
        outcomes, details = series(what, seeds)
        print(
            name, json.dumps([outcomes, details]), f"{time.monotonic() - start:.0f} s", flush=True
        )
        if chosen.record:
            results.record(
                fault,
                f"{name}, damaged in 12 ways ({', '.join(VIDEOS if what == 'videos' else IMAGES)})",
                outcomes,
                command=f"python -m bench.faults.media --{what}={getattr(chosen, what)} --record",
                note=NOTES[name],
                seeds=[seeds[0], seeds[-1]],
                **details,
            )


if __name__ == "__main__":
    main()
