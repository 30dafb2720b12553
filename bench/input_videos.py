"""Clips per second that our decoder reads from video files, against PyAV, decord and OpenCV.

    python -m bench.input_videos [FILE ...] [--workers 2] [--clips 48] [--repeats 5]
                                 [--short-side 224]

A clip is 16 frames of 64 at 30 frames per second, from a random start, as PySlowFast samples
Kinetics. All decoders read the same clips from the same files (generated if none is given: 10 s,
340x256, H.264 with the defaults of x264), on the same number of threads, each decoder on one.
"PyAV" is the usual loop: seek, decode all frames up to the last, convert the requested ones. Runs
alternate; ratios are those of the medians. CPU time is that of all threads; unlike clips per
second, it hardly depends on other load of the machine.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import av
import numpy as np
from av.video.reformatter import Interpolation

from input_pipeline.decode.video import VideoFile
from input_pipeline.views.crops import short_side as short_side_of

FRAMES, SPAN_SECONDS = 16, 64 / 30
Decode = Callable[[str, list[int], int | None], np.ndarray]


def make_video(path: Path, seed: int, frames: int = 300, height: int = 256, width: int = 340):
    """Writes a video of drifting patterns with noise, 10 s, keyframes as x264 chooses them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = rng.uniform(-0.12, 0.12, (6, 3)).astype(np.float32)
    colours = rng.uniform(-40, 40, (6, 3)).astype(np.float32)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for number in range(frames):
            phases = [a * x + b * y + 4 * c * number for a, b, c in waves]
            picture = 128 + np.einsum("khw,kc->hwc", np.sin(phases), colours)
            picture += rng.normal(0, 4, (height, width, 1))
            pixels = picture.clip(0, 255).astype(np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode(None))


def ours(path: str, indices: list[int], short_side: int | None) -> np.ndarray:
    """This project."""
    with VideoFile(path).open() as video:
        return video.frames(indices, short_side)


def pyav(path: str, indices: list[int], short_side: int | None) -> np.ndarray:
    """The usual loop over frames."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_count, stream.thread_type = 1, "NONE"
        ticks = 1 / (stream.average_rate * stream.time_base)
        times = [round(index * ticks) + stream.start_time for index in indices]
        container.seek(times[0], stream=stream)
        options = {}
        if short_side is not None:
            height, width = short_side_of(stream.height, stream.width, short_side)
            options = dict(height=height, width=width, interpolation=Interpolation.BICUBIC)
        frames = []
        for frame in container.decode(stream):
            if frame.pts in times:
                frames.append(frame.to_ndarray(format="rgb24", **options))
            if frame.pts >= times[-1]:
                return np.stack(frames)
    raise ValueError(f"{path} ends before frame {indices[-1]}")


def decord(path: str, indices: list[int], short_side: int | None) -> np.ndarray:
    """The decoder of VideoMAE and mmaction2."""
    import decord

    size = {}
    if short_side is not None:
        height, width, _ = decord.VideoReader(path, num_threads=1)[0].shape
        size = dict(zip(("height", "width"), short_side_of(height, width, short_side), strict=True))
    return decord.VideoReader(path, num_threads=1, **size).get_batch(indices).asnumpy()


def opencv(path: str, indices: list[int], short_side: int | None) -> np.ndarray:
    """Seeks to the first frame, then reads sequentially."""
    import cv2

    video = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    video.set(cv2.CAP_PROP_POS_FRAMES, indices[0])
    frames = []
    for index in range(indices[0], indices[-1] + 1):
        video.grab()
        if index in indices:
            frame = cv2.cvtColor(video.retrieve()[1], cv2.COLOR_BGR2RGB)
            if short_side is not None:
                height, width = short_side_of(*frame.shape[:2], short_side)
                frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC)
            frames.append(frame)
    video.release()
    return np.stack(frames)


def draw_clips(paths: list[str], count: int) -> list[tuple[str, list[int]]]:
    """Files and frame indices of random clips."""
    rng = np.random.default_rng(0)
    clips = []
    for number in range(count):
        path = paths[number % len(paths)]
        with VideoFile(path).open() as video:
            span = min(SPAN_SECONDS * video.fps, video.num_frames)
            start = rng.uniform(0, video.num_frames - span)
            clips.append((path, np.linspace(start, start + span - 1, FRAMES).astype(int).tolist()))
    return clips


def available() -> dict[str, Decode]:
    """The decoders that are installed."""
    found: dict[str, Decode] = {"ours": ours, "PyAV": pyav}
    for name, module, decode in (("decord", "decord", decord), ("OpenCV", "cv2", opencv)):
        try:
            __import__(module)
            found[name] = decode
        except ImportError:
            print(f"{name} is not installed")
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("files", nargs="*")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--short-side", type=int)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = args.files
        for seed in range(0 if args.files else 4):
            paths.append(f"{folder}/{seed}.mp4")
            make_video(Path(paths[-1]), seed)
        clips = draw_clips(paths, args.clips)
        decoders = available()
        for name, decode in decoders.items():
            differ = np.mean(
                [np.mean(decode(*clip, None) != ours(*clip, None)) for clip in clips[:4]]
            )
            print(f"{name:7s} whole frames: {100 * differ:.2f} % of the values differ from ours")
        print(f"{args.workers} threads, {len(clips)} clips, short side {args.short_side}")
        measure(decoders, clips, args)


def measure(decoders: dict[str, Decode], clips: list, args: argparse.Namespace) -> None:
    """Runs the decoders over all clips, alternating, and prints medians."""
    speeds: dict[str, list[float]] = {name: [] for name in decoders}
    milliseconds: dict[str, list[float]] = {name: [] for name in decoders}
    with concurrent.futures.ThreadPoolExecutor(args.workers) as pool:
        for _ in range(args.repeats):
            for name, decode in decoders.items():
                start, busy = time.perf_counter(), time.process_time()
                list(pool.map(lambda clip, f=decode: f(*clip, args.short_side), clips))
                speeds[name].append(len(clips) / (time.perf_counter() - start))
                milliseconds[name].append(1000 * (time.process_time() - busy) / len(clips))
    speed = {name: statistics.median(values) for name, values in speeds.items()}
    cost = {name: statistics.median(values) for name, values in milliseconds.items()}
    for name in decoders:
        runs = " ".join(f"{value:.1f}" for value in speeds[name])
        faster, share = speed["ours"] / speed[name], cost["ours"] / cost[name]
        print(
            f"{name:7s} {speed[name]:5.1f} clips/s (ours is {faster:.2f}x), {cost[name]:5.1f} ms "
            f"of CPU time per clip (ours needs {share:.2f}x)   clips/s: {runs}"
        )


if __name__ == "__main__":
    main()
