"""Pickles with code in every wrapping that weights come in, the more with PyTorch: nothing runs."""

from __future__ import annotations

import builtins
import collections
import functools
import gzip
import importlib
import importlib.util
import io
import itertools
import operator
import os
import pickle
import subprocess
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors.numpy

from bench.faults.files.archives import packed, tar, weights
from bench.faults.files.kinds import File, Format

CANARY = "canary"  # a file, in the folder of the process, that is there if anything ran


def sound_tensors() -> dict[str, np.ndarray]:
    """As weights are, by name."""
    return {"cls_token": np.zeros((1, 1, 8), np.float32), "norm.weight": np.ones(8, np.float32)}


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable, *arguments: Any):
        self.called = function, arguments

    def __reduce__(self) -> tuple:
        return self.called


class State(Call):
    """The same through the state of an object."""

    def __reduce__(self) -> tuple:
        function, arguments = self.called
        return collections.OrderedDict, (), None, None, iter([("x", Call(function, *arguments))])


def payloads(canary: str) -> dict[str, Any]:
    """What would run, by name."""
    code = f"open({canary!r}, 'w')"
    write = Call(open, canary, "w")
    return {
        "os.system": Call(os.system, f"touch {canary}"),
        "subprocess": Call(subprocess.call, ["touch", canary]),
        "eval": Call(eval, code),
        "exec": Call(exec, code),
        "open": write,
        "getattr": Call(getattr, Call(importlib.import_module, "os"), "system"),
        "attrgetter": Call(operator.attrgetter("system"), Call(importlib.import_module, "os")),
        "partial": Call(functools.partial, os.system, f"touch {canary}"),
        "map": Call(list, Call(map, os.system, [f"touch {canary}"])),
        "__import__": Call(builtins.__import__, "antigravity"),
        "pickle in pickle": Call(pickle.loads, pickle.dumps(write)),
        "numpy": Call(np.lib.format.open_memmap, canary, "w+", "u1", (3,)),
        "state": State(open, canary, "w"),
    }


def _zip(saved: Any, other: str = "x/version") -> bytes:
    data = pickle.dumps(saved, 2)
    return packed(("x/data.pkl", data), (other, data if other.endswith(".pkl") else b"3\n"))


def _tar(saved: Any) -> bytes:
    data = pickle.dumps(saved, 2)
    return tar(*((name, data, {}) for name in ("sys_info", "pickle", "tensors", "storages")))


def _npy(saved: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([saved], object), allow_pickle=True)
    return file.getvalue()


def _torch(saved: Any, **options: Any) -> bytes:
    import torch

    file = io.BytesIO()
    torch.save(saved, file, **options)
    return file.getvalue()


def _inside(saved: Any) -> bytes:
    """The pickle of a sound archive of PyTorch replaced."""
    import torch

    sound = {"model": {name: torch.from_numpy(x) for name, x in sound_tensors().items()}}
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(_torch(sound))) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            is_pickle = name.endswith("data.pkl")
            new.writestr(name, pickle.dumps(saved, 2) if is_pickle else old.read(name))
    return file.getvalue()


def _behind_tensors(saved: Any) -> bytes:
    """Sound safetensors, and a pickle after them."""
    return safetensors.numpy.save(sound_tensors()) + pickle.dumps(saved)


WRAPPINGS: dict[str, tuple[str, Callable[[Any], bytes]]] = {
    **{
        f"bare, protocol {p}": (".pth", functools.partial(pickle.dumps, protocol=p))
        for p in (0, 2, 4, 5)
    },
    "called safetensors": (".safetensors", pickle.dumps),
    "called bin": (".bin", pickle.dumps),
    "called npz": (".npz", pickle.dumps),
    "gzip": (".pth", lambda saved: gzip.compress(pickle.dumps(saved))),
    "numpy": (".npy", _npy),
    "zip": (".pth", _zip),
    "zip called safetensors": (".safetensors", _zip),
    "tar": (".pth", _tar),
    "after safetensors": (".safetensors", _behind_tensors),
    "TorchScript": (".pt", lambda saved: _zip(saved, "x/constants.pkl")),
}
WITH_TORCH: dict[str, tuple[str, Callable[[Any], bytes]]] = {
    "torch.save": (".pth", _torch),
    "torch.save, called bin": (".bin", _torch),
    "torch.save, old form": (
        ".pth",
        lambda saved: _torch(saved, _use_new_zipfile_serialization=False),
    ),
    "in a sound archive": (".pth", _inside),
}
DEPTHS: dict[str, Callable[[Any], Any]] = {
    "top": lambda payload: payload,
    "beside tensors": lambda payload: {"model": sound_tensors(), "args": payload},
    "deep": lambda payload: {"model": {"a": [{"b": (payload,)}]}},
    "as a key": lambda payload: {"model": {"x": 1}, (payload,): 1},
}


def wrappings() -> dict[str, tuple[str, Callable[[Any], bytes]]]:
    """Those that can be made here."""
    return WRAPPINGS | (WITH_TORCH if importlib.util.find_spec("torch") else {})


def _file(wrapping: str, payload: str, depth: str) -> File:
    suffix, wrap = wrappings()[wrapping]
    return File(suffix, lambda: wrap(DEPTHS[depth](payloads(CANARY)[payload])))


PICKLES = Format(
    "K1",
    "pickles with code, each in four depths and all wrappings of weights",
    "nothing ran: no canary, no program started; refused with a message",
    {", ".join(job): _file(*job) for job in itertools.product(wrappings(), payloads("x"), DEPTHS)},
    {"weights": weights("")},
    warm=("bare, protocol 2, map, top",),
)
