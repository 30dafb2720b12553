"""Moving shapes: small videos generated on first use, for demonstrations and tests."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from input_pipeline.datasets.drawn_videos import DrawnVideos
from input_pipeline.datasets.shapes import OUTLINES, draw
from input_pipeline.decode.video import VideoFile
from input_pipeline.source import Example

_SPEEDS = (1 / 64, 1 / 32)  # cycles per frame: sides of the picture, rotations, or whole zooms
_TRAVEL_SPEEDS = (1 / 16, 1 / 8)  # of outlines that travel, sides of the picture per frame
_SWING_RATES = (1 / 24, 1 / 16)  # cycles per frame of oscillations and circles
_SWINGS = (0.10, 0.16)  # their amplitude, as a fraction of the side
_RADII = (0.17, 0.36)  # of a shape, as a fraction of the side
_WAVELENGTHS = (4.5, 8.0)  # of the stripes of the background, pixels
_STRIPES = (1.5, 2.5)  # periods of the stripes of a shape, in its radius
_CONTRASTS = (30.0, 50.0)  # of stripes around their mean, on the scale 0 to 255
_COLOUR_STEPS = (30.0, 70.0)  # between the mean colours of background and shape


class MovingShapes(DrawnVideos):
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

    The videos have 12 frames per second. Classes alternate, as in `Shapes`.
    """

    RATE: ClassVar = 12
    NAME: ClassVar = "moving_shapes 1"

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
        self.flippable, self._outlines = not outlines, outlines
        names = tuple(_TRAVELS if outlines else _MOTIONS)
        kind = "_outlines" * outlines
        super().__init__(split, path, num_examples, size, frames, seed, names, kind)

    def read(self, index: int) -> Example:
        """One video; its frames are a pure function of its settings and the index."""
        classes = _TRAVELS if self._outlines else _MOTIONS
        return Example(VideoFile(self.name_of(index)), index % len(classes))

    def draw(self, index: int) -> np.ndarray:
        """See `DrawnVideos`."""
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
