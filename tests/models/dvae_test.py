from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from maskfeat_jax.convert import dvae
from maskfeat_jax.models.dvae import DvaeDecoder, DvaeEncoder, map_pixels, unmap_pixels
from tests.models.dvae_states import decoder_shapes, encoder_shapes, filled


def shapes_of(model, *inputs):
    return jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]


def count(shapes):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_sizes_of_the_published_networks():
    encoder = shapes_of(DvaeEncoder(), np.zeros((1, 8, 8, 3), np.float32))
    decoder = shapes_of(DvaeDecoder(), np.zeros((1, 1, 1), np.int32))
    assert (count(encoder), len(jax.tree.leaves(encoder))) == (53_786_240, 74)
    assert (count(decoder), len(jax.tree.leaves(decoder))) == (43_829_766, 76)


def test_pixels():
    levels = np.float32([0, 128, 255]) / 255
    np.testing.assert_allclose(map_pixels(levels), [0.1, 0.501568627, 0.9], rtol=1e-6)
    np.testing.assert_allclose(unmap_pixels(map_pixels(levels)), levels, atol=1e-6)
    np.testing.assert_array_equal(unmap_pixels(np.float32([0, 1])), [0, 1])


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The encoder of the numbers below, and its parameters."""
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    safetensors.numpy.save_file(filled(encoder_shapes(64, 1, 512)), path)
    return dvae.read_encoder(path)


def waves():
    v = 0.5 + 0.5 * np.sin(0.1 * np.arange(3 * 16 * 16)).reshape(1, 3, 16, 16)
    return map_pixels(v.transpose(0, 2, 3, 1).astype(np.float32))


def test_golden_numbers_of_the_original(small):
    model, params = small
    assert model == DvaeEncoder(64, 1, 512)
    assert count(params) == 1_321_744
    logits = np.asarray(jax.jit(model.apply)({"params": params}, waves()))[0]
    np.testing.assert_array_equal(logits.argmax(-1), [[304, 310], [310, 310]])
    first = [-0.04826245, 0.27833214, -0.28347656, 0.33199853]
    np.testing.assert_allclose(logits[0, 0, :4], first, atol=1e-6)
    np.testing.assert_allclose(
        [logits.mean(), logits.std()], [-0.0103574512, 0.4771534899], rtol=1e-5
    )


def test_golden_numbers_of_the_original_decoder(tmp_path):
    path = tmp_path / "decoder.safetensors"
    safetensors.numpy.save_file(filled(decoder_shapes(64, 1, 512, 16)), path)
    model, params = dvae.read_decoder(path)
    assert model == DvaeDecoder(64, 1, 512, 16)
    ids = np.array([[[304, 310], [310, 7]]])
    image = np.asarray(jax.jit(model.apply)({"params": params}, ids))[0]
    some = [[0.50289065, 0.47861147, 0.5480084], [0.5134209, 0.48579103, 0.5598098]]
    np.testing.assert_allclose([image[0, 0], image[7, 9]], some, atol=1e-6)
    np.testing.assert_allclose([image.mean(), image.std()], [0.5174143, 0.029858511], rtol=1e-5)


def test_bfloat16_leaves_the_last_convolution_in_float32(small):
    model, params = small
    half = model.clone(dtype=jnp.bfloat16)
    shapes = shapes_of(half, waves())
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes["output"])} == {np.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves({**shapes, "output": {}})} == {
        jnp.dtype("bfloat16")
    }
    cast = jax.tree.map(lambda leaf, array: array.astype(leaf.dtype), shapes, params)
    ours, wide = (
        np.asarray(jax.jit(m.apply)({"params": p}, waves()))
        for m, p in ((half, cast), (model, params))
    )
    assert ours.dtype == np.float32
    assert 1e-5 < np.abs(ours - wide).max() < 0.05
