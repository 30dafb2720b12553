"""Reads a network of DALL-E that `torch.save` wrote as a module, without running code in the file.

Such a file is a pickle that names the classes of the network. The unpickler here knows none of
them: modules become objects that only hold their attributes, tensors become descriptions of where
their numbers are, and a file that names anything else is refused. Neither PyTorch nor the package
of the network is needed.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from maskfeat_jax.convert.files import ConvertError, Tensor, Tensors, check_archive

_PACKAGES = ("dall_e.", "torch.nn.")  # of the modules; nothing of them is imported
_STORAGES = {"FloatStorage": "float32", "HalfStorage": "float16"}
_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file that is no archive (PyTorch < 1.6)
_DAMAGED = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError),
    *(RecursionError, TypeError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile),
)


def read_module(path: Path) -> Tensors | None:
    """The parameters of a pickled module by name; None if the file is not one.

    Raises:
      ConvertError: the file is damaged, or names other classes or functions.
    """
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        try:
            if start == b"PK\x03\x04":
                check_archive(path)
                return _read_archive(path, file)
            return _read_old(path, file) if start[:1] == b"\x80" else None
        except ConvertError:
            raise
        except _DAMAGED as error:
            raise ConvertError(f"{path} is damaged: {type(error).__name__} {error}") from error


def _read_archive(path: Path, file: IO[bytes]) -> Tensors | None:
    with zipfile.ZipFile(file) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        module = _unpickle(path, io.BytesIO(archive.read(name)), {})
        folder = name.removesuffix(".pkl")
        return _tensors(path, module, lambda key: archive.read(f"{folder}/{key}"))


def _read_old(path: Path, file: IO[bytes]) -> Tensors | None:
    """Of five pickles, and behind them each storage after its length."""
    widths: dict[str, int] = {}  # bytes per number of each storage
    magic, _, _, module, keys = (_unpickle(path, file, widths) for _ in range(5))
    if magic != _MAGIC:
        raise ValueError(f"begins with {magic!a:.50}, expected {_MAGIC}")
    storages = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        storages[key] = file.read(count * widths[key])
    return _tensors(path, module, storages.__getitem__)


class _Module:
    """An object of any class of a network."""

    def __init__(self, *_: Any):
        self.attributes: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = state


class _View(NamedTuple):
    """A tensor: some numbers of a storage."""

    key: str
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self, storage: bytes) -> np.ndarray:
        width = np.dtype(self.dtype).itemsize
        strides = [width * stride for stride in self.strides]
        return np.ndarray(self.shape, self.dtype, storage, width * self.offset, strides)


def _unpickle(path: Path, file: IO[bytes], widths: dict[str, int]) -> Any:
    """The next object of a file; adds the storages that it names to `widths`."""

    # Functions of this call: a pickle can set attributes of what it names.
    def tensor(storage: Any, offset: int, shape: Any, strides: Any, *_: Any) -> _View:
        key, dtype = storage
        return _View(key, dtype, offset, shape, strides)

    def parameter(view: Any, *_: Any) -> Any:
        return view

    known: dict[str, Any] = {
        "collections.OrderedDict": collections.OrderedDict,
        "torch._utils._rebuild_tensor_v2": tensor,
        "torch._utils._rebuild_parameter": parameter,
        **dict.fromkeys(("torch.device", "builtins.set", "__builtin__.set"), _Module),
        **{f"torch.{name}": dtype for name, dtype in _STORAGES.items()},
    }

    # The one in Python: that in C takes memory for as many objects as the file claims to have.
    class Unpickler(pickle._Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if module.startswith(_PACKAGES):
                return _Module
            if f"{module}.{name}" not in known:
                raise ConvertError(
                    f"{path} names {f'{module}.{name}'!a:.200}, which is no part of an encoder or "
                    "decoder of DALL-E. Nothing in it was run."
                )
            return known[f"{module}.{name}"]

        def persistent_load(self, pid: Any) -> Any:
            kind, first, key, *_ = pid
            if kind == "module":  # a class, with its source
                return first
            widths[key] = np.dtype(first).itemsize
            return key, first

    return Unpickler(file).load()


def _tensors(path: Path, module: Any, storage_of: Callable[[str], bytes]) -> Tensors | None:
    """The parameters by name; None if the object is not a module."""
    if not isinstance(module, _Module):
        return None
    views = dict(_parameters(module))
    size = sum(math.prod(view.shape) * np.dtype(view.dtype).itemsize for view in views.values())
    if size > path.stat().st_size:
        raise ValueError("tensors overlap and are larger than the file")
    arrays = {name: view.read(storage_of(view.key)) for name, view in views.items()}
    return {n: Tensor(a.shape, str(a.dtype), a.view) for n, a in arrays.items()}


def _parameters(module: Any, prefix: str = "") -> Iterator[tuple[str, _View]]:
    for name, view in module.attributes["_parameters"].items():
        if view is not None:
            yield f"{prefix}{name}", view
    # Taken away, so that each module is visited once, whatever refers to it.
    for name, inner in module.attributes.pop("_modules").items():
        yield from _parameters(inner, f"{prefix}{name}.")
