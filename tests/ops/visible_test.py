from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from maskfeat_jax.ops.visible import put_visible, take_visible, visible_tokens


@given(st.integers(1, 4), st.integers(1, 12), st.data())
@settings(max_examples=30, deadline=None)
def test_takes_out_and_puts_back_in_order(batch, tokens, data):
    count = data.draw(st.integers(1, tokens))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    mask = np.ones((batch, tokens), bool)
    for row in mask:
        row[rng.permutation(tokens)[:count]] = False
    x = rng.standard_normal((batch, tokens, 3)).astype(np.float32)
    visible = visible_tokens(mask.reshape(batch, 1, 1, tokens), count)
    taken = np.asarray(take_visible(x, visible))
    np.testing.assert_array_equal(taken, x[~mask].reshape(batch, count, 3))
    np.testing.assert_array_equal(put_visible(taken, visible), np.where(mask[..., None], 0, x))


def test_gradients_are_those_of_the_plain_forms():
    rng = np.random.default_rng(0)
    mask = np.array([[True, False, False, True, False], [False, False, True, True, False]])
    visible = visible_tokens(mask.reshape(2, 1, 1, 5), 3)
    x, few = rng.standard_normal((2, 5, 4)), rng.standard_normal((2, 3, 4))
    weights, other = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 5, 4))

    def plain_take(x):
        return jnp.stack([x[i][np.flatnonzero(~mask[i])] for i in range(2)])

    def plain_put(few):
        zeros = jnp.zeros((5, 4))
        return jnp.stack([zeros.at[np.flatnonzero(~mask[i])].set(few[i]) for i in range(2)])

    for ours, plain, value, weight in (
        (take_visible, plain_take, x, weights),
        (put_visible, plain_put, few, other),
    ):
        found = jax.grad(lambda v, f=ours, w=weight: jnp.sum(f(v, visible) * w))(value)
        expected = jax.grad(lambda v, f=plain, w=weight: jnp.sum(f(v) * w))(value)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
