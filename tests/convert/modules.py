"""Files as `torch.save` writes them for whole modules, made without PyTorch and the modules."""

from __future__ import annotations

import collections
import io
import pickle
import struct
import zipfile
from typing import Any, NamedTuple

import numpy as np


class Global(NamedTuple):
    """Something that a pickle names."""

    module: str
    name: str


class Call(NamedTuple):
    """What a function returns."""

    function: Any
    arguments: tuple


class Module(NamedTuple):
    """An object of a class with these attributes."""

    kind: Global
    attributes: dict


class Storage(NamedTuple):
    key: str
    array: np.ndarray


class Pickler(pickle._Pickler):
    """Writes the above, and everything else as usual; `sources` as PyTorch < 1.6 did."""

    def __init__(self, file, sources=False):
        super().__init__(file, 2)
        self.sources, self.storages = sources, {}

    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            self.storages[obj.key] = obj.array
            kind = {"float32": "FloatStorage", "float16": "HalfStorage"}[str(obj.array.dtype)]
            rest = (None,) if self.sources else ()
            return ("storage", Global("torch", kind), obj.key, "cpu", obj.array.size, *rest)
        if self.sources and isinstance(obj, Global) and obj.module.startswith("dall_e"):
            return ("module", _Plain(*obj), "encoder.py", "class Encoder: pass")
        return None

    def save(self, obj, save_persistent_id=True):
        if save_persistent_id and self.persistent_id(obj) is not None:
            super().save(obj)
        elif isinstance(obj, Global | _Plain):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
        elif isinstance(obj, Module):
            self.save(obj.kind)
            self.write(pickle.EMPTY_TUPLE + pickle.NEWOBJ)
            self.save(obj.attributes)
            self.write(pickle.BUILD)
        else:
            super().save(obj, save_persistent_id)


class _Plain:
    def __init__(self, module, name):
        self.module, self.name = module, name


def archive(saved: Any) -> bytes:
    """The file of `torch.save`."""
    data, file = io.BytesIO(), io.BytesIO()
    pickler = Pickler(data)
    pickler.dump(saved)
    with zipfile.ZipFile(file, "w") as members:
        members.writestr("encoder/data.pkl", data.getvalue())
        members.writestr("encoder/version", b"3\n")
        for key, array in pickler.storages.items():
            members.writestr(f"encoder/data/{key}", _numbers(array))
    return file.getvalue()


def old(saved: Any) -> bytes:
    """The file of `torch.save` before PyTorch 1.6."""
    file = io.BytesIO()
    sizes = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    for head in (0x1950A86A20F9469CFC6C, 1001, sizes):
        pickle.dump(head, file, 2)
    pickler = Pickler(file, sources=True)
    pickler.dump(saved)
    keys = sorted(pickler.storages)
    pickle.dump(keys, file, 2)
    for array in map(pickler.storages.__getitem__, keys):
        file.write(struct.pack("<q", array.size) + _numbers(array))
    return file.getvalue()


def _numbers(array: np.ndarray) -> bytes:
    """In the order of memory; of a view of one number, that number."""
    return (array.ravel("K") if any(array.strides) else array.flat[:1]).tobytes()


def parameter(key: str, array: np.ndarray) -> Call:
    """A `torch.nn.Parameter`."""
    strides = tuple(stride // array.itemsize for stride in array.strides)
    view = (Storage(key, array), 0, array.shape, strides, False, collections.OrderedDict())
    tensor = Call(Global("torch._utils", "_rebuild_tensor_v2"), view)
    nothing = collections.OrderedDict()
    return Call(Global("torch._utils", "_rebuild_parameter"), (tensor, False, nothing))


def network(state: dict[str, np.ndarray], **attributes: Any) -> Module:
    """A module with these tensors, as `dall_e.encoder.Encoder` has them."""
    keyed = {name: (str(i), array) for i, (name, array) in enumerate(state.items())}
    return _module(keyed, attributes)


def _module(tensors: dict[str, tuple[str, np.ndarray]], attributes: dict[str, Any]) -> Module:
    own = {name: parameter(*found) for name, found in tensors.items() if "." not in name}
    groups: dict[str, dict] = collections.OrderedDict()
    for name, found in tensors.items():
        first, _, rest = name.partition(".")
        if rest:
            groups.setdefault(first, {})[rest] = found
    inner = collections.OrderedDict((name, _module(those, {})) for name, those in groups.items())
    inner["relu"] = Module(
        Global("torch.nn.modules.activation", "ReLU"),
        {"_parameters": collections.OrderedDict(), "_modules": collections.OrderedDict()},
    )
    held = {
        "training": True,
        "device": Call(Global("torch", "device"), ("cpu",)),
        "_parameters": collections.OrderedDict(own),
        "_non_persistent_buffers_set": Call(Global("__builtin__", "set"), ([],)),
        "_modules": inner,
    }
    return Module(Global("dall_e.utils", "Conv2d"), {**held, **attributes})
