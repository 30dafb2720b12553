from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskfeat_jax.models import create_model
from maskfeat_jax.models.probes import RUNNING, BatchNorm
from tests.models.initial import initial

ENCODER = {"encoder": "vit_ti16", "width": 24, "depth": 2, "heads": 2, "tubelet": (1, 8, 8)}
HEADS = {"linear_probe": {}, "attentive_probe": {"heads": 3}}
# torch.nn.BatchNorm1d(2, affine=False, eps=1e-6) in float64.
TRAINED = [[0.0, -1.151385189], [1.224744642, -0.135457081], [-1.224744642, 1.286842271]]
RUNNING_MEAN, RUNNING_VAR = [0.29, 0.241666667], [2.77, 5.260833333]
EVALUATED = [[0.426597578, -0.977335606], [1.628280898, 0.112629754], [-0.775085741, 1.638581257]]
CLIPS = np.random.default_rng(0).standard_normal((6, 1, 16, 16, 3)).astype(np.float32)


def test_batch_norm_golden_numbers():
    """Two training steps, then evaluation."""
    x = np.array([[1.0, -2.0], [3.0, 0.5], [-1.0, 4.0]])
    norm = BatchNorm()
    params = norm.init(jax.random.key(0), x, None, train=False)["params"]
    first, changed = norm.apply({"params": params}, x, None, train=True, mutable=[RUNNING])
    _, changed = norm.apply(
        {"params": changed[RUNNING]}, 2 * x, None, train=True, mutable=[RUNNING]
    )
    evaluated = norm.apply({"params": changed[RUNNING]}, x, None, train=False)
    np.testing.assert_allclose(first, TRAINED, atol=1e-6)
    np.testing.assert_allclose(changed[RUNNING]["mean"], RUNNING_MEAN, rtol=1e-6)
    np.testing.assert_allclose(changed[RUNNING]["var"], RUNNING_VAR, rtol=1e-6)
    np.testing.assert_allclose(evaluated, EVALUATED, atol=1e-6)


def test_batch_norm_leaves_unreadable_clips_out():
    x = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32)
    valid = np.array([True, True, False, True, False])
    norm = BatchNorm()
    params = norm.init(jax.random.key(0), x, None, train=False)["params"]

    def run(x, valid):
        return norm.apply({"params": params}, x, valid, train=True, mutable=[RUNNING])

    (some, changed), (few, expected) = run(x, valid), run(x[valid], None)
    np.testing.assert_allclose(some[valid], few, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), changed, expected)


@pytest.mark.parametrize("name", HEADS)
def test_only_the_probe_learns(name):
    model = create_model(name, head={"num_classes": 5, **HEADS[name]}, **ENCODER)
    params = initial(model, CLIPS)
    weights = np.random.default_rng(0).standard_normal((6, 5))

    def loss(params):
        logits, _ = model.apply({"params": params}, CLIPS, train=True, mutable=[RUNNING])
        return jnp.sum(logits * weights)

    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params)):
        name = "/".join(key.key for key in path)
        frozen = any(re.search(pattern, name) for pattern in model.frozen)
        # Keys share their bias in the softmax: its exact gradient is zero.
        assert np.any(np.abs(np.asarray(leaf)) > 0) != frozen, name


@pytest.mark.parametrize(("pool", "first"), [("class", 1), ("mean", 1), ("mean", 0)])
def test_features_are_normalised_tokens(pool, first):
    model = create_model("features", head={"pool": pool}, class_token=bool(first), **ENCODER)
    params = jax.jit(model.init)(jax.random.key(0), CLIPS)["params"]
    tokens = np.asarray(jax.jit(model.encoder.apply)({"params": params["encoder"]}, CLIPS))
    centred = tokens - tokens.mean(-1, keepdims=True)
    tokens = centred / np.sqrt(tokens.var(-1, keepdims=True) + 1e-6)
    expected = tokens[:, 0] if pool == "class" else tokens[:, first:].mean(1)
    features = jax.jit(model.apply)({"params": params}, CLIPS)
    np.testing.assert_allclose(features, expected, atol=1e-5)


def test_attentive_probe_attends_over_the_grid_only():
    """The first token of an encoder without class token counts; a class token does not."""
    head = {"num_classes": 5, "heads": 3}
    usual, other = (
        create_model("attentive_probe", head=head, class_token=has, **{**ENCODER, "depth": 0})
        for has in (True, False)
    )
    params = jax.jit(usual.init)(jax.random.key(0), CLIPS)["params"]
    encoder = {**params["encoder"], "pos_embed": params["encoder"]["pos_embed"][:, 1:]}
    del encoder["cls_token"]
    logits = other.apply({"params": {**params, "encoder": encoder}}, CLIPS)
    np.testing.assert_array_equal(logits, usual.apply({"params": params}, CLIPS))
