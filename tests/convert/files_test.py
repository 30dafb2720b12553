"""Files from strangers: nothing runs, memory is bounded, what is wrong is said."""

from __future__ import annotations

import functools
import json
import pickle
import resource
import struct
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maskfeat_jax import convert
from maskfeat_jax.convert import ConvertError, files
from tests.convert.models import small

SMALL = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def file_of(header, data: bytes = bytes(8), length: int | None = None) -> bytes:
    """A file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(**changes):
    return {"a": {**SMALL["a"], **changes}}


HOSTILE = {
    "empty": b"",
    "short": b"\x01\x02",
    "no header": file_of(b"", b""),
    "header longer than the file": file_of(SMALL, length=1000),
    "header of 2**64": file_of(SMALL, length=2**64 - 1),
    "header of 100 MB": file_of(SMALL, length=100_000_001),
    "negative length": file_of(SMALL, length=2**63),
    "no JSON": file_of(b"{" * 9),
    "deep JSON": file_of(b'{"a":' * 5000),
    "not UTF-8": file_of(b'{"\xff\xfe": 1}'),
    "a list": file_of([]),
    "a number for a tensor": file_of({"a": 3}),
    "no dtype": file_of({"a": {"shape": [2], "data_offsets": [0, 8]}}),
    "unknown dtype": file_of(entry(dtype="OBJECT")),
    "shape of text": file_of(entry(shape="2")),
    "negative shape": file_of(entry(shape=[-2])),
    "fraction": file_of(entry(shape=[0.5])),
    "shape of 2**62": file_of(entry(shape=[2**62])),
    "shape that overflows": file_of(entry(shape=[2**33, 2**33])),
    "shape beyond the data": file_of(entry(shape=[10**9])),
    "offsets beyond the file": file_of(entry(data_offsets=[0, 10**12])),
    "offsets backwards": file_of(entry(data_offsets=[8, 0])),
    "negative offset": file_of(entry(data_offsets=[-8, 0])),
    "hole before the data": file_of(entry(data_offsets=[8, 16]), bytes(16)),
    "hole after the data": file_of(SMALL, bytes(100)),
    "overlap": file_of({**SMALL, "b": SMALL["a"]}),
    "cut data": file_of(SMALL, bytes(3)),
    "no data": file_of(SMALL, b""),
    "metadata that is no text": file_of({"__metadata__": {"x": 1}, **SMALL}),
    "a million nothings": file_of(entry(shape=[0] * 1_000_000)),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_safetensors_are_refused_in_little_memory(content, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConvertError, match=r"x\.safetensors"):
        convert.load_torch(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_of_two_tensors_of_one_name_none_is_taken_for_another(tmp_path):
    """The library takes the last of them."""
    one = '"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_of(f"{{{one},{one}}}".encode()))
    with pytest.raises(ConvertError, match="none of the layouts"):
        convert.load_torch(path)


@functools.cache
def sound() -> bytes:
    return safetensors.numpy.save(convert.export(small("features"), "timm").state)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_headers_are_refused_or_read_as_they_say(data, tmp_path):
    content = bytearray(sound())
    header = struct.unpack("<Q", content[:8])[0] + 8
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    try:
        tensors = files.read(path).tensors
    except ConvertError:
        return
    for tensor in tensors.values():
        assert tensor.read().shape == tensor.shape


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("wrapped", [False, True])
def test_pickles_do_not_run(wrapped, tmp_path):
    """With and without PyTorch; what it refuses in its own archives is in tests/original."""
    path = tmp_path / "x.pth"
    content = pickle.dumps({"model": Canary(tmp_path / "canary")}, 2)
    if wrapped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", content)
            archive.writestr("x/version", "3\n")
    else:
        path.write_bytes(content)
    with pytest.raises(ConvertError, match=r"x\.pth"):
        convert.load_torch(path)
    assert not (tmp_path / "canary").exists()


def test_without_pytorch_its_files_are_refused_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "x.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(ConvertError, match="pip install 'torch>=2.10'"):
        convert.load_torch(tmp_path / "x.pth")
    with pytest.raises(ConvertError, match="pip install 'torch>=2.10'"):
        convert.write(small("mean"), tmp_path / "out", "mae")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("dtype", "name"), [(np.float16, "F16"), (ml_dtypes.bfloat16, "BF16")])
def test_half_precision_is_converted_and_reported(dtype, name, tmp_path):
    trained = small("mean")
    state = convert.export(trained, "timm").state
    halves = {key: tensor.astype(dtype) for key, tensor in state.items()}
    files.write(tmp_path / "model.safetensors", halves, None)
    read = convert.load_torch(tmp_path, heads=2, clip=trained.clip)
    assert f"converted to float32: {name}" in read.report.found
    kernel = trained.params["projection"]["kernel"]
    found = read.params["projection"]["kernel"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, kernel.astype(dtype).astype(np.float32))


def test_folders_without_one_file_of_weights_say_so(tmp_path):
    with pytest.raises(ConvertError, match="is neither a run .* nor a folder with a file"):
        convert.load_torch(tmp_path)
    with pytest.raises(ConvertError, match="no such file"):
        convert.load_torch(tmp_path / "nothing.pth")
