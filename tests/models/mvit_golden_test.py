"""MViTv2 against float64 numbers of PySlowFast, with weights that both derive from names."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskfeat_jax.models import create_model
from maskfeat_jax.models.pooling_attention import PoolingBlock
from maskfeat_jax.targets import Hog, Inputs
from tests.golden import CLASSIFIER, PRETRAINING, fill


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def clip():
    return (
        np.random.RandomState(1234).standard_normal((1, 3, 16, 224, 224)).transpose(0, 2, 3, 4, 1)
    )


def cubes():
    t, h, w = np.mgrid[:8, :7, :7]
    mask = (t + 2 * h + 3 * w) % 5 < 2
    return mask.repeat(2, 1).repeat(2, 2)[None]


def test_block():
    block = PoolingBlock(32, 2, (2, 8, 8), 2, 4, rows=(3, 7, 7), dtype=jnp.float64)
    tokens = np.random.RandomState(7).standard_normal((1, 129, 16))
    shapes = jax.eval_shape(block.init, jax.random.key(0), tokens, 0.0)["params"]
    out = np.asarray(jax.jit(block.apply)({"params": fill(shapes)}, tokens, 0.0)[0])
    assert out.shape == (1, 33, 32)
    first = [0.340945808, -0.01134647, 0.178605237, 0.082016202]
    np.testing.assert_allclose(out[0, 0, :4], first, atol=1e-9)
    second = [-0.361035642, -0.120408317, -0.212667565, -0.265655473]
    np.testing.assert_allclose(out[0, 1, :4], second, atol=1e-9)
    last = [-0.066135155, 0.327118346, -0.008649069]
    np.testing.assert_allclose(out[0, -1, -3:], last, atol=1e-9)
    np.testing.assert_allclose(
        [out.mean(), out.std()], [-0.03584772274704451, 0.230517686198722], rtol=1e-12
    )


def test_mvit_s_pretraining():
    model = create_model(
        "maskfeat",
        encoder="mvit_v2_s",
        head={"dim": 108},
        tubelet=(2, 16, 16),
        dtype="float64",
        scan=True,
    )
    clips, mask = clip(), cubes()
    assert mask.sum() == 628
    shapes = jax.eval_shape(model.init, jax.random.key(0), clips, mask)["params"]
    params = fill(shapes, PRETRAINING)
    predicted = np.asarray(jax.jit(model.apply)({"params": params}, clips, mask))[mask]
    first = [-0.049230159, 0.897640596, 1.492344988, -0.467299699, 0.008120716, 1.229440478]
    np.testing.assert_allclose(predicted[0, :6], first, atol=1e-8)
    last = [3.348499247, -0.441832457, -0.624741045]
    np.testing.assert_allclose(predicted[-1, -3:], last, atol=1e-8)
    np.testing.assert_allclose([predicted.mean(), predicted.std()], [-0.0142037249, 1.4179353912])
    expected = np.asarray(Hog((2, 16, 16))(Inputs(clips)))[mask]
    first = [0.477365732, 0.188796192, 0.596809506, 0.277838260, 0.221271843, 0.234515131]
    np.testing.assert_allclose(expected[0, :6], first, atol=1e-6)
    np.testing.assert_allclose(expected.sum(), 20784.069614, rtol=1e-6)
    # HOG is in float32: of 7.5 million votes a few fall to the other side of a bin's edge.
    np.testing.assert_allclose(np.square(predicted - expected).mean(), 2.133100633, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "first", "std", "best"),
    [
        (
            "mvit_v2_s",
            [1.497976847, -1.297642462, 1.181839856, -1.749818680, 0.077824060, 1.643335273],
            1.3836417101,
            137,
        ),
        (
            "mvit_v2_l",
            [3.623738021, -0.642389495, -1.584058083, -1.788571002, -1.082473653, -1.735142022],
            1.6992316290,
            117,
        ),
    ],
)
def test_classifier(encoder, first, std, best):
    model = create_model(
        "classifier", encoder=encoder, head={"num_classes": 400}, dtype="float64", scan=True
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0), clip())["params"]
    params = fill(shapes, CLASSIFIER)
    logits = np.asarray(jax.jit(model.apply)({"params": params}, clip()))[0]
    np.testing.assert_allclose(logits[:6], first, atol=1e-8)
    np.testing.assert_allclose(logits.std(), std)
    assert logits.argmax() == best
    if encoder == "mvit_v2_s":
        np.testing.assert_allclose(logits.mean(), 0.0029427439, rtol=1e-7)
