from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from maskfeat_jax import losses


def test_masked_mse_is_the_sum_over_masked_tokens_of_the_whole_batch():
    rng = np.random.default_rng(0)
    predicted, targets = rng.standard_normal((2, 2, 1, 3, 4, 5)).astype(np.float32)
    mask = rng.random((2, 1, 3, 4)) < 0.5
    total = losses.masked_mse(predicted, targets, mask)
    np.testing.assert_allclose(total, ((predicted - targets)[mask] ** 2).sum(), rtol=1e-6)
    changed = predicted + 7 * ~mask[..., None]
    np.testing.assert_allclose(losses.masked_mse(changed, targets, mask), total)


def test_soft_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    targets = jnp.array([[1.0, 0, 0], [0, 0.5, 0.5]])
    total = losses.soft_cross_entropy(logits, targets, jnp.array([1.0, 2.0]))
    by_hand = -np.log(0.5) - 2 * (0.5 * np.log(0.1) + 0.5 * np.log(0.8))
    np.testing.assert_allclose(total, by_hand, rtol=1e-6)


def test_hits_count_strictly_higher_classes_and_never_nan():
    logits = jnp.array([[3.0, 2, 1, 0], [1, 1, 1, 1], [jnp.nan, 0, 0, 0], [jnp.nan] * 4])
    labels = jnp.array([1, 2, 1, 1])
    assert losses.hits(logits, labels, 1).tolist() == [False, True, False, False]
    assert losses.hits(logits, labels, 2).tolist() == [True, True, True, False]
