"""Tests of MaskFeat on both ViT and MViT."""

from __future__ import annotations

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskfeat_jax.models import layers
from maskfeat_jax.models.layers import stack_blocks, unstack_blocks
from tests.models import mvit_test, vit_test
from tests.models.initial import initial

THREE_BLOCKS = {"depth": 3, "stages": (1,), "tubelet": (2, 8, 8)}
MODELS = {  # how a small one is made, and what it is run on
    "vit": (vit_test.tiny, vit_test.clips_and_mask()),
    "mvit": (functools.partial(mvit_test.tiny, **THREE_BLOCKS), mvit_test.clips_and_mask()),
}
BOTH = {"scan": True, "remat": True}


@pytest.mark.parametrize(
    ("name", "fields"),
    [("vit", {"scan": True}), ("vit", {"remat": True}), ("vit", BOTH), ("mvit", BOTH)],
)
def test_scan_and_remat_change_nothing(name, fields):
    make, inputs = MODELS[name]
    depth = {"vit": 3, "mvit": 4}[name]
    plain, other = make(depth=depth), make(depth=depth, **fields)
    params = initial(plain, *inputs, noise={"vit": 1, "mvit": 0.1}[name])
    like = jax.eval_shape(other.init, jax.random.key(0), *inputs)["params"]
    stacked = {"vit": {"0-2"}, "mvit": {"0", "1", "2-3"}}[name]
    assert set(like["encoder"]["blocks"]) == (stacked if "scan" in fields else set("012"))

    def loss(model):
        return jax.jit(
            jax.value_and_grad(lambda p: jnp.sum(jnp.sin(model.apply({"params": p}, *inputs))))
        )

    expected, expected_grads = loss(plain)(params)
    value, grads = loss(other)(stack_blocks(params, like))
    np.testing.assert_allclose(value, expected, rtol={"vit": 1e-5, "mvit": 1e-4}[name])
    atol = 1e-5 * max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected_grads))
    close = functools.partial(np.testing.assert_allclose, atol=atol)
    jax.tree.map(close, unstack_blocks(grads), expected_grads)


def test_equal_blocks_are_scanned_except_a_few_on_a_cpu(monkeypatch):
    make, inputs = MODELS["vit"]

    def blocks(depth, **fields):
        shapes = jax.eval_shape(make(depth=depth, **fields).init, jax.random.key(0), *inputs)
        return set(shapes["params"]["encoder"]["blocks"])

    assert blocks(16) == set(map(str, range(16)))
    assert blocks(17) == {"0-16"}
    monkeypatch.setattr(layers, "device_of_trace", lambda: types.SimpleNamespace(platform="tpu"))
    assert blocks(3) == {"0-2"}
    assert blocks(3, scan=False) == set("012")


def test_a_block_that_widens_without_halving_is_not_scanned_with_those_after_it():
    fields = {**THREE_BLOCKS, "depth": 4, "tubelet": (2, 4, 4)}  # no stage halves the grid
    encoder = mvit_test.tiny(**fields, widen_in="attention", scan=True).encoder
    params = jax.eval_shape(encoder.init, jax.random.key(0), mvit_test.clips_and_mask()[0])
    assert set(params["params"]["blocks"]) == {"0", "1", "2-3"}


@pytest.mark.parametrize("name", MODELS)
def test_drop_path_drops_whole_branches_in_training_only(name):
    make, inputs = MODELS[name]
    clips, mask = (jnp.repeat(x[:1], 64, 0) for x in inputs)
    model = make(drop_path=0.5)
    params = initial(model, clips, mask, noise=0.3)

    @jax.jit
    def trained(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply({"params": params}, clips, mask, train=True, rngs=rngs)

    np.testing.assert_array_equal(trained(0), trained(0))
    assert np.abs(trained(0) - trained(1)).max() > 0
    # Rates 0, 1/4, 1/2 for two branches each: 2 ** 4 outcomes, some of them seen more than once.
    outcomes = {tuple(np.round(row.ravel(), 3)) for row in np.asarray(trained(0))}
    assert 4 < len(outcomes) <= 16
    evaluated = np.asarray(jax.jit(model.apply)({"params": params}, clips, mask))
    atol = {"vit": 1e-5, "mvit": 1e-4}[name]
    np.testing.assert_allclose(evaluated, evaluated[:1].repeat(64, 0), atol=atol)


@pytest.mark.parametrize(("name", "limit"), [("vit", 0.02), ("mvit", 0.05)])
def test_bfloat16_computes_close_to_float32_with_float32_parameters(name, limit):
    make, inputs = MODELS[name]
    half = make(dtype="bfloat16")
    shapes = jax.eval_shape(half.init, jax.random.key(0), *inputs)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
    params = initial(half, *inputs)
    ours, expected = (jax.jit(m.apply)({"params": params}, *inputs) for m in (half, make()))
    assert ours.dtype == jnp.float32
    assert 0 < float(jnp.abs(ours - expected).max()) < limit * float(jnp.abs(expected).max())


@pytest.mark.parametrize("name", MODELS)
def test_other_dtypes_and_sizes_are_refused(name):
    make, _ = MODELS[name]
    for dtype in ("float16", "half", "bf16", "int8", "float64", ""):
        with pytest.raises(ValueError, match=f"dtype='{dtype}': expected 'float32' or 'bfloat16'"):
            make(dtype=dtype)
    with jax.enable_x64(True):
        assert make(dtype="float64").encoder.dtype == "float64"
    for field, size in (("width", 0), ("width", -1), ("heads", 0), ("heads", -1), ("depth", -1)):
        with pytest.raises(ValueError, match=f"{field}={size} must be [01] or more"):
            make(**{field: size})
    with pytest.raises(ValueError, match="mlp_ratio=0.0 leaves an MLP of width .* no channels"):
        make(mlp_ratio=0.0)
