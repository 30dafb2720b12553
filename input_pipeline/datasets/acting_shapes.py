"""Acting shapes: a small AVA of drawn videos, for demonstrations and tests."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np

from input_pipeline.boxes import LabelledBoxes, Truth
from input_pipeline.datasets.drawn_videos import DrawnVideos
from input_pipeline.datasets.shapes import OUTLINES, OVERSAMPLING, Outlines, fill, placed
from input_pipeline.decode.video import VideoFile
from input_pipeline.source import Example, fingerprint

# Largest change per frame: right and down in sides of the frame, log of the size, radians.
_MOTIONS = {
    "down": (0, 1 / 32, 0, 0),
    "growing": (0, 0, 0.1, 0),
    "left": (-1 / 32, 0, 0, 0),
    "right": (1 / 32, 0, 0, 0),
    "shrinking": (0, 0, -0.1, 0),
    "turning": (0, 0, 0, 0.2),
    "up": (0, -1 / 32, 0, 0),
}
_OUTLINES = ("cross", "square", "triangle")
_CLASSES = (*_MOTIONS, *_OUTLINES, "near_another")
_NUMBERS = (2, 4)  # of shapes
_RADII = (0.1, 0.16)  # of a shape in the key frame, as a fraction of the side of the frame
_REACH = 1.15  # largest distance from the centre of an outline to its edge, in radii
_NEAR = 0.06  # largest distance of the boxes of shapes that are near, as a fraction of the side
_GROUND, _COLOURS = (20.0, 90.0), (130.0, 235.0)  # of the background and of shapes
_JITTER = 0.06  # standard deviation of a detected side, in sides of the box
_FALSE = 2  # most false boxes of a detector


class _Shape(NamedTuple):
    """One shape in a video; lengths are fractions of the side of the frame."""

    motion: str
    outline: str
    centre: np.ndarray  # (x, y) in the key frame, as the radius and the angle
    radius: float
    angle: float
    step: np.ndarray  # change per frame, see `_MOTIONS`

    def at(self, time: int, scale: float = 1.0) -> Outlines:
        """Its outlines some frames after the key frame, in `1 / scale` of the side."""
        change = time * self.step
        centre, radius = self.centre + change[:2], self.radius * np.exp(change[2])
        return placed(
            OUTLINES[self.outline], scale * centre, scale * radius, self.angle + change[3]
        )

    @property
    def box(self) -> np.ndarray:
        """Left, top, right, bottom in the key frame."""
        corners = np.concatenate(self.at(0)[0])
        return np.concatenate([corners.min(0), corners.max(0)])


class ActingShapes(DrawnVideos):
    """Two to four shapes, each with a motion; boxes and classes are those of the middle frame.

    The classes of a box are its motion, its outline, and `near_another` if the box of another shape
    is near. In the middle frame, the key frame, the shapes are apart from each other and within the
    frame, and everything that can be seen is independent of the motions: only other frames tell
    them. Shapes are lighter than the background. A horizontal flip changes the class.

    The videos have 30 frames per second: a clip of them all has `view.stride=1`.
    """

    RATE: ClassVar = 30
    NAME: ClassVar = "acting_shapes 1"

    flippable = False

    def __init__(
        self,
        split: str = "train",
        *,
        path: str = "data/acting_shapes",
        num_examples: int | None = None,
        size: int = 64,
        frames: int = 8,
        detector: bool = False,
        seed: int = 0,
    ):
        """Generates missing files on all cores, which takes about half a minute by default.

        It can be interrupted and run again, and several processes may generate the same files.

        Args:
          split: "train", "validation" or "test": independent videos.
          path: folder of the files; each size, number of frames and seed has a subfolder.
          num_examples: how many, from the first; None means 2,000 of train, 400 of others.
          size: side of the frames, in pixels, even.
          frames: number of frames of each video.
          detector: whether the boxes are such as a detector finds: the true ones, displaced, and up
            to two more that contain no shape and have no class. Scored against the same true boxes.
          seed: of the dataset; another seed gives other videos.

        Raises:
          ValueError: no such split, or a number out of range.
          OSError: the files cannot be written.
        """
        super().__init__(split, path, num_examples, size, frames, seed, _CLASSES)
        true = [_labelled(self._shapes(index)) for index in range(self.num_examples)]
        found = true
        if detector:
            self.fingerprint = fingerprint([self.fingerprint.encode(), b"detector"])
            found = [_detected(self.generator(i, 2), *boxes) for i, boxes in enumerate(true)]
        keys = tuple(f"{index:06d},0000" for index in range(self.num_examples))
        sides, classes = map(np.concatenate, zip(*found, strict=True))
        first = np.cumsum([0, *(len(boxes) for boxes, _ in found)])
        self.boxes = LabelledBoxes(keys, first, sides, classes, _truth(keys, true))

    def read(self, index: int) -> Example:
        """One video; its frames are a pure function of its settings and the index."""
        return Example(VideoFile(self.name_of(index), key_frame=self._frames // 2), None)

    def draw(self, index: int) -> np.ndarray:
        """See `DrawnVideos`."""
        rng, shapes = self.generator(index, 1), self._shapes(index)
        ground, *colours = (rng.uniform(*each, 3) for each in [_GROUND, *[_COLOURS] * len(shapes)])
        video = np.tile(ground, (self._frames, self._size, self._size, 1))
        for time, frame in enumerate(video, -(self._frames // 2)):
            for shape, colour in zip(shapes, colours, strict=True):
                mask = fill(shape.at(time, self._size * OVERSAMPLING), self._size)
                frame += np.asarray(mask)[..., None] / 255 * (colour - frame)
        return video.astype(np.uint8)

    def _shapes(self, index: int) -> list[_Shape]:
        rng = self.generator(index)
        number = int(rng.integers(*_NUMBERS, endpoint=True))
        radii, centres = _apart(rng, number)
        motions, outlines = rng.choice(list(_MOTIONS), number), rng.choice(_OUTLINES, number)
        angles, speeds = rng.uniform(0, 2 * np.pi, number), rng.uniform(0.5, 1, number)
        steps = [s * np.array(_MOTIONS[m]) for m, s in zip(motions, speeds, strict=True)]
        return list(map(_Shape, motions, outlines, centres, radii, angles, steps))


def _apart(rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Radii and centres of shapes that do not overlap."""
    while True:
        radii = rng.uniform(*_RADII, number)
        reach = _REACH * radii
        centres = rng.uniform(reach, 1 - reach, (2, number)).T
        distances = np.linalg.norm(centres[:, None] - centres, axis=2)
        if (distances + np.eye(number) >= np.add.outer(reach, reach)).all():
            return radii, centres


def _labelled(shapes: list[_Shape]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and classes of the shapes of a video."""
    sides = np.stack([shape.box for shape in shapes])
    near = (_gaps(sides, sides) + np.eye(len(sides)) < _NEAR).any(1)
    classes = [[k in (shape.motion, shape.outline) for k in _CLASSES[:-1]] for shape in shapes]
    return sides, np.column_stack([classes, near])


def _gaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distances of boxes, along the axis with the larger one; negative if they overlap."""
    start = np.maximum(a[:, None, :2], b[:, :2])
    return (start - np.minimum(a[:, None, 2:], b[:, 2:])).max(2)


def _detected(
    rng: np.random.Generator, sides: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and classes as a detector may find them."""
    lengths = np.tile(sides[:, 2:] - sides[:, :2], 2)
    moved = sides + rng.normal(0, _JITTER, sides.shape) * lengths
    radii = rng.uniform(*_RADII, (rng.integers(_FALSE, endpoint=True), 2))
    centres = rng.uniform(radii, 1 - radii)
    false = np.concatenate([centres - radii, centres + radii], 1)
    false = false[(_gaps(false, sides) > 0).all(1)]
    no_classes = np.zeros((len(false), classes.shape[1]), bool)
    return np.concatenate([moved, false]).clip(0, 1), np.concatenate([classes, no_classes])


def _truth(keys: tuple[str, ...], boxes: list[tuple[np.ndarray, np.ndarray]]) -> Truth:
    sides, classes = map(np.concatenate, zip(*boxes, strict=True))
    row, number = np.nonzero(classes)
    of = np.repeat(keys, [len(each) for each, _ in boxes])
    motions, outlines = len(_MOTIONS), len(_OUTLINES)
    groups = {
        "motion": tuple(range(motions)),
        "outline": tuple(range(motions, motions + outlines)),
        "company": (motions + outlines,),
    }
    return Truth(of[row], sides[row], number, groups=groups)
