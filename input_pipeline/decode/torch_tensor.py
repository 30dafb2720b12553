"""Reads a file that holds one tensor of PyTorch, without PyTorch and without running its pickle."""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from typing import Any

import numpy as np

_DTYPES: dict[str, np.dtype] = {"HalfStorage": np.dtype("<f2"), "FloatStorage": np.dtype("<f4")}
_NAMES = {
    ("torch._utils", "_rebuild_tensor_v2"),
    ("collections", "OrderedDict"),  # of hooks: empty
    *(("torch", storage) for storage in _DTYPES),
}
_MAX_PICKLE = 10_000  # bytes; that of one tensor has about 300


def read_tensor(data: bytes) -> np.ndarray:
    """The tensor, float16 or float32, of a file that `torch.save` (1.6 or newer) wrote of it.

    Raises:
      ValueError: no such file, or anything else is in it.
      Exception: any other error of its archive or pickle.
    """
    if not data.startswith(b"PK\x03\x04"):
        raise ValueError(
            "not an archive of torch.save (1.6 or newer); if it is an older file that you trust, "
            "save it again: torch.save(torch.load(file, weights_only=True), file)"
        )
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("compressed data, which torch.save never writes")
        (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        pickled = archive.read(name)
        if len(pickled) > _MAX_PICKLE:
            raise ValueError(f"a pickle of {len(pickled)} bytes, expected one tensor")
        saved: Any = _Unpickler(io.BytesIO(pickled)).load()
        if not isinstance(saved, tuple):
            raise ValueError(f"a {type(saved).__name__}, expected one tensor")
        (_, kind, key, *_), offset, shape, strides, *_ = saved
        values = np.frombuffer(archive.read(f"{name.removesuffix('.pkl')}/{key}"), _DTYPES[kind])
    return _elements(values, offset, shape, strides)


class _Unpickler(pickle.Unpickler):
    """Gives the arguments of the call that makes the tensor: strings, numbers and tuples.

    Nothing is imported, and nothing of this module is given to the pickle, which could change it.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(
                f"it refers to {module}.{name}, expected one tensor of float16 or float32; nothing "
                "in it was run"
            )
        return name if name in _DTYPES else lambda *arguments: arguments

    def persistent_load(self, pid: Any) -> Any:
        return pid


def _elements(
    values: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> np.ndarray:
    """A copy of the elements of a storage that a tensor refers to; distances in elements."""
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    inside = min(offset, *shape, *strides) >= 0 and last < len(values)
    if not inside or math.prod(shape) > len(values):
        raise ValueError(f"a tensor of shape {shape} outside its {len(values)} values")
    strides = tuple(step * values.itemsize for step in strides)
    return np.lib.stride_tricks.as_strided(values[offset:], shape, strides).copy()
