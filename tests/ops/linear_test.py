"""The fast forms against the plain ones."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskfeat_jax.ops.attention import attention
from maskfeat_jax.ops.linear import affine, gelu, layer_norm


def plain_affine(x, kernel, bias):
    return x @ kernel + bias


def plain_layer_norm(x, scale, bias, epsilon=1e-6):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + epsilon) * scale + bias


def arguments(*shapes):
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]


@pytest.mark.parametrize(
    ("fast", "plain", "shapes"),
    [
        (affine, plain_affine, [(3, 5, 7), (7, 11), (11,)]),
        (
            lambda *a: affine(*a, lambda kernel: kernel[:, ::-1]),
            lambda x, kernel, bias: plain_affine(x, kernel[:, ::-1], bias),
            [(3, 5, 7), (7, 11), (11,)],
        ),
        (layer_norm, plain_layer_norm, [(3, 5, 7), (7,), (7,)]),
        (
            lambda *a: layer_norm(*a, 0.3),
            lambda *a: plain_layer_norm(*a, 0.3),
            [(3, 5, 7), (7,), (7,)],
        ),
        (gelu, lambda x: nn.gelu(x, approximate=False), [(4, 9)]),
    ],
)
def test_values_and_gradients_equal_the_plain_form(fast, plain, shapes):
    inputs = arguments(*shapes)

    def loss(f):
        return lambda *a: jnp.sum(jnp.sin(f(*a)))

    every = tuple(range(len(inputs)))
    np.testing.assert_allclose(fast(*inputs), plain(*inputs), atol=1e-5)
    ours, expected = (jax.jit(jax.grad(loss(f), every))(*inputs) for f in (fast, plain))
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_bfloat16_goes_in_and_out_and_parameters_get_float32_gradients():
    x, kernel, bias = arguments((3, 16), (16, 8), (8,))
    x = x.astype(jnp.bfloat16)
    assert affine(x, kernel, bias).dtype == jnp.bfloat16
    assert layer_norm(x, jnp.ones(16), jnp.zeros(16)).dtype == jnp.bfloat16
    grads = jax.grad(lambda *a: affine(*a).astype(jnp.float32).sum(), (0, 1, 2))(x, kernel, bias)
    assert [g.dtype for g in grads] == [jnp.bfloat16, jnp.float32, jnp.float32]
    np.testing.assert_allclose(
        affine(x, kernel, bias).astype(jnp.float32), x @ kernel + bias, atol=0.1
    )


def test_attention_equals_jax_and_survives_large_logits():
    q, k, v = arguments((2, 5, 3, 8), (2, 7, 3, 8), (2, 7, 3, 8))
    np.testing.assert_allclose(attention(q, k, v), jax.nn.dot_product_attention(q, k, v), atol=1e-5)
    assert np.isfinite(np.asarray(attention(1e4 * q, 1e4 * k, v))).all()
