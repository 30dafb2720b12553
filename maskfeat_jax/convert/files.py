"""Reads and writes files of tensors without running code in them.

safetensors files contain no code. Files of `torch.save` are pickles: only
`torch.load(weights_only=True)` reads them, with `argparse.Namespace` allowed, in which the training
programs of timm, MAE and mae_st store their arguments. `modules` reads the pickled networks of
DALL-E.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import itertools
import json
import math
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes  # noqa: F401  (safetensors needs it for bfloat16)
import numpy as np
import safetensors
from safetensors.numpy import save_file

from maskfeat_jax.checkpoints import pretrained
from maskfeat_jax.files import local_path, replacing

SAFETENSORS = ".safetensors"
TORCH_VERSION = (2, 10)  # weights_only=True is not safe in older ones
# Keys of the state dict in checkpoints of training programs: moving averages, and parameters.
AVERAGES = ("state_dict_ema", "model_ema")
WRAPPERS = ("state_dict", "model", "model_state", "module")
SWAPPED = "ema_state_dict"  # OpenMMLab: with this key, `state_dict` holds the averages
DOCUMENTS = ("config.json", "preprocessor_config.json", pretrained.FILE)
INDEX = ".index.json"  # ending of the names of files that list the shards of a checkpoint
_NAMES = ("model.safetensors", "pytorch_model.bin")
_SHARD = re.compile(r"-\d{5}-of-(\d{5})\.")
_MOST_JSON = 10_000_000  # bytes


class ConvertError(ValueError):
    """A file cannot be read or converted; says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of a file, read on demand."""

    shape: tuple[int, ...]
    dtype: str  # as the file names it
    read: Callable[[], np.ndarray]


Tensors = Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Contents:
    """The contents of a file."""

    path: Path
    tensors: Tensors
    found: tuple[str, ...]  # sentences about other entries: wrapper, optimiser, averages
    wrapper: Mapping[str, Any]  # entries next to the state dict: settings, epoch
    documents: Mapping[str, Any]  # JSON files in the same folder, by name


def read(path: str | os.PathLike[str], *, ema: bool = True) -> Contents:
    """Reads a file of tensors, or the one in a folder, or all shards that an index lists.

    Args:
      path: a `.safetensors` file, one that `torch.save` wrote, the index of a sharded checkpoint
        (`model.safetensors.index.json`), or a folder with one of these.
      ema: take the moving average of the parameters where the file has one.

    Raises:
      ConvertError: the file cannot be read without running code, is damaged, or has no tensors; a
        shard is missing or has other tensors than the index lists; a JSON file is not valid.
    """
    path = _file_of(local_path(path))
    if _is_shard(path):
        raise ConvertError(
            f"{path} is one shard of several; give its folder, or the index (*{INDEX})"
        )
    documents = {name: _document(path.parent / name) for name in DOCUMENTS}
    documents = {name: document for name, document in documents.items() if document}
    if path.name.endswith(INDEX):
        return Contents(path, *_read_shards(path, ema), documents)
    return Contents(path, *_read_file(path, ema), documents)


def files_of(path: str | os.PathLike[str]) -> list[Path]:
    """The files of tensors that `read` reads: one, or all shards, by name."""
    path = _file_of(local_path(path))
    if not path.name.endswith(INDEX):
        return [path]
    return [path.with_name(shard) for shard in sorted(set(_document(path)["weight_map"].values()))]


def _read_file(path: Path, ema: bool) -> tuple[Tensors, tuple[str, ...], Mapping[str, Any]]:
    """The first entries of `Contents` of one file."""
    with path.open("rb") as file:
        start = file.read(9)
    if path.suffix == SAFETENSORS or start[8:] == b"{":
        return _safetensors(path), (), {}
    if not start.startswith((b"PK\x03\x04", b"\x80")):  # archives and pickles, of torch.save
        raise ConvertError(f"{path} is neither a safetensors file nor one that torch.save wrote")
    saved = _load(path)
    if not isinstance(saved, dict):
        raise ConvertError(f"{path} holds a {type(saved).__name__}, expected tensors by name")
    found: list[str] = []
    tensors, wrapper = _unwrap(saved, found, ema)
    tensors = {name: _tensor(path, name, value) for name, value in tensors.items()}
    if not tensors:
        entries = ", ".join(map(repr, list(saved)[:10]))
        raise ConvertError(
            f"{path} has no tensors; its keys are {entries or 'none'}, expected tensors or one of "
            f"{', '.join((*AVERAGES, *WRAPPERS))}"
        )
    size = sum(math.prod(t.shape) * 2 for t in tensors.values())  # of the smallest floats
    if size > 2 * path.stat().st_size:
        raise ConvertError(f"{path}: its tensors overlap and are larger than the file; refused")
    return tensors, tuple(found), wrapper


def _read_shards(path: Path, ema: bool) -> tuple[Tensors, tuple[str, ...], Mapping[str, Any]]:
    """The first entries of `Contents` of all shards that an index lists."""
    listed = (_document(path) or {}).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise ConvertError(f"{path}: weight_map: expected the file of each tensor, by name")
    shards: dict[str, set[str]] = {}
    for name, shard in listed.items():
        if not isinstance(shard, str) or shard in ("", ".", "..") or set("/\\\0") & set(shard):
            raise ConvertError(
                f"{path}: weight_map: {_text(name)} is in {_text(shard)}, expected the name of a "
                "file in the same folder"
            )
        shards.setdefault(shard, set()).add(name)
    tensors: dict[str, Tensor] = {}
    for shard, names in shards.items():
        file = path.with_name(shard)
        if not file.is_file():
            raise ConvertError(
                f"{path} lists {_text(shard)}, which is missing; it has {len(names)} of the "
                f"{len(listed)} tensors"
            )
        own, _, _ = _read_file(file, ema)
        for those, what in ((names - own.keys(), "lacks"), (own.keys() - names, "also has")):
            if those:
                raise ConvertError(
                    f"{file} {what} {', '.join(map(_text, sorted(those)[:5]))} "
                    f"({len(those)} tensors), against {path.name}"
                )
        tensors |= own
    return tensors, (f"{len(shards)} shards",), {}


def _text(value: Any) -> str:
    return ascii(value)[:200]


def write(path: Path, state: Mapping[str, np.ndarray], wrap: Callable | None) -> None:
    """Writes a `.safetensors` file, or a file of `torch.save` with what `wrap` returns."""
    state = {name: np.asarray(array, order="C") for name, array in state.items()}
    with replacing(path) as temporary:
        if path.suffix == SAFETENSORS:
            temporary.touch()  # with the default permissions, which save_file does not give
            mode = temporary.stat().st_mode
            save_file(state, temporary, metadata={"format": "pt"})
            temporary.chmod(mode)
        else:
            torch = require_torch(f"to write {path.name}")
            tensors = {name: torch.from_numpy(array.copy()) for name, array in state.items()}
            torch.save(wrap(tensors) if wrap else tensors, temporary)


def require_torch(purpose: str) -> ModuleType:
    """Imports PyTorch; ConvertError if it is not installed, or too old to be safe."""
    try:
        import torch
    except ImportError as error:
        raise ConvertError(
            f"PyTorch is needed {purpose}: pip install 'torch>=2.10' "
            "(safetensors files are read and written without it)"
        ) from error
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < TORCH_VERSION:
        raise ConvertError(
            f"torch {torch.__version__} is not safe {purpose}; install 2.10 or newer"
        )
    return torch


def _file_of(path: Path) -> Path:
    if not path.is_dir():
        if not path.exists():
            raise ConvertError(f"{path}: no such file or directory")
        return path
    for name in itertools.chain.from_iterable((name, name + INDEX) for name in _NAMES):
        if (path / name).exists():
            return path / name
    indices = [p for p in path.iterdir() if p.name.endswith(INDEX)]
    if len(indices) == 1:
        return indices[0]
    files = [p for p in path.iterdir() if p.suffix in (".pth", ".pyth", ".pt", ".bin", SAFETENSORS)]
    if len(files) == 1:
        return files[0]
    if not files:
        raise ConvertError(
            f"{path} is neither a run (no config.json, no checkpoints/) nor a folder with a file "
            "of weights"
        )
    if all(map(_is_shard, files)):
        raise ConvertError(f"{path} has {len(files)} shards, but not their index, *{INDEX}")
    raise ConvertError(
        f"{path} has {len(files)} files of weights and no model.safetensors; name one of them"
    )


def _is_shard(path: Path) -> bool:
    match = _SHARD.search(path.name)
    return match is not None and int(match[1]) > 1


def _document(path: Path) -> Any:
    """The object in a small JSON file, None if there is no such file."""
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > _MOST_JSON:
            raise ValueError(f"more than {_MOST_JSON} bytes")
        document = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(document, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise ConvertError(
            f"{path} is not valid ({_first_line(error)}), and describes the tensors next to it: "
            "correct it, or move it away"
        ) from error
    return document


def _safetensors(path: Path) -> dict[str, Tensor]:
    """The library checks the header: lengths, overlaps, gaps, at most 100 MB."""
    tensors = {}
    try:
        file = safetensors.safe_open(path, "np")  # its header is long: read once, not per tensor
        for name in file.keys():  # noqa: SIM118
            entry, read = file.get_slice(name), functools.partial(file.get_tensor, name)
            tensors[name] = Tensor(tuple(entry.get_shape()), str(entry.get_dtype()), read)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ConvertError(f"{path} is not a valid safetensors file: {error}") from error
    return tensors


def _load(path: Path) -> Any:
    torch = require_torch(f"to read {path.name}")
    check_archive(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ConvertError(_refusal(torch, path, error)) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError) as error:
        raise ConvertError(f"{path} is damaged: {_first_line(error)}") from error
    except (AttributeError, IndexError, AssertionError, MemoryError, RecursionError) as error:
        raise ConvertError(f"{path} is damaged: {type(error).__name__} {error}") from error


def check_archive(path: Path) -> None:
    """Refuses files that are no archive, or could take more memory than their length."""
    if not zipfile.is_zipfile(path):
        raise ConvertError(
            f"{path} is neither safetensors nor an archive of torch.save (1.6 or newer). If it was "
            "saved by an older version, and you trust it, save it again: "
            "torch.save(torch.load(file, weights_only=True), other)"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ConvertError(f"{path} holds compressed data, which torch.save never writes")
            if total > path.stat().st_size:
                raise ConvertError(f"{path} is shorter than the {total} bytes that it lists")
            if damaged := archive.testzip():  # torch.load does not look at the checksums
                raise ConvertError(f"{path} is damaged: {damaged} does not match its checksum")
    except ConvertError:
        raise
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ConvertError(f"{path} is damaged: {error}") from error


def _refusal(torch: ModuleType, path: Path, error: Exception) -> str:
    """Why a pickle is not loaded."""
    names: list[str] = []
    with contextlib.suppress(Exception):  # the pickle may be anything
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    names = [name for name in names if name != "argparse.Namespace"]
    listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    hint = "Ask for the weights as safetensors."
    if any(name.startswith("mmengine.") for name in names):
        hint = (
            "OpenMMLab stores its log in the file; if you trust it, or in a sandbox, save "
            "{'state_dict': torch.load(file, weights_only=False)['state_dict']} to another file."
        )
    what = f"it refers to {listed}" if listed else _first_line(error)
    return f"{path} holds more than tensors and plain values: {what}. Nothing in it was run. {hint}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:300]


def _unwrap(
    saved: dict[Any, Any], found: list[str], ema: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors of a checkpoint by name, and its other entries."""
    torch = require_torch("to read a checkpoint")
    holders = (*AVERAGES, *WRAPPERS) if ema else (SWAPPED, *WRAPPERS)
    known = (*AVERAGES, SWAPPED, *WRAPPERS)
    present = [key for key in known if isinstance(saved.get(key), dict)]
    inner: dict[Any, Any] = saved
    others: dict[Any, Any] = {}
    for key in (key for key in holders if key in present):
        found.append(f"tensors are under {key!r}")
        inner = saved[key]
        others = {k: v for k, v in saved.items() if k not in present}
        rest = [k for k in present if k != key]
        rest += [k for k, value in others.items() if any(_flat({k: value}))]
        if rest:
            found.append(f"not read: {', '.join(_text(k) for k in rest[:10])}")
        break
    for key in others:
        if str(key).startswith("optimizer"):
            found.append(f"not read: the state of the optimiser ({key!r})")
        elif key in ("epoch", "step", "iter"):
            found.append(f"saved at {key} {ascii(others[key])[:20]}")
    tensors: dict[str, Any] = {}
    for name, tensor in _flat(inner):
        if name in tensors:
            raise ConvertError(f"two entries of the file have the same name, {_text(name)}")
        tensors[name] = tensor
    if inner is saved.get(SWAPPED):
        tensors.pop("steps", None)  # how many were averaged
    left = [
        k for k, v in inner.items() if not isinstance(v, torch.Tensor) and not any(_flat({k: v}))
    ]
    if left:
        found.append(f"not tensors, not read: {', '.join(ascii(str(k)[:50]) for k in left[:5])}")
    return tensors, {str(k): v for k, v in others.items()}


def _flat(
    entries: Mapping[Any, Any], prefix: str = "", depth: int = 3
) -> Iterator[tuple[str, Any]]:
    """Tensors by name, those in nested dictionaries as `outer.inner`, but for optimisers."""
    torch = require_torch("to read a checkpoint")
    for key, value in entries.items():
        if isinstance(value, torch.Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, dict) and depth and "param_groups" not in value:
            yield from _flat(value, f"{prefix}{key}.", depth - 1)


def _tensor(path: Path, name: str, value: Any) -> Tensor:
    torch = require_torch("to read a checkpoint")
    plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    if not plain or value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ConvertError(
            f"{path}: {name} is not a plain tensor (layout {value.layout}, {value.device}, shape "
            f"{tuple(value.shape)}); refused"
        )

    def read_one() -> np.ndarray:
        plain = value.detach().float() if value.dtype == torch.bfloat16 else value.detach()
        return plain.contiguous().numpy()

    return Tensor(tuple(value.shape), str(value.dtype).removeprefix("torch."), read_one)
