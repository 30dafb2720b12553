"""What a step stores for its backward pass, on an accelerator that is not there."""

from __future__ import annotations

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskfeat_jax.models import create_model, layers

CLIP, TUBELET, ROWS = (2, 32, 32), (1, 8, 8), 2
ENCODERS = {
    "vit_ti16": {"tubelet": TUBELET, "width": 64, "depth": 3, "heads": 2},
    "mvit_v2_s": {"width": 16, "depth": 4, "stages": (1, 2), "tubelet": (2, 16, 16)},
}


def model_of(encoder, **fields):
    return create_model("maskfeat", encoder=encoder, head={"dim": 9}, **ENCODERS[encoder], **fields)


def arguments(model):
    rng = np.random.default_rng(0)
    clips = jnp.asarray(rng.standard_normal((ROWS, *CLIP, 3)), jnp.float32)
    mask = jnp.asarray(rng.random((ROWS, *model.encoder.grid(CLIP))) < 0.5)
    return jax.jit(model.init)(jax.random.key(0), clips, mask)["params"], clips, mask


def residuals(model, params, clips, mask):
    """What the gradient stores on a TPU, without parameters."""
    of_params = {(x.shape, x.dtype) for x in jax.tree.leaves(params)}
    device = jax.sharding.AbstractDevice(device_kind="", num_cores=None, platform="tpu")
    axes = (jax.sharding.AxisType.Auto,) * 3
    names = ("data", "parameters", "tensor")
    mesh = jax.sharding.AbstractMesh((1, 1, 1), names, axes, abstract_device=device)

    def back(params, clips, mask):
        return jax.vjp(lambda p: model.apply({"params": p}, clips, mask), params)[1]

    with jax.sharding.use_abstract_mesh(mesh):
        stored = jax.tree.leaves(jax.eval_shape(back, params, clips, mask))
    return [x for x in stored if (x.shape, x.dtype) not in of_params]


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_blocks_store_no_large_array_in_float32(encoder, scan):
    model = model_of(encoder, dtype="bfloat16", scan=scan)
    params, clips, mask = jax.eval_shape(lambda: arguments(model))
    stored = residuals(model, params, clips, mask)
    tokens = ROWS * model.encoder.width  # of one token of each row
    assert max(x.size for x in stored if x.dtype == jnp.bfloat16) > 16 * tokens
    # Of the rows, not of weights; a stack of blocks has one more axis.
    wide = [x for x in stored if x.dtype == jnp.float32 and ROWS in x.shape[:2]]
    assert max((x.size for x in wide if x.shape[-1] not in (3, 9)), default=0) <= 4 * tokens


def test_gradients_with_what_is_computed_again_are_the_same():
    model = model_of("vit_ti16", scan=False)
    params, clips, mask = arguments(model)

    def gradient():
        def loss(params):
            return jnp.square(model.apply({"params": params}, clips, mask)).mean()

        return jax.jit(lambda: jax.grad(loss)(params))()

    expected = gradient()
    with mock.patch.object(layers, "device_of_trace") as device:
        device.return_value.platform = "tpu"
        found = gradient()
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())
