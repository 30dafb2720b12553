"""Evaluation of whole frames instead of square crops."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Generator
from typing import Any

import numpy as np

from input_pipeline.bad_inputs import BadInputs, BadMedia, media_boundary
from input_pipeline.loader import Batch, Loader
from input_pipeline.source import Example, Source
from input_pipeline.views.clips import open_clip
from input_pipeline.views.crops import short_side
from input_pipeline.views.eval import EvalView, FrameView


class FullFrameLoader(Loader):
    """A loader whose evaluation has batches of whole frames, of one shape after the other.

    A step of evaluation is compiled for each shape. `load` returns crops, as for pictures.
    """

    def __init__(
        self,
        source: Source,
        view: EvalView,
        *,
        batch_size: int,
        seed: int = 0,
        process_index: int = 0,
        process_count: int = 1,
        workers: int | None = None,
        bad_inputs: BadInputs | None = None,
    ):
        """Finds the shape of the frames of each video; reads only their headers.

        Args:
          source: has boxes; all key frames of a video have one shape.
          view: has `full_frame`.
          batch_size: see `Loader`, as of all others.
          seed: likewise.
          process_index: likewise.
          process_count: likewise.
          workers: likewise.
          bad_inputs: likewise.
        """
        settings: dict[str, Any] = {
            "batch_size": batch_size,
            "seed": seed,
            "process_index": process_index,
            "process_count": process_count,
            "workers": workers,
            "bad_inputs": bad_inputs or BadInputs(),
        }
        super().__init__(source, dataclasses.replace(view, full_frame=False), **settings)
        self._parts = []
        for shape, indices in _by_shape(source, view).items():
            fields = {f.name: getattr(self.view, f.name) for f in dataclasses.fields(EvalView)}
            whole = FrameView(**fields, frame=shape)
            self._parts.append((indices, Loader(_Some(source, indices), whole, **settings)))

    @property
    def eval_steps(self) -> int:
        """See `Loader`."""
        return sum(part.eval_steps for _, part in self._parts)

    def eval_batches(self, on_bad: str = "fail") -> Generator[Batch]:
        """See `Loader`; the order is that of the shapes."""
        for indices, part in self._parts:
            for batch in part.eval_batches(on_bad):
                index = batch["index"]
                yield {**batch, "index": np.where(index < 0, -1, indices[index])}


class _Some:
    """Some examples of a source with boxes."""

    def __init__(self, source: Any, indices: np.ndarray):
        self._source, self._indices = source, indices
        self.num_examples, self.class_names = len(indices), source.class_names
        self.fingerprint, self.boxes = source.fingerprint, source.boxes.of(indices)

    def name_of(self, index: int) -> str:
        return self._source.name_of(self._indices[index])

    def read(self, index: int) -> Example:
        return self._source.read(int(self._indices[index]))


def _by_shape(source: Any, view: EvalView) -> dict[tuple[int, int], np.ndarray]:
    """Examples by height and width of their scaled frames; unreadable videos are in the first."""
    videos = [key.rpartition(",")[0] for key in source.boxes.keys]
    known: dict[str, tuple[int, int]] = {}
    for index, video in enumerate(videos):
        shape = None if video in known else _shape(source, view, index)
        if shape is not None:
            known[video] = shape
    other = min(known.values(), default=(view.size, view.size))
    found = collections.defaultdict[tuple[int, int], list[int]](list)
    for index, video in enumerate(videos):
        found[known.get(video, other)].append(index)
    return {shape: np.array(indices) for shape, indices in sorted(found.items())}


def _shape(source: Source, view: EvalView, index: int) -> tuple[int, int] | None:
    try:
        with media_boundary(), open_clip(source.read(index).data, view.limits) as clip:
            return short_side(clip.height, clip.width, view.short_side)
    except BadMedia:
        return None  # it is reported when it is evaluated
