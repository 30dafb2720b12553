"""Label maps of images: what a classifier says at each position of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from input_pipeline.bad_inputs import BadMedia, media_boundary
from input_pipeline.decode.regular_files import read_regular
from input_pipeline.decode.torch_tensor import read_tensor
from input_pipeline.views.clips import Cut

_TRIED = 100  # images, to find the shape of the maps
_MAX_BYTES = 1 << 24


class LabelMap(NamedTuple):
    """The likeliest classes of each position of an image; all others have the logit 0."""

    logits: np.ndarray  # float16 (k, h, w)
    classes: np.ndarray  # int16 (k, h, w)


class LabelMaps:
    """A label map for each image of a tree: the file of its path, but for the ending `.pt`.

    A file holds one tensor of PyTorch, float16 (2, k, h, w): logits, and classes as numbers.

    Attributes:
      classes: number of classes.
      shape: of each map, (k, h, w); that of the first.

    Source: `generate_label.py` of zihangJiang/TokenLabeling (arXiv:2104.10858), where k = 5 and
    h = w = 18.
    """

    def __init__(self, root: Path, images: Sequence[str], classes: int):
        """Reads the first map.

        Args:
          root: the folder of the maps.
          images: paths of the images in their tree.
          classes: number of classes.

        Raises:
          ValueError: none of the first images has a map, or `classes` is not positive.
        """
        if classes < 1:
            raise ValueError(f"map_classes is {classes}; it must be at least 1")
        self._root, self._images, self.classes = root, images, classes
        self.shape: tuple[int, ...] = ()
        tried = range(min(_TRIED, len(images)))
        problems = []
        for index in tried:
            try:
                self.shape = self.of(index).logits.shape
                return
            except BadMedia as bad:
                problems.append(bad.reason)
        raise ValueError(
            f"label_maps: none of the first {len(tried)} images has one that can be read; "
            f"{problems[0]}"
        )

    @property
    def columns(self) -> Mapping[str, tuple[tuple[int, ...], Any]]:
        """See `source.Columns`."""
        return {
            "map_logits": (self.shape, np.float16),
            "map_classes": (self.shape, np.int16),
            "box": ((4,), np.float32),
        }

    def read(self, index: int, cut: Cut) -> dict[str, np.ndarray]:
        """The map of an image, and the box of each clip in it, see `source.Columns`."""
        logits, classes = (np.stack([x] * len(cut.video)) for x in self.of(index))
        box = np.array([placement.box for placement in cut.placements], np.float32)
        return {"map_logits": logits, "map_classes": classes, "box": box}

    def of(self, index: int) -> LabelMap:
        """The map of an image.

        Raises:
          BadMedia: it is missing, damaged, of another shape, or has other classes.
        """
        path = self._root / (os.path.splitext(self._images[index])[0] + ".pt")
        try:
            with media_boundary():
                return self._checked(read_tensor(read_regular(str(path), _MAX_BYTES)))
        except BadMedia as bad:
            raise BadMedia(bad.kind, f"label map {path}: {bad.reason}") from bad

    def _checked(self, tensor: np.ndarray) -> LabelMap:
        if tensor.ndim != 4 or len(tensor) != 2 or self.shape not in ((), tensor.shape[1:]):
            k, h, w = self.shape or "khw"
            raise BadMedia("decode_error", f"shape {tensor.shape}, expected (2, {k}, {h}, {w})")
        logits, classes = tensor
        if not np.isfinite(tensor).all():
            raise BadMedia("decode_error", "values that are not finite")
        numbers = classes.astype(np.int16)
        if (numbers != classes).any() or numbers.min() < 0 or numbers.max() >= self.classes:
            worst = max(classes.min(), classes.max(), key=lambda number: abs(number + 0.5))
            raise BadMedia(
                "decode_error",
                f"class {worst:g}, expected whole numbers from 0 to {self.classes - 1}",
            )
        return LabelMap(logits.astype(np.float16), numbers)
