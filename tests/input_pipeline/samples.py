from __future__ import annotations

import contextlib
import io
import zipfile

import numpy as np
from PIL import Image

from input_pipeline.source import Example
from input_pipeline.views import crops


def picture(seed: int, height: int = 60, width: int = 81) -> np.ndarray:
    """Smooth colours with grain: uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    return (smooth + rng.normal(0, 12, smooth.shape)).clip(0, 255).astype(np.uint8)


def encode(pixels: np.ndarray | Image.Image, kind: str = "jpeg", **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def ridge_accuracy(features: np.ndarray, labels: np.ndarray, penalty: float) -> float:
    """Share of right answers on a quarter, after ridge regression to classes on the rest."""
    train, classes = 3 * len(labels) // 4, labels.max() + 1
    features = (features - features[:train].mean(0)) / (features[:train].std(0) + 1e-6)
    inputs, expected = features[:train], np.eye(classes)[labels[:train]] - 1 / classes
    squares = inputs.T @ inputs + penalty * train * np.eye(inputs.shape[1])
    weights = np.linalg.solve(squares, inputs.T @ expected)
    return float(np.mean((features[train:] @ weights).argmax(1) == labels[train:]))


class FakeVideo:
    """A video whose frame k has value k everywhere, and which counts what is decoded."""

    def __init__(self, num_frames: int = 40, fps: float = 30.0, height: int = 60, width: int = 81):
        self.num_frames, self.fps, self.height, self.width = num_frames, fps, height, width
        self.decoded: list[int] = []

    @contextlib.contextmanager
    def open(self, limits=None):
        yield self

    def frames(self, indices, short_side=None):
        self.decoded += indices
        height, width = self.height, self.width
        if short_side is not None:
            height, width = crops.short_side(height, width, short_side)
        values = np.array(indices, np.uint8)[:, None, None, None]
        return np.broadcast_to(values, (len(indices), height, width, 3)).copy()


class InMemory:
    """A source of given pictures; a string instead of one is an error to raise."""

    def __init__(self, items: list, class_names: tuple[str, ...] | None = None):
        self.items, self.class_names = items, class_names
        self.num_examples, self.fingerprint = len(items), "in memory"

    def name_of(self, index: int) -> str:
        return f"memory/{index}"

    def read(self, index: int) -> Example:
        item = self.items[index]
        if isinstance(item, Exception):
            raise item
        label = None if self.class_names is None else index % len(self.class_names)
        return Example(item, label)


def tensor_file(
    values: np.ndarray,
    shape: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
    *,
    offset: int = 0,
    rebuild: str = "torch._utils _rebuild_tensor_v2",
    storage: str = "",
) -> bytes:
    """A file of `torch.save` with one tensor, as torch 2.13 writes it (`torch_tensor_test`).

    Shape, strides and offset count elements of the values; by default those of the array.
    """
    shape = values.shape if shape is None else shape
    strides = tuple(s // values.itemsize for s in values.strides) if strides is None else strides
    storage = storage or {2: "HalfStorage", 4: "FloatStorage"}[values.itemsize]

    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    def text(value: str) -> bytes:
        return b"X" + len(value).to_bytes(4, "little") + value.encode()

    def names(value: str) -> bytes:
        return b"c" + value.replace(" ", "\n").encode() + b"\n"

    def tuple_of(numbers: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, numbers)) + b"t"

    of_storage = text("storage") + names(f"torch {storage}") + text("0") + text("cpu")
    pickled = b"\x80\x02" + names(rebuild) + b"((" + of_storage + number(values.size) + b"tQ"
    pickled += number(offset) + tuple_of(shape) + tuple_of(strides) + b"\x89"
    pickled += names("collections OrderedDict") + b")RtR."
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("map/data.pkl", pickled)
        archive.writestr("map/data/0", values.tobytes())
    return file.getvalue()
