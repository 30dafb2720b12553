"""The networks of openai/DALL-E with random weights, and the files that PyTorch writes of them."""

from __future__ import annotations

import os
import sys

import jax
import numpy as np
import pytest

from bench.originals import make_importable
from maskfeat_jax.convert import ConvertError, dvae
from maskfeat_jax.models.dvae import DvaeDecoder, DvaeEncoder, map_pixels

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.original("DALL_E_DIR")
FORMS = {"archive": True, "old": False}


@pytest.fixture(scope="module", params=FORMS)
def files(request, tmp_path_factory):
    """An encoder and a decoder, and files of these."""
    make_importable("DALL_E_DIR")
    from dall_e import Decoder, Encoder

    torch.manual_seed(0)
    encoder = Encoder(n_hid=64, n_blk_per_group=2, vocab_size=512)
    decoder = Decoder(n_init=16, n_hid=64, n_blk_per_group=2, vocab_size=512)
    folder = tmp_path_factory.mktemp(request.param)
    for name, module in (("encoder", encoder), ("decoder", decoder)):
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.data.normal_(std=0.05)
        new = FORMS[request.param]
        torch.save(module, folder / f"{name}.pkl", _use_new_zipfile_serialization=new)
        torch.save(module.state_dict(), folder / f"{name}.pth")
    return encoder, decoder, folder


def test_logits_and_ids_of_the_encoder(files):
    encoder, _, folder = files
    model, params = dvae.read_encoder(folder / "encoder.pkl")
    assert model == DvaeEncoder(64, 2, 512)
    images = np.random.default_rng(0).random((3, 64, 48, 3), np.float32)
    with torch.no_grad():
        inputs = torch.from_numpy(np.asarray(map_pixels(images)).transpose(0, 3, 1, 2).copy())
        theirs = encoder(inputs).numpy().transpose(0, 2, 3, 1)
    ours = np.asarray(jax.jit(model.apply)({"params": params}, map_pixels(images)))
    difference = np.abs(ours - theirs).max()
    equal = (ours.argmax(-1) == theirs.argmax(-1)).mean()
    print(f"logits differ by {difference:.1e} of {np.abs(theirs).max():.1e}, equal ids {equal}")
    assert difference < 1e-5 * np.abs(theirs).max()
    assert equal == 1


def test_images_of_the_decoder(files):
    from dall_e import unmap_pixels

    _, decoder, folder = files
    model, params = dvae.read_decoder(folder / "decoder.pkl")
    assert model == DvaeDecoder(64, 2, 512, 16)
    ids = np.random.default_rng(0).integers(0, 512, (2, 6, 5))
    with torch.no_grad():
        one_hot = torch.nn.functional.one_hot(torch.from_numpy(ids), 512).permute(0, 3, 1, 2)
        theirs = unmap_pixels(torch.sigmoid(decoder(one_hot.float())[:, :3])).numpy()
    ours = np.asarray(jax.jit(model.apply)({"params": params}, ids))
    assert ours.shape == (2, 48, 40, 3)
    print(f"images differ by {np.abs(ours - theirs.transpose(0, 2, 3, 1)).max():.1e}")
    np.testing.assert_allclose(ours, theirs.transpose(0, 2, 3, 1), atol=1e-6)


def test_modules_are_read_to_the_bit_without_their_package(files, monkeypatch):
    encoder, _, folder = files
    for name in [name for name in sys.modules if name.split(".")[0] == "dall_e"]:
        monkeypatch.setitem(sys.modules, name, None)
    state = {name: tensor.numpy() for name, tensor in encoder.state_dict().items()}
    for path in ("encoder.pkl", "encoder.pth"):
        _, params = dvae.read_encoder(folder / path)
        kernel = state["blocks.group_4.block_1.res_path.conv_3.w"].transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(params["group_4"]["block_1"]["conv_3"]["kernel"], kernel)
        np.testing.assert_array_equal(params["output"]["bias"], state["blocks.output.conv.b"])


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, *called):
        self.called = called

    def __reduce__(self):
        return self.called[0], self.called[1:]


@pytest.mark.parametrize(
    "call",
    [
        Call(os.system, "touch canary"),
        Call(eval, "open('canary', 'w')"),
        Call(getattr, Call(__import__, "os"), "system"),
        Call(np.load, "canary"),
        Call(torch.load, "canary"),
        Call(torch.hub.load, "owner/name", "model"),
    ],
    ids=["system", "eval", "getattr", "numpy", "torch", "hub"],
)
def test_a_module_with_code_is_refused(call, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    encoder, _, _ = files
    encoder.blocks.hook = call
    for new in FORMS.values():
        torch.save(encoder, "encoder.pkl", _use_new_zipfile_serialization=new)
        with pytest.raises(ConvertError, match="Nothing in it was run"):
            dvae.read_encoder("encoder.pkl")
    del encoder.blocks.hook
    assert not os.path.exists("canary")
