"""Encoders and decoders of every form are read; nothing in their files runs."""

from __future__ import annotations

import itertools
import resource

import numpy as np
import pytest
import safetensors.numpy
from numpy.lib.stride_tricks import as_strided

from bench.faults.files import fuzz, pickles
from bench.faults.files.fuzz import FORMATS, Job
from maskfeat_jax.convert import ConvertError, dvae
from maskfeat_jax.models.dvae import DvaeDecoder, DvaeEncoder
from tests.convert.modules import Call, Global, archive, network, old
from tests.models.dvae_states import decoder_shapes, encoder_shapes, filled

ENCODER = filled(encoder_shapes(4, 2, 16))
DECODER = filled(decoder_shapes(4, 2, 16, 12))
FORMS = {"archive": archive, "old": old}


def flava(name):
    """A name of OpenAI's as FLAVA has it."""
    parts = []
    for part in name.split("."):
        parts.append({"w": "weight", "b": "bias"}.get(part, part))
        parts += ["group"] if part.startswith("group_") else []
        parts += ["path"] if part == "res_path" else []
    return ".".join(parts)


def as_safetensors(state, folder):
    path = folder / "model.safetensors"
    safetensors.numpy.save_file(state, path)
    return path


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What is read of the plain names."""
    folder = tmp_path_factory.mktemp("plain")
    _, params = dvae.read_encoder(as_safetensors(ENCODER, folder))
    return params


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        if isinstance(value, dict):
            assert_same(value, b[name])
        else:
            np.testing.assert_array_equal(value, b[name])


def test_kernels_are_turned(expected):
    kernel = expected["group_2"]["block_1"]["conv_1"]["kernel"]
    theirs = ENCODER["blocks.group_2.block_1.res_path.conv_1.w"]
    np.testing.assert_array_equal(kernel, theirs.transpose(2, 3, 1, 0))
    assert kernel.shape == (3, 3, 4, 2)


@pytest.mark.parametrize("prefix", ["", "image_codebook."])
@pytest.mark.parametrize("names", [str, flava], ids=["openai", "flava"])
def test_names(prefix, names, expected, tmp_path):
    state = {prefix + names(name): array for name, array in ENCODER.items()}
    if prefix:
        state["image_model.pooler.dense.weight"] = np.zeros((3, 3), np.float32)
    as_safetensors(state, tmp_path)
    model, params = dvae.read_encoder(tmp_path)
    assert model == DvaeEncoder(4, 2, 16)
    assert_same(params, expected)


@pytest.mark.parametrize("form", FORMS)
def test_pickled_modules(form, expected, tmp_path):
    path = tmp_path / "encoder.pkl"
    path.write_bytes(
        FORMS[form](network(ENCODER, n_hid=4, device=Call(Global("torch", "device"), ("cpu",))))
    )
    model, params = dvae.read_encoder(path)
    assert model == DvaeEncoder(4, 2, 16)
    assert_same(params, expected)
    path.write_bytes(FORMS[form](network(DECODER)))
    model, params = dvae.read_decoder(path)
    assert model == DvaeDecoder(4, 2, 16, 12)
    kernel = DECODER["blocks.input.w"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(params["input"]["kernel"], kernel)


def test_numbers_of_a_module_may_be_halves_and_turned(tmp_path):
    path = tmp_path / "encoder.pkl"
    state = {n: np.asarray(a.astype(np.float16), order="F") for n, a in ENCODER.items()}
    path.write_bytes(archive(network(state)))
    _, params = dvae.read_encoder(path)
    kernel = state["blocks.input.w"].astype(np.float32).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(params["input"]["kernel"], kernel)


def without(state, name):
    return {key: array for key, array in state.items() if key != name}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (without(ENCODER, "blocks.group_3.block_2.res_path.conv_2.w"), "1 missing: .*conv_2.w"),
        (without(ENCODER, "blocks.output.conv.w"), "0 tensors blocks.output.conv.w"),
        (without(ENCODER, "blocks.input.w"), "blocks.input.w: expected a kernel"),
        ({**ENCODER, "blocks.group_1.gain": np.ones(1, np.float32)}, "1 unexpected: .*gain"),
        ({**ENCODER, "blocks.input.b": np.ones(3, np.float32)}, r"input.b \(3,\), expected \(4,\)"),
        ({**ENCODER, "blocks.input.b": np.full(4, np.nan, np.float32)}, "not finite"),
        (DECODER, r"first convolution \(12, 16, 1, 1\), .* an encoder"),
        ({**ENCODER, **{f"x.{n}": a for n, a in ENCODER.items()}}, "2 tensors blocks.output"),
    ],
)
def test_what_does_not_fit_is_named(state, message, tmp_path):
    with pytest.raises(ConvertError, match=message):
        dvae.read_encoder(as_safetensors(state, tmp_path))


def test_an_encoder_is_no_decoder(tmp_path):
    with pytest.raises(ConvertError, match=r"last convolution \(16, 32, 1, 1\), .* a decoder"):
        dvae.read_decoder(as_safetensors(ENCODER, tmp_path))


HOSTILE = {
    "os.system": Global("os", "system"),
    "eval": Global("builtins", "eval"),
    "getattr": Global("builtins", "getattr"),
    "numpy": Global("numpy", "load"),
    "torch": Global("torch", "load"),
    "rebuilder of other tensors": Global("torch._utils", "_rebuild_sparse_tensor"),
    "dotted": Global("collections", "OrderedDict.fromkeys"),
    "reconstructor": Global("copyreg", "_reconstructor"),
    "partial": Global("functools", "partial"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("named", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_module_that_names_anything_else_is_refused(named, form, tmp_path):
    path = tmp_path / "encoder.pkl"
    path.write_bytes(FORMS[form](network(ENCODER, hook=Call(named, ("touch canary",)))))
    with pytest.raises(ConvertError, match=f"names '{named.module}.{named.name}'.*Nothing in it"):
        dvae.read_encoder(path)


def test_no_pickle_runs_in_any_wrapping(monkeypatch):
    def read(path, _):
        dvae.read_encoder(path)
        return "read"

    monkeypatch.setitem(FORMATS["pickles"].doors, "dvae", read)
    kinds = itertools.product(pickles.WRAPPINGS, pickles.payloads("x"), pickles.DEPTHS)
    for kind in list(kinds)[::5]:
        job = Job("pickles", ", ".join(kind), "dvae")
        assert fuzz.verdict(job, fuzz.attempt(job)) == "clean stop", kind


def test_damaged_modules_are_refused_or_read_right(expected, tmp_path):
    path = tmp_path / "encoder.pkl"
    draws = np.random.default_rng(0)
    for form in FORMS.values():
        content = form(network(ENCODER))
        for count in [1, 5] * 10:
            damaged = bytearray(content)
            for place in draws.integers(0, 9000, count):
                damaged[place] = draws.integers(256)
            path.write_bytes(damaged[: draws.choice([len(content), draws.integers(len(content))])])
            try:
                model, _ = dvae.read_encoder(path)
            except ConvertError:
                continue
            assert model == DvaeEncoder(4, 2, 16)


def test_files_that_claim_to_be_large_take_no_memory(tmp_path):
    path = tmp_path / "encoder.pkl"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path.write_bytes(b"\x80\x02}r\xff\xff\xff\x7f.")  # an object of which there would be 2**31
    with pytest.raises(ConvertError, match="encoder.pkl is damaged"):
        dvae.read_encoder(path)
    wide = as_strided(np.zeros(1, np.float32), (10**8, 32, 1, 1), (0, 0, 0, 0))
    path.write_bytes(archive(network({**ENCODER, "blocks.output.conv.w": wide})))
    with pytest.raises(ConvertError, match="larger than the file"):
        dvae.read_encoder(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
