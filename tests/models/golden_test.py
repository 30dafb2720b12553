"""Whole models against float64 numbers of PySlowFast, with weights that both derive from names."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from maskfeat_jax.models import create_model
from maskfeat_jax.targets import Hog, Inputs
from tests.golden import CLASSIFIER, PRETRAINING, fill
from tests.models.initial import shapes_of


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def inputs():
    clips = np.random.RandomState(1234).standard_normal((1, 3, 224, 224))
    h, w = np.mgrid[:14, :14]
    return clips.transpose(0, 2, 3, 1)[:, None], ((2 * h + 3 * w) % 5 < 2)[None, None]


@pytest.mark.parametrize("scan", [False, True])
def test_vit_b_pretraining(scan):
    clips, mask = inputs()
    model = create_model(
        "maskfeat", encoder="vit_b16", head={"dim": 108}, dtype="float64", scan=scan
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0), clips, mask)["params"]
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == 85_882_476
    params = fill(shapes, PRETRAINING)
    predicted = np.asarray(jax.jit(model.apply)({"params": params}, clips, mask))[mask]
    expected = np.asarray(Hog((1, 16, 16))(Inputs(clips)))[mask]
    first = [-1.150179693, 1.020930894, 2.795666357, -0.372684813, -1.479412747, -2.636218350]
    np.testing.assert_allclose(predicted[0, :6], first, atol=1e-8)
    np.testing.assert_allclose(
        predicted[-1, -3:], [0.529682666, 0.419231542, 0.195182859], atol=1e-8
    )
    np.testing.assert_allclose([predicted.mean(), predicted.std()], [0.0066457856, 1.3784705814])
    first = [0.477365732, 0.188796192, 0.596809506, 0.277838260, 0.221271843, 0.234515131]
    np.testing.assert_allclose(expected[0, :6], first, atol=1e-6)
    np.testing.assert_allclose(expected.sum(), 2621.409122, rtol=1e-6)
    np.testing.assert_allclose(np.square(predicted - expected).mean(), 2.003716726, rtol=1e-7)


@pytest.mark.parametrize(
    ("encoder", "parameters", "first", "std", "best"),
    [
        (
            "vit_b16",
            86_567_656,
            [1.803811245, -0.501649008, -1.440033165, -0.137336888, 2.873274973, 1.521344044],
            1.3592720697,
            111,
        ),
        pytest.param(
            "vit_l16",
            304_326_632,
            [3.218135040, -0.045116762, 2.702902960, 0.428136284, -0.910781954, 1.378295760],
            1.6103815106,
            354,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_classifier(encoder, parameters, first, std, best):
    clips, _ = inputs()
    model = create_model("classifier", encoder=encoder, head={"num_classes": 1000}, dtype="float64")
    shapes = jax.eval_shape(model.init, jax.random.key(0), clips)["params"]
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == parameters
    logits = np.asarray(jax.jit(model.apply)({"params": fill(shapes, CLASSIFIER)}, clips))[0]
    np.testing.assert_allclose(logits[:6], first, atol=1e-8)
    np.testing.assert_allclose(logits.std(), std)
    if encoder == "vit_b16":
        np.testing.assert_allclose(logits.mean(), 0.0707727071)
    assert logits.argmax() == best


def test_parameter_count_of_vit_l_pretraining():
    shapes = shapes_of(
        create_model("maskfeat", encoder="vit_l16", head={"dim": 108}), (1, 224, 224)
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 303_413_356
