from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskfeat_jax.ops import attention as attention_module
from maskfeat_jax.ops.attention import at_once, attention, in_chunks


def arguments(queries=150, keys=11, heads=3, d=5, e=4, dtype=np.float32):
    rng = np.random.default_rng(0)
    shapes = (heads, queries, d), (heads, keys, d), (heads, keys, e), (heads, queries, e)
    return [jnp.asarray(2 * rng.standard_normal((2, *shape)), dtype) for shape in shapes]


@pytest.mark.parametrize("queries", [1, 64, 150])
def test_chunks_equal_the_whole(queries, monkeypatch):
    monkeypatch.setattr(attention_module, "CHUNK", 1)  # the smallest chunks there are
    q, k, v, g = arguments(queries)
    expected, plain = jax.vjp(at_once, q, k, v)
    found, chunked = jax.vjp(in_chunks, q, k, v)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for a, b in zip(chunked(g), plain(g), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_chunks_of_bfloat16_are_as_near_as_the_whole():
    q, k, v, g = arguments(dtype=jnp.bfloat16)
    exact, _ = jax.vjp(at_once, *(x.astype(jnp.float32) for x in (q, k, v)))
    found, gradient = jax.vjp(in_chunks, q, k, v)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, exact, atol=0.05)
    assert [x.dtype for x in gradient(g.astype(jnp.float32))] == [jnp.bfloat16] * 3


def test_large_attention_takes_the_chunks(monkeypatch):
    q, k, v, _ = arguments()
    q, k, v = (jnp.moveaxis(x, 1, 2) for x in (q, k, v))
    small = attention(q, k, v)
    monkeypatch.setattr(attention_module, "LARGE", 10)
    monkeypatch.setattr(attention_module, "CHUNK", 1)
    np.testing.assert_allclose(attention(q, k, v), small, atol=1e-5)
    text = jax.jit(attention).lower(q, k, v).as_text()
    assert "while" in text
    # Rows that fill the last chunk up are no reason for a number that is not finite.
    grads = jax.grad(lambda *x: attention(*x).sum(), (0, 1, 2))(1e4 * q, 1e4 * k, v)
    assert all(np.isfinite(np.asarray(x)).all() for x in grads)
