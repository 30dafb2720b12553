"""Evaluation of whole frames instead of square crops."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
from collections.abc import Generator
from typing import Any

import numpy as np

from input_pipeline.bad_inputs import BadMedia, media_boundary
from input_pipeline.loader import Batch, Loader, Read
from input_pipeline.source import Source, fingerprint
from input_pipeline.views.clips import open_clip
from input_pipeline.views.crops import short_side
from input_pipeline.views.eval import EvalView, FrameView


class FullFrameLoader(Loader):
    """A loader whose evaluation has batches of whole frames, of one shape after the other.

    A step of evaluation is compiled for each shape. `load` returns crops, as for pictures.
    """

    def __init__(self, source: Source, view: EvalView, **settings: Any):
        """Finds the shape of the frames of each video, by opening one of its key frames.

        Args:
          source: has boxes; all key frames of a video have one shape.
          view: has `full_frame`.
          **settings: see `Loader`.
        """
        super().__init__(source, dataclasses.replace(view, full_frame=False), **settings)
        settings["bad_inputs"] = self.bad_inputs  # of all parts together
        fields = {field.name: getattr(self.view, field.name) for field in dataclasses.fields(view)}
        self._parts = [
            _Part(examples, source, FrameView(**fields, frame=shape), **settings)
            for shape, examples in _by_shape(source, view, self.workers).items()
        ]
        shapes = [f"{part.view.shape} {part.examples.tolist()}".encode() for part in self._parts]
        # All processes must find the same shapes: runs compare the fingerprints.
        self.fingerprint = fingerprint([source.fingerprint.encode(), *shapes])

    @property
    def eval_steps(self) -> int:
        """See `Loader`."""
        return sum(part.eval_steps for part in self._parts)

    def eval_batches(self, on_bad: str = "fail") -> Generator[Batch]:
        """See `Loader`; the order is that of the shapes."""
        for part in self._parts:
            yield from part.eval_batches(on_bad)


class _Part(Loader):
    """Evaluates some examples of its source."""

    def __init__(self, examples: np.ndarray, source: Source, view: EvalView, **settings: Any):
        super().__init__(source, view, **settings)
        self.examples = examples

    @property
    def eval_steps(self) -> int:
        return -(-len(self.examples) // self.batch_size)

    def eval_read(self, local_position: int) -> Read:
        read = super().eval_read(local_position)
        inside = 0 <= read.example < len(self.examples)
        return read._replace(example=int(self.examples[read.example]) if inside else -1)


def _by_shape(source: Any, view: EvalView, workers: int) -> dict[tuple[int, int], np.ndarray]:
    """Examples by height and width of their scaled frames; unreadable videos are in the first."""
    of_video = collections.defaultdict[str, list[int]](list)
    for index, key in enumerate(source.boxes.keys):
        of_video[key.rpartition(",")[0]].append(index)

    def shape_of(examples: list[int]) -> tuple[int, int] | None:
        return next(filter(None, (_shape(source, view, index) for index in examples)), None)

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        shapes = list(pool.map(shape_of, of_video.values()))
    other = min(filter(None, shapes), default=(view.size, view.size))
    found = collections.defaultdict[tuple[int, int], list[int]](list)
    for shape, examples in zip(shapes, of_video.values(), strict=True):
        found[shape or other] += examples
    return {shape: np.array(sorted(examples)) for shape, examples in sorted(found.items())}


def _shape(source: Source, view: EvalView, index: int) -> tuple[int, int] | None:
    try:
        with media_boundary(), open_clip(source.read(index).data, view.limits) as clip:
            return short_side(clip.height, clip.width, view.short_side)
    except BadMedia:
        return None  # it is reported when it is evaluated
