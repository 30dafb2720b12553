"""Moving shapes: small videos generated on first use, for demonstrations and tests."""

from __future__ import annotations

import concurrent.futures
import os
import sys
import uuid
from pathlib import Path
from typing import ClassVar

import av
import numpy as np
from av.video.stream import VideoStream
from tqdm import tqdm

from input_pipeline.datasets.shapes import OUTLINES, Drawn, draw
from input_pipeline.decode.video import VideoFile
from input_pipeline.paths import local_path
from input_pipeline.source import Example, fingerprint

FRAMES_PER_SECOND = 12
GOP = 12  # frames from one keyframe to the next
_SPEEDS = (1 / 64, 1 / 32)  # cycles per frame: sides of the picture, rotations, or whole zooms
_TRAVEL_SPEEDS = (1 / 16, 1 / 8)  # of outlines that travel, sides of the picture per frame
_SWING_RATES = (1 / 24, 1 / 16)  # cycles per frame of oscillations and circles
_SWINGS = (0.10, 0.16)  # their amplitude, as a fraction of the side
_RADII = (0.17, 0.36)  # of a shape, as a fraction of the side
_WAVELENGTHS = (4.5, 8.0)  # of the stripes of the background, pixels
_STRIPES = (1.5, 2.5)  # periods of the stripes of a shape, in its radius
_CONTRASTS = (30.0, 50.0)  # of stripes around their mean, on the scale 0 to 255
_COLOUR_STEPS = (30.0, 70.0)  # between the mean colours of background and shape
_ENCODERS = (("libx264", {"crf": "20", "preset": "fast"}), ("mpeg4", {"q": "3"}))


class MovingShapes(Drawn):
    """One striped shape that moves over a striped background; the class is the motion.

    A shape has a position, an angle and a size. All wrap around: a shape that leaves the picture on
    one side enters on the other, and the largest size is followed by the smallest. The start is
    uniform, so position, angle and size are uniform in every frame for every motion: a single
    frame contains no information about the class. Some classes are the reverse of others (up and
    down, growing and shrinking), so the order of the frames matters. A horizontal flip keeps the
    class.

    With `outlines`, pictures are those of `Shapes`, and the class is one of its ten outlines and
    whether it travels to the left or to the right. A shape that leaves on one side enters on the
    other, and it starts anywhere: a single frame tells the outline, but not the direction. A
    horizontal flip changes the class.

    The videos are MP4 files (H.264; MPEG-4 if the encoder is missing) with 12 frames per second and
    a keyframe every 12 frames. Classes alternate, as in `Shapes`.
    """

    SPLITS: ClassVar = {"train": 2_000, "validation": 400, "test": 400}

    def __init__(
        self,
        split: str = "train",
        *,
        path: str = "data/moving_shapes",
        num_examples: int | None = None,
        size: int = 64,
        frames: int = 32,
        outlines: bool = False,
        seed: int = 0,
    ):
        """Generates missing files on all cores, which takes about half a minute by default.

        It can be interrupted and run again, and several processes may generate the same files.

        Args:
          split: "train", "validation" or "test": independent videos.
          path: folder of the files; each choice of what follows but their number has a subfolder.
          num_examples: how many, from the first; None means 2,000 of train, 400 of others.
          size: side of the frames, in pixels, even.
          frames: number of frames of each video.
          outlines: whether the class is an outline and a direction.
          seed: of the dataset; another seed gives other videos.

        Raises:
          ValueError: no such split, or a number out of range.
          OSError: the files cannot be written.
        """
        super().__init__(split, num_examples, seed, tuple(_TRAVELS if outlines else _MOTIONS))
        self.flippable = not outlines
        if size < 32 or size % 2:
            raise ValueError(f"size is {size}; it must be even and at least 32 pixels")
        if frames < 1:
            raise ValueError(f"frames is {frames}; it must be at least 1")
        self._size, self._frames, self._outlines = size, frames, outlines
        settings = f"{size}px_{frames}frames_seed{seed}" + "_outlines" * outlines
        self._folder = local_path(path) / settings / split
        self._make_missing()
        self.fingerprint = fingerprint(
            f"moving_shapes 1 {settings} {split} {self.num_examples}".encode().split()
        )

    def name_of(self, index: int) -> str:
        """The path of the file."""
        return str(self._folder / f"{index:06d}.mp4")

    def read(self, index: int) -> Example:
        """One video; its frames are a pure function of its settings and the index."""
        classes = _TRAVELS if self._outlines else _MOTIONS
        return Example(VideoFile(self.name_of(index)), index % len(classes))

    def _make_missing(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        there = set(os.listdir(self._folder))
        names = (f"{index:06d}.mp4" for index in range(self.num_examples))
        missing = [index for index, name in enumerate(names) if name not in there]
        if not missing:
            return
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            made = pool.map(self._make, missing)
            try:
                seconds = 0.1 if sys.stderr.isatty() else 10.0  # a log needs few lines
                name = f"making {self._folder}"
                for _ in tqdm(made, name, len(missing), unit=" videos", mininterval=seconds):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _make(self, index: int) -> None:
        path = Path(self.name_of(index))
        partial = path.with_suffix(f".partial-{uuid.uuid4().hex}")
        try:
            _encode(self._draw(index), partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def _draw(self, index: int) -> np.ndarray:
        rng = self.generator(index)
        if self._outlines:
            outline, sign = list(_TRAVELS.values())[index % len(_TRAVELS)]
            speed = sign * rng.uniform(*_TRAVEL_SPEEDS)
            shifts = self._size * (rng.uniform() + speed * np.arange(self._frames))
            return draw(rng, outline, self._size, shifts.round().astype(int).tolist())
        motion = list(_MOTIONS.values())[index % len(_MOTIONS)]
        start = rng.uniform(size=4)
        frame = np.arange(self._frames)[:, None]
        states = (start + motion(rng, frame)) % 1
        return _draw_frames(rng, states, self._size)


# An outline and the sign of its speed to the right.
_TRAVELS = {
    f"{name}_{direction}": (outline, sign)
    for name, outline in OUTLINES.items()
    for direction, sign in (("left", -1), ("right", 1))
}

# A motion adds to position (right, down), angle and size, each in cycles: (frames, 4).
_RIGHT, _DOWN, _ANGLE, _SIZE = np.eye(4)


def _steady(direction: np.ndarray, either_way: bool = False):
    def motion(rng: np.random.Generator, frame: np.ndarray) -> np.ndarray:
        sign = rng.choice([-1, 1]) if either_way else 1
        return frame * sign * rng.uniform(*_SPEEDS) * direction

    return motion


def _swinging(width: np.ndarray, height: np.ndarray):
    """Motion along an ellipse, in either direction; an oscillation if it has no height."""

    def motion(rng: np.random.Generator, frame: np.ndarray) -> np.ndarray:
        turn = 2 * np.pi * (rng.uniform() + frame * rng.uniform(*_SWING_RATES))
        sign = rng.choice([-1, 1])
        return rng.uniform(*_SWINGS) * (np.cos(turn) * width + sign * np.sin(turn) * height)

    return motion


_MOTIONS = {
    "circling": _swinging(_RIGHT, _DOWN),
    "down": _steady(_DOWN),
    "growing": _steady(_SIZE),
    "shrinking": _steady(-_SIZE),
    "sideways": _steady(_RIGHT, either_way=True),
    "to_and_fro": _swinging(_RIGHT, 0 * _DOWN),
    "turning": _steady(_ANGLE, either_way=True),
    "up": _steady(-_DOWN),
}


def _draw_frames(rng: np.random.Generator, states: np.ndarray, size: int) -> np.ndarray:
    """Frames of a shape in the given states: uint8 (frames, size, size, 3)."""
    colour = rng.uniform(80, 176, size=3)
    pixel = (np.arange(size, dtype=np.float32) + 0.5) / size
    turn, periods = rng.uniform(0, np.pi), size / rng.uniform(*_WAVELENGTHS)
    across = np.cos(turn) * pixel + np.sin(turn) * pixel[:, None]
    ground = _striped(rng, colour, periods * across)

    right, down, angle, zoom = (states.astype(np.float32).T)[:, :, None, None]
    radius = _RADII[0] * (_RADII[1] / _RADII[0]) ** zoom
    x = ((pixel - right + 0.5) % 1 - 0.5) / radius  # from the centre, wrapped around
    y = ((pixel[:, None] - down + 0.5) % 1 - 0.5) / radius
    # The outline is a circle with 2 to 5 lobes, softened over a pixel.
    lobes, depth = rng.integers(2, 6), rng.uniform(0.1, 0.3)
    outline = 1 + depth * (np.cos(lobes * (np.arctan2(y, x) - 2 * np.pi * angle)) - 1)
    covered = ((outline - np.hypot(x, y)) * radius * size + 0.5).clip(0, 1)[..., None]
    along = np.cos(2 * np.pi * angle) * x + np.sin(2 * np.pi * angle) * y
    step = rng.choice([-1, 1], size=3) * rng.uniform(*_COLOUR_STEPS, size=3)
    shape = _striped(rng, colour + step, rng.uniform(*_STRIPES) * along)
    return (ground + covered * (shape - ground)).clip(0, 255).astype(np.uint8)


def _striped(rng: np.random.Generator, colour: np.ndarray, periods: np.ndarray) -> np.ndarray:
    """A sine wave in all three colours, so that each has gradients."""
    swing = rng.choice([-1, 1], size=3) * rng.uniform(0.5, 1, size=3) * rng.uniform(*_CONTRASTS)
    wave = np.sin(2 * np.pi * (periods + np.float32(rng.uniform())))
    return colour.astype(np.float32) + swing.astype(np.float32) * wave[..., None]


def _encode(frames: np.ndarray, path: Path) -> None:
    encoder, options = next(e for e in _ENCODERS if e[0] in av.codecs_available)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(encoder, rate=FRAMES_PER_SECOND, options=options)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = GOP
        stream.codec_context.thread_count = 1
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
