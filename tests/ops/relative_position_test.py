from __future__ import annotations

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskfeat_jax.ops.relative_position import relative_attention, resize_table

GRIDS = [  # queries, keys
    ((2, 4, 4), (2, 4, 4)),
    ((2, 8, 6), (2, 4, 3)),
    ((3, 4, 3), (3, 8, 6)),
    ((1, 5, 39), (1, 5, 10)),
    ((2, 10, 10), (2, 3, 3)),
]


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def inputs(q_grid, k_grid, heads=2, d=4, b=2, rows=None):
    rng = np.random.default_rng(0)
    queries, keys = (1 + int(np.prod(grid)) for grid in (q_grid, k_grid))
    q, k, v = (rng.standard_normal((b, n, heads, d)) for n in (queries, keys, keys))
    lengths = rows or [2 * max(pair) - 1 for pair in zip(q_grid, k_grid, strict=True)]
    return q, k, v, tuple(rng.standard_normal((n, d)) for n in lengths)


def plain(q, k, v, tables, q_grid, k_grid):
    """Attention with an explicit bias for every pair of patches."""
    d = q.shape[-1]
    logits = jnp.einsum("bqnd,bknd->bnqk", q, k) * d**-0.5
    of_query, of_key = (np.indices(grid).reshape(3, -1) for grid in (q_grid, k_grid))
    embedding = 0
    for axis, table in enumerate(tables):
        size, keys = q_grid[axis], k_grid[axis]
        stretch, other = max(keys / size, 1), max(size / keys, 1)
        i, j = of_query[axis][:, None], of_key[axis][None]
        embedding = embedding + table[(i * stretch + (keys - 1 - j) * other).astype(int)]
    bias = jnp.einsum("bqnd,qkd->bnqk", q[:, 1:], embedding)
    logits = logits.at[:, :, 1:, 1:].add(bias)
    return jnp.einsum("bnqk,bknd->bqnd", jax.nn.softmax(logits), v)


def check(q_grid, k_grid):
    arguments = inputs(q_grid, k_grid)

    @functools.partial(jax.jit, static_argnums=0)
    def run(attend, *arguments):
        y, gradients = jax.vjp(lambda *a: attend(*a, q_grid, k_grid), *arguments)
        return jax.tree.leaves((y, gradients(jnp.sin(jnp.arange(y.size)).reshape(y.shape))))

    for ours, expected in zip(
        run(relative_attention, *arguments), run(plain, *arguments), strict=True
    ):
        np.testing.assert_allclose(ours, expected, atol=1e-10)


@pytest.mark.parametrize(("q_grid", "k_grid"), GRIDS)
def test_equals_a_bias_of_every_pair_and_so_do_gradients(q_grid, k_grid):
    check(q_grid, k_grid)


@hypothesis.settings(deadline=None, max_examples=4)
@hypothesis.given(
    frames=st.integers(1, 3),
    queries=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    keys=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_any_grids(frames, queries, keys):
    check((frames, *queries), (frames, *keys))


def test_tables_of_another_length_are_resized_linearly():
    table = np.array([[0.0], [1.0], [2.0]])
    centres = (np.arange(6) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(resize_table(table, 6)[:, 0], centres.clip(0, 2))
    np.testing.assert_allclose(resize_table(np.arange(6.0)[:, None], 3)[:, 0], [0.5, 2.5, 4.5])
    q_grid = k_grid = (1, 4, 3)
    q, k, v, tables = inputs(q_grid, k_grid, rows=(1, 3, 9))
    resized = tuple(
        resize_table(table, 2 * size - 1) for table, size in zip(tables, q_grid, strict=True)
    )
    np.testing.assert_allclose(
        relative_attention(q, k, v, tables, q_grid, k_grid),
        plain(q, k, v, resized, q_grid, k_grid),
        atol=1e-12,
    )


def test_bfloat16_is_close():
    q_grid, k_grid = (2, 8, 8), (2, 4, 4)
    arguments = inputs(q_grid, k_grid, d=16)
    low = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), arguments)
    y = relative_attention(*low, q_grid, k_grid)
    assert y.dtype == jnp.bfloat16
    expected = plain(*jax.tree.map(lambda x: x.astype(float), low), q_grid, k_grid)
    # Terms of the bias are rounded to bfloat16: of size 16 here, so that weights move by 3 %.
    np.testing.assert_allclose(y.astype(float), expected, atol=0.2)
    assert np.abs(y.astype(float) - expected).mean() < 0.02


def test_tokens_that_do_not_fit_the_grid_are_refused():
    q, k, v, tables = inputs((2, 3, 3), (2, 3, 3))
    with pytest.raises(
        ValueError, match=r"19 keys are not a class token and a grid of \(2, 3, 4\)"
    ):
        relative_attention(q, k, v, tables, (2, 3, 3), (2, 3, 4))
