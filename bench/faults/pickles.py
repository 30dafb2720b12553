"""Pickles with code in every wrapping that weights come in: nothing runs.

    python -m bench.faults.pickles --record        # the more with PyTorch installed

A canary file would be there if anything had run; an audit hook listens for programs started.
"""

from __future__ import annotations

import argparse
import builtins
import collections
import functools
import gzip
import importlib
import importlib.util
import io
import itertools
import json
import operator
import os
import pathlib
import pickle
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from bench.faults import isolation, results
from maskfeat_jax import convert

SECONDS = 60.0


def sound_tensors() -> dict[str, np.ndarray]:
    """As weights are, by name."""
    return {"cls_token": np.zeros((1, 1, 8), np.float32), "norm.weight": np.ones(8, np.float32)}


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable, *arguments: Any):
        """Names the function and what it is called with."""
        self.called = function, arguments

    def __reduce__(self) -> tuple:
        return self.called


class State(Call):
    """The same through the state of an object."""

    def __reduce__(self) -> tuple:
        return collections.OrderedDict, (), None, None, iter([("x", Call(*_flat(self.called)))])


def _flat(called: tuple) -> tuple:
    return called[0], *called[1]


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


def _zip(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/").replace("_pkl", ".pkl"), data)
    return file.getvalue()


def _tar(data: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


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
    "zip": (".pth", lambda saved: _zip(x__data_pkl=pickle.dumps(saved, 2), x__version=b"3\n")),
    "zip called safetensors": (
        ".safetensors",
        lambda saved: _zip(x__data_pkl=pickle.dumps(saved, 2), x__version=b"3\n"),
    ),
    "tar": (".pth", lambda saved: _tar(pickle.dumps(saved, 2))),
    "after safetensors": (".safetensors", _behind_tensors),
    "TorchScript": (
        ".pt",
        lambda saved: _zip(
            x__data_pkl=pickle.dumps(saved, 2), x__constants_pkl=pickle.dumps(saved, 2)
        ),
    ),
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


class Read(NamedTuple):
    """What was said, and what was run."""

    words: str
    ran: list[str]


_events: list[str] = []
_hearing = [False]


def _listen(event: str, arguments: tuple) -> None:
    if _hearing[0] and event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn"):
        _events.append(f"{event} {arguments!r:.100}")


@functools.cache
def _audit() -> None:
    sys.addaudithook(_listen)


def attempt(job: tuple[str, str, str]) -> Read:
    """Makes a file and loads it."""
    wrapping, payload, depth = job
    _audit()
    suffix, wrap = wrappings()[wrapping]
    with tempfile.TemporaryDirectory() as folder:
        canary = pathlib.Path(folder) / "canary"
        path = pathlib.Path(folder) / f"x{suffix}"
        path.write_bytes(wrap(DEPTHS[depth](payloads(str(canary))[payload])))
        canary.unlink(missing_ok=True)  # making it may have run it
        _events.clear()
        _hearing[0] = True
        try:
            convert.load_torch(path)
            words = "loaded"
        except convert.ConvertError as error:
            words = f"ConvertError: {error}"
        finally:
            _hearing[0] = False
        ran = ["canary"] * canary.exists() + _events[:3]
    return Read(words.replace(str(path), "FILE")[:200], ran)


def verdict(outcome: Any) -> str:
    """One of the five outcomes."""
    if not isinstance(outcome, Read) or outcome.ran:
        return "hang or damage"
    return "clean stop" if outcome.words.startswith("ConvertError") else "wrong in silence"


def series(
    jobs: list[tuple[str, str, str]], log: Callable[[str], None] = print
) -> tuple[dict, dict]:
    """Outcomes; details: how it was refused."""
    outcomes: collections.Counter[str] = collections.Counter()
    how: collections.Counter[str] = collections.Counter()
    for job, outcome in isolation.each(attempt, jobs, SECONDS):
        judged = verdict(outcome)
        outcomes[judged] += 1
        if isinstance(outcome, Read):
            how[" ".join(outcome.words.split(":")[1].split()[:6])] += 1
        if judged not in results.GOOD:
            log(f"{job}: {judged}: {outcome}")
    return dict(outcomes), {"refused": dict(how.most_common(12))}


def all_jobs() -> list[tuple[str, str, str]]:
    """Every payload at every depth in every wrapping."""
    return list(itertools.product(wrappings(), payloads("x"), DEPTHS))


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="in docs/faults.jsonl")
    chosen = parser.parse_args()
    outcomes, details = series(all_jobs())
    print(json.dumps([outcomes, details]))
    if chosen.record:
        torch = "with" if importlib.util.find_spec("torch") else "without"
        results.record(
            "K1",
            f"{len(payloads('x'))} pickles with code, {len(DEPTHS)} places, {len(wrappings())} "
            f"wrappings, {torch} PyTorch",
            outcomes,
            command="python -m bench.faults.pickles --record",
            note="nothing ran: no canary, no program started; refused with a message",
            **details,
        )


if __name__ == "__main__":
    main()
