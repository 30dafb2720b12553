from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
import pytest

from input_pipeline.decode.torch_tensor import read_tensor
from tests.input_pipeline.samples import tensor_file

# The pickle that torch 2.13 writes of `values.permute(0, 3, 1, 2)`, float16 (2, 3, 4, 2) before.
PERMUTED = (
    b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\x00((X\x07\x00\x00\x00storageq\x01ctorch\n"
    b"HalfStorage\nq\x02X\x01\x00\x00\x000q\x03X\x03\x00\x00\x00cpuq\x04K0tq\x05QK\x00(K\x02K\x02K"
    b"\x03K\x04tq\x06(K\x18K\x01K\x08K\x02tq\x07\x89ccollections\nOrderedDict\nq\x08)Rq\ttq\nRq\x0b."
)
VALUES = np.arange(48, dtype=np.float16).reshape(2, 3, 4, 2)


def archive(pickled, name="x/data.pkl", compression=zipfile.ZIP_STORED, values=VALUES):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr(name, pickled)
        archive.writestr("x/data/0", values.tobytes())
    return file.getvalue()


def test_a_tensor_of_torch_with_its_strides():
    found = read_tensor(archive(PERMUTED))
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, VALUES.transpose(0, 3, 1, 2))


def test_floats_views_and_offsets():
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    np.testing.assert_array_equal(read_tensor(tensor_file(values)), values)
    part = read_tensor(tensor_file(values, (2, 3), (6, 1), offset=8))
    np.testing.assert_array_equal(part, values[1:3, 2:5])


class Opened:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_in_a_pickle_is_run(tmp_path):
    with pytest.raises(pickle.UnpicklingError, match=r"io\.open.*nothing in it was run"):
        read_tensor(archive(pickle.dumps(Opened(tmp_path / "made"), 2)))
    assert not (tmp_path / "made").exists()
    with pytest.raises(pickle.UnpicklingError, match=r"torch\._utils\._rebuild_parameter"):
        read_tensor(tensor_file(VALUES, rebuild="torch._utils _rebuild_parameter"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not an archive of torch.save"),
        (b"\x80\x02", "save it again: torch.save"),
        (archive(PERMUTED, compression=zipfile.ZIP_DEFLATED), "compressed data"),
        (archive(PERMUTED, values=VALUES[:1]), "outside its 24 values"),
        (archive(b"\x80\x02}."), "a dict, expected one tensor"),
        (archive(b"\x80\x02]" + b"]0" * 10_000 + b"."), "a pickle of 20004 bytes"),
        (tensor_file(VALUES, (3, 3), (24, 1)), "outside its 48 values"),
        (tensor_file(VALUES, (49,), (0,)), "outside its 48 values"),
        (tensor_file(VALUES, (2,), (-1,), offset=4), "outside its 48 values"),
        (tensor_file(VALUES, (2,), (1,), offset=-1), "outside its 48 values"),
    ],
)
def test_anything_else_is_refused(data, words):
    with pytest.raises(ValueError, match=words):
        read_tensor(data)


def test_other_numbers_are_refused():
    with pytest.raises(pickle.UnpicklingError, match="expected one tensor of float16 or float32"):
        read_tensor(tensor_file(VALUES, storage="DoubleStorage"))
    damaged = archive(PERMUTED).replace(VALUES.tobytes(), bytes(96))
    with pytest.raises(zipfile.BadZipFile, match="CRC"):
        read_tensor(damaged)
