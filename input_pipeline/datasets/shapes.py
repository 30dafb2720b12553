"""Shapes: pictures drawn on the spot, for demonstrations and tests without a download."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from PIL import Image, ImageDraw

from input_pipeline.source import Example, fingerprint

OVERSAMPLING = 3  # shapes are drawn larger, then reduced, for smooth edges
_RADII = (0.3, 0.42)  # of a shape, as a fraction of the side of the picture
_WAVELENGTHS = (4.0, 7.0)  # of stripes, pixels
_SWINGS = (6.0, 14.0)  # of stripes around their mean, on the scale 0 to 255
_CONTRASTS = (40.0, 90.0)  # between the mean colours of ground and shape, in each channel
_NOISE = 1.0  # largest standard deviation


def _ring_points(radii: list[float], start: float = 0.0) -> np.ndarray:
    angles = start + np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.array(radii)[:, None]


def _circle(radius: float, x: float = 0.0) -> np.ndarray:
    return _ring_points([radius] * 24) + np.array([x, 0.0])


def _box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


Outlines = tuple[list[np.ndarray], list[np.ndarray]]
# Class -> outlines to fill and outlines to cut out again.
OUTLINES: dict[str, Outlines] = {
    "arrow": (
        [np.array([[0, -1], [0.9, 0], [0.3, 0], [0.3, 1], [-0.3, 1], [-0.3, 0], [-0.9, 0]])],
        [],
    ),
    "bars": ([_box(-1, y - 0.2, 1, y + 0.2) for y in (-0.8, 0.0, 0.8)], []),
    "crescent": ([_circle(1.0)], [_circle(0.85, x=0.5)]),
    "cross": ([_box(-1, -0.3, 1, 0.3), _box(-0.3, -1, 0.3, 1)], []),
    "disc": ([_circle(0.9)], []),
    "ell": ([_box(-0.8, -1, -0.25, 1), _box(-0.8, 0.45, 0.8, 1)], []),
    "ring": ([_circle(1.0)], [_circle(0.6)]),
    "square": ([_box(-0.8, -0.8, 0.8, 0.8)], []),
    "star": ([_ring_points([1.2, 0.5] * 5, start=-np.pi / 2)], []),
    "triangle": ([_ring_points([1.1] * 3, start=-np.pi / 2)], []),
}
SHAPES = tuple(OUTLINES.values())  # by class index; the names above are in order


class Drawn:
    """A dataset that is drawn, not read; checks what all such datasets take."""

    SPLITS: ClassVar[dict[str, int]]  # and how many examples each has by default

    def __init__(
        self, split: str, num_examples: int | None, seed: int, class_names: tuple[str, ...]
    ):
        if split not in self.SPLITS:
            raise ValueError(f"split {split!r} is not one of {', '.join(self.SPLITS)}")
        self.num_examples = self.SPLITS[split] if num_examples is None else num_examples
        if self.num_examples < 1:
            raise ValueError(f"num_examples is {num_examples}; it must be at least 1")
        if seed < 0:
            raise ValueError(f"seed is {seed}; it must be 0 or more")
        self.class_names: tuple[str, ...] | None = class_names
        self._split = split
        self._key = np.array([seed, list(self.SPLITS).index(split)], np.uint64)

    def generator(self, index: int, stream: int = 0) -> np.random.Generator:
        """The random numbers of one example; each stream is independent."""
        return np.random.Generator(np.random.Philox(key=self._key, counter=[0, 0, index, stream]))


class Shapes(Drawn):
    """A striped shape, lighter or darker than its striped background; the class is the shape.

    Everything else is independent of the class: colours, stripes, size, position, rotation, and a
    line that may cross the background. Most masked patches can be predicted from the stripes around
    them; outlines only from an idea of the shape. Classes alternate: the first n examples contain
    each class n / 10 times, rounded up or down.
    """

    SPLITS: ClassVar = {"train": 50_000, "validation": 2_000, "test": 2_000}

    def __init__(
        self,
        split: str = "train",
        *,
        num_examples: int | None = None,
        size: int = 32,
        seed: int = 0,
    ):
        """Draws nothing yet.

        Args:
          split: "train", "validation" or "test": independent pictures.
          num_examples: the first so many of the split; None means 50,000 of train, 2,000 of others.
          size: side of the pictures, in pixels.
          seed: another seed is another dataset.

        Raises:
          ValueError: no such split, or a number out of range.
        """
        super().__init__(split, num_examples, seed, tuple(OUTLINES))
        if not 16 <= size <= 4096:
            raise ValueError(f"size is {size}; expected 16 to 4096 pixels")
        self._size = size
        self.fingerprint = fingerprint(
            f"shapes 3 {split} {self.num_examples} {size} {seed}".encode().split()
        )

    def name_of(self, index: int) -> str:
        """A name such as "shapes/train/17"."""
        return f"shapes/{self._split}/{index}"

    def read(self, index: int) -> Example:
        """Draws one picture: a pure function of (seed, split, size, index)."""
        label = index % len(OUTLINES)
        return Example(draw(self.generator(index), SHAPES[label], self._size)[0], label)


def draw(
    rng: np.random.Generator, outlines: Outlines, size: int, shifts: Sequence[int] = (0,)
) -> np.ndarray:
    """A picture in which the shape moves: uint8 (frames, size, size, 3).

    Args:
      rng: decides about everything but the outlines.
      outlines: to fill, and to cut out again.
      size: side of the picture, in pixels.
      shifts: by how many pixels the shape is moved right in each frame; it wraps around.
    """
    angle = rng.uniform(0, np.pi)
    colour = rng.uniform(80, 176, size=3)
    frames = np.repeat(_stripes(rng, angle, colour, size)[None], len(shifts), axis=0)
    still = [0] * len(shifts)
    layers = [(_clutter(rng, size), rng.uniform(0, np.pi), still)]
    mask = _shape_mask(rng, outlines, size)
    layers.append((mask, angle + rng.uniform(np.pi / 5, 4 * np.pi / 5), list(shifts)))
    for mask, turned, moves in layers:
        covered = np.asarray(mask, np.float32)[..., None] / 255
        step = rng.uniform(*_CONTRASTS, size=3) * rng.choice([-1, 1])
        stripes = _stripes(rng, turned, colour + step, size)
        for picture, move in zip(frames, moves, strict=True):
            opacity, pixels = (np.roll(layer, move, axis=1) for layer in (covered, stripes))
            picture += opacity * (pixels - picture)
    frames += rng.normal(0, rng.uniform(0, _NOISE), size=frames.shape)
    return frames.clip(0, 255).astype(np.uint8)


def _stripes(rng: np.random.Generator, angle: float, colour: np.ndarray, size: int) -> np.ndarray:
    """A wave across the picture; each of its colours swings, so that each has gradients."""
    pixels = np.arange(size, dtype=np.float32)
    across = np.cos(angle) * pixels + np.sin(angle) * pixels[:, None]
    wave = np.sin(2 * np.pi * (across / rng.uniform(*_WAVELENGTHS) + rng.uniform()))
    swing = rng.uniform(0.5, 1, size=3) * rng.choice([-1, 1], size=3) * rng.uniform(*_SWINGS)
    return (colour + swing * wave[..., None]).astype(np.float32)


def _shape_mask(rng: np.random.Generator, outlines: Outlines, size: int) -> Image.Image:
    canvas = size * OVERSAMPLING
    radius = canvas * rng.uniform(*_RADII)
    angle = rng.uniform(-np.pi / 12, np.pi / 12)
    centre = rng.uniform(1.1 * radius, canvas - 1.1 * radius, size=2)
    return fill(placed(outlines, centre, radius, angle), size)


def placed(outlines: Outlines, centre: np.ndarray, radius: float, angle: float) -> Outlines:
    """Outlines turned clockwise by an angle, scaled by a radius and moved to a centre (x, y)."""
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    filled, cut = ([radius * points @ turn + centre for points in part] for part in outlines)
    return filled, cut


def fill(outlines: Outlines, size: int) -> Image.Image:
    """Outlines in a square picture, 255 inside, with smooth edges.

    Args:
      outlines: in pixels of a picture that is `OVERSAMPLING` times as large.
      size: side of the picture, in pixels.
    """
    filled, cut = outlines
    mask = Image.new("L", (size * OVERSAMPLING,) * 2)
    pencil = ImageDraw.Draw(mask)
    for points, value in [(p, 255) for p in filled] + [(p, 0) for p in cut]:
        pencil.polygon(points.ravel().tolist(), fill=value)
    return mask.reduce(OVERSAMPLING)


def _clutter(rng: np.random.Generator, size: int) -> Image.Image:
    canvas = size * OVERSAMPLING
    mask = Image.new("L", (canvas, canvas))
    pencil = ImageDraw.Draw(mask)
    for _ in range(int(rng.integers(0, 2))):
        ends = rng.uniform(0, canvas, size=4).tolist()
        pencil.line(ends, fill=255, width=int(rng.integers(canvas // 24, canvas // 10)))
    return mask.reduce(OVERSAMPLING)
