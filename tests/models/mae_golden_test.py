"""Masked autoencoders against float64 numbers of the originals, weights by a rule."""

from __future__ import annotations

import functools

import jax
import numpy as np
import optax
import pytest

from maskfeat_jax.losses import MSE
from maskfeat_jax.models import create_model
from maskfeat_jax.models.positions import sinusoid_table
from maskfeat_jax.targets import Inputs, Pixels
from tests.golden import MAE, MAE_CLASSIFIER, fill_sines, mae_of_pyslowfast

TINY = {"encoder": "vit_ti16", "width": 8, "depth": 2, "heads": 2, "tubelet": (2, 16, 16)}
MAE_ST = {"width": 8, "depth": 1, "heads": 2, "positions": "separate", "class_token": "own"}
PYSLOWFAST = {"width": 64, "depth": 1, "heads": 1}
VIDEOMAE = {"width": 12, "depth": 1, "heads": 2, "positions": "sinusoid", "class_token": "none"}

# Sines are a layout in disguise: what follows depends on the order of axes everywhere.
CLIPS = np.sin(0.01 * np.arange(2 * 3 * 4 * 32 * 32)).reshape(2, 3, 4, 32, 32)
CLIPS = CLIPS.transpose(0, 2, 3, 4, 1)
NOISE = (7 * np.arange(8) + 3 * np.arange(2)[:, None]) % 8 / 8
MASK = (NOISE >= 0.5).reshape(2, 2, 2, 2)  # half of the tokens, those of the least noise, are seen


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def autoencoder(decoder, visible=4, **encoder):
    return create_model(
        "mae",
        head={"dim": 768, "visible": visible, **decoder},
        positions="separate",
        **{"dtype": "float64", **encoder},
    )


def shapes_of(model, *inputs):
    return jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]


def count(tree):
    return sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@functools.partial(jax.jit, static_argnums=(1, 2))
def loss_of(params, model, target):
    predicted = model.apply({"params": params}, CLIPS, MASK)
    return MSE()(predicted, target(Inputs(CLIPS)))["loss"][MASK].mean()


def test_autoencoder_of_mae_st():
    np.testing.assert_array_equal(
        MASK.reshape(2, 8), [[0, 1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1]]
    )
    model = autoencoder(MAE_ST, **TINY)
    shapes = shapes_of(model, CLIPS, MASK)
    assert count(shapes) == 22_064
    params = fill_sines(shapes, MAE, split_qkv=True)
    predicted = np.asarray(jax.jit(model.apply)({"params": params}, CLIPS, MASK)).reshape(2, 8, 768)
    first = [-0.19719812, 0.23258432, -0.12006879, 0.18156424]
    np.testing.assert_allclose(predicted[0, 0, :4], first, atol=1e-8)
    last = [-0.11154452, 0.1489449, -0.00833661]
    np.testing.assert_allclose(predicted[1, 7, -3:], last, atol=1e-8)
    np.testing.assert_allclose(np.abs(predicted).sum(), 1483.08165115, rtol=1e-11)

    pixels = functools.partial(Pixels, (2, 16, 16), channels="last", frames="spread")
    loss, grads = jax.value_and_grad(loss_of)(params, model, pixels(normalise=True))
    np.testing.assert_allclose(loss, 1.02467566055, rtol=1e-10)
    np.testing.assert_allclose(optax.global_norm(grads), 0.47012804140, rtol=1e-10)
    some = [grads["decoder"]["mask_token"][0, 0, 0]]
    some.append(grads["encoder"]["patch_embed"]["kernel"][0, 0, 0, 0, 0])
    np.testing.assert_allclose(some, [-0.09384762945, 2.348458264e-4], rtol=1e-9)
    loss = loss_of(params, model, pixels(normalise=False))
    np.testing.assert_allclose(loss, 0.48718775177, rtol=1e-10)


def test_classifier_of_mae_st():
    model = create_model(
        "classifier", head={"num_classes": 5}, positions="separate", dtype="float64", **TINY
    )
    params = fill_sines(shapes_of(model, CLIPS), MAE_CLASSIFIER, split_qkv=True)
    expected = [
        [-0.1279161, 0.23557681, -0.15780289, 0.21459399, -0.18142194],
        [-0.13865561, 0.24872721, -0.17293173, 0.23120375, -0.1989664],
    ]
    logits = jax.jit(model.apply)({"params": params}, CLIPS)
    np.testing.assert_allclose(logits, expected, atol=1e-8)


def test_autoencoder_of_pyslowfast():
    model = autoencoder(PYSLOWFAST, **TINY)
    shapes = shapes_of(model, CLIPS, MASK)
    assert count(shapes) == 115_368
    params = fill_sines(shapes, mae_of_pyslowfast(decoder_depth=1))
    predicted = np.asarray(jax.jit(model.apply)({"params": params}, CLIPS, MASK))[MASK]
    first = [1.02236167, -0.47234174, -1.21271474, 0.11998664]
    np.testing.assert_allclose(predicted[0, :4], first, atol=1e-8)
    np.testing.assert_allclose(np.abs(predicted).sum(), 3332.749710218, rtol=1e-12)
    target = Pixels((2, 16, 16), channels="last")
    np.testing.assert_allclose(loss_of(params, model, target), 1.44002538636, rtol=1e-11)


# Of VideoMAE as in transformers 5.23, its positions in float64 and all its layer norms with epsilon
# 1e-6 as in MCG-NJU/VideoMAE; it got the weights below.


def fill_videomae(shapes):
    """Sines, zeros for the biases that VideoMAE does not have, its positions."""
    params = fill_sines(shapes, {})
    for module in (params[name] for name in ("encoder", "decoder") if name in params):
        width = module["pos_embed"].shape[-1]
        module["pos_embed"] = np.asarray(sinusoid_table((2, 2, 2), width, 0))
        for block in module["blocks"].values():
            block["attn"]["qkv"]["bias"][width : 2 * width] = 0
    if "decoder" in params:
        params["decoder"]["embed"]["bias"][:] = 0
    return params


def of_videomae(name, **head):
    fields = {**TINY, "class_token": False, "positions": "sinusoid", "dtype": "float64"}
    return create_model(name, head=head, **fields)


def test_autoencoder_of_videomae():
    model = of_videomae("mae", dim=1536, visible=4, **VIDEOMAE)
    params = fill_videomae(shapes_of(model, CLIPS, MASK))
    predicted = np.asarray(jax.jit(model.apply)({"params": params}, CLIPS, MASK))[MASK]
    first = [-0.0581149939, -0.0365682405, -0.0422414751, -0.0544151326]
    np.testing.assert_allclose(predicted[0, :4], first, atol=1e-9)
    last = [-0.0014377622, -0.0280253339, 0.0298279907]
    np.testing.assert_allclose(predicted[-1, -3:], last, atol=1e-9)
    np.testing.assert_allclose(np.abs(predicted).sum(), 1025.84048230141, rtol=1e-11)

    target = Pixels((2, 16, 16), channels="last", frames="all", statistics="channel")
    colours = CLIPS * [0.229, 0.224, 0.225] + [0.485, 0.456, 0.406]  # as VideoMAE goes back to
    loss = np.square(predicted - np.asarray(target(Inputs(colours)))[MASK]).mean()
    np.testing.assert_allclose(loss, 1.00930415410434, rtol=1e-11)
    np.testing.assert_allclose(loss_of(params, model, target), loss, rtol=2e-5)


def test_classifier_of_videomae():
    model = of_videomae("classifier", num_classes=5)
    params = fill_videomae(shapes_of(model, CLIPS))
    expected = [
        [0.1172429065, -0.1839762767, 0.0742927005, -0.1526966693, 0.0411720272],
        [0.1197181667, -0.186172132, 0.0761369394, -0.1541286434, 0.0421446454],
    ]
    logits = jax.jit(model.apply)({"params": params}, CLIPS)
    np.testing.assert_allclose(logits, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("size", "encoder", "of_mae_st", "of_pyslowfast", "classifier"),
    [
        ("vit_b16", 86_394_624, 99_898_880, 100_596_736, 86_702_224),
        ("vit_l16", 304_096_256, 317_731_584, 318_429_440, 304_506_256),
        ("vit_h16", 631_911_680, 645_678_080, 646_375_936, 632_424_080),
    ],
)
def test_number_of_parameters(size, encoder, of_mae_st, of_pyslowfast, classifier):
    clips = np.zeros((1, 16, 224, 224, 3), np.float32)
    mask = (np.arange(1568) >= 156).reshape(1, 8, 14, 14)
    fields = {"encoder": size, "tubelet": (2, 16, 16), "dtype": "float32", "scan": True}
    heads = {"heads": 16, "positions": "separate", "class_token": "own"}
    for decoder, number in ((heads, of_mae_st), ({}, of_pyslowfast)):
        shapes = shapes_of(autoencoder(decoder, visible=156, **fields), clips, mask)
        assert count(shapes) == number
        assert count((shapes["encoder"], shapes["norm"])) == encoder
    model = create_model("classifier", head={"num_classes": 400}, positions="separate", **fields)
    assert count(shapes_of(model, clips)) == classifier
