from __future__ import annotations

import jax
import numpy as np
import pytest

from maskfeat_jax.models import create_model

VIT = {"encoder": "vit_ti16", "width": 24, "depth": 2, "heads": 2, "tubelet": (1, 8, 8)}
MVIT = {"encoder": "mvit_v2_s_supervised", "width": 8, "depth": 1, "stages": ()}
MVIT["tubelet"] = (2, 4, 4)
KEY = jax.random.key(0)
CLIPS = np.random.default_rng(0).standard_normal((6, 2, 16, 16, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("pool", "encoder", "tokens_read"),
    [
        ("class", VIT, slice(0, 1)),
        ("class", MVIT, slice(0, 1)),
        ("mean", VIT, slice(1, None)),
        ("mean", {**VIT, "class_token": False}, slice(None)),
    ],
)
def test_logits_by_hand(pool, encoder, tokens_read):
    model = create_model("classifier", head={"num_classes": 5, "pool": pool}, **encoder)
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: 0.2 * rng.standard_normal(leaf.shape, np.float32),
        jax.eval_shape(model.init, jax.random.key(0), CLIPS)["params"],
    )
    logits = jax.jit(model.apply)({"params": params}, CLIPS)
    tokens = np.asarray(jax.jit(model.encoder.apply)({"params": params["encoder"]}, CLIPS))
    x = tokens[:, tokens_read].mean(1)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = x * params["norm"]["scale"] + params["norm"]["bias"]
    expected = x @ params["projection"]["kernel"] + params["projection"]["bias"]
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_dropout_scales_what_it_leaves():
    model = create_model("classifier", head={"num_classes": 5, "dropout": 0.5}, **VIT)
    params = jax.jit(model.init)(jax.random.key(0), CLIPS)["params"]
    clips = np.broadcast_to(CLIPS[:1], (400, *CLIPS.shape[1:]))
    still = jax.jit(model.apply)({"params": params}, clips)
    rngs = {"dropout": jax.random.key(1)}
    apply = jax.jit(model.apply, static_argnames="train")
    moved = np.asarray(apply({"params": params}, clips, train=True, rngs=rngs))
    assert np.ptp(moved, 0).min() > 0
    spread = moved.std(0) / np.sqrt(len(moved))
    assert (np.abs(moved.mean(0) - still[0]) < 5 * spread).all()


NO_CLASS_TOKEN = "pool='class' needs an encoder with a class token"


@pytest.mark.parametrize(
    ("name", "head", "class_token", "words"),
    [
        ("classifier", {"num_classes": 5, "dropout": 1.0}, True, "dropout=1.0"),
        ("classifier", {"num_classes": 5, "pool": "max"}, True, "pool='max' is not one of class,"),
        ("classifier", {"num_classes": 5, "pool": "class"}, False, NO_CLASS_TOKEN),
        ("linear_probe", {"num_classes": 1}, True, "num_classes=1"),
        ("linear_probe", {"num_classes": 5, "pool": "max"}, True, "pool='max'"),
        ("linear_probe", {"num_classes": 5}, False, NO_CLASS_TOKEN),
        ("features", {"pool": "max"}, True, "pool='max'"),
        ("features", {}, False, NO_CLASS_TOKEN),
        ("attentive_probe", {"num_classes": 5, "heads": 5}, True, "head.heads=5 does not divide"),
    ],
)
def test_refuses(name, head, class_token, words):
    with pytest.raises(ValueError, match=words):
        create_model(name, head=head, **VIT, class_token=class_token).init(KEY, CLIPS)
