from __future__ import annotations

import numpy as np
import pytest

from maskfeat_jax.ops.neighbours import nearest, unit, vote


def plain(queries, features, labels, k, classes, temperature):
    """One query after the other, with sorted cosines."""
    votes = np.zeros((len(queries), classes))
    for i, query in enumerate(queries):
        similarity = features @ query
        for j in np.argsort(-similarity)[:k]:
            votes[i, labels[j]] += np.exp(similarity[j] / temperature)
    return votes / votes.sum(1, keepdims=True)


@pytest.mark.parametrize("shards", [1, 2, 5])
@pytest.mark.parametrize("k", [1, 7, 33])
def test_shards_vote_like_the_whole_bank(shards, k):
    rng = np.random.default_rng(k)
    features = np.asarray(unit(rng.standard_normal((33, 6)).astype(np.float32)))
    queries = np.asarray(unit(rng.standard_normal((4, 6)).astype(np.float32)))
    labels = rng.integers(0, 3, 33).astype(np.int32)
    missing = -33 % shards
    bank = np.concatenate([features, np.zeros((missing, 6), np.float32)]).reshape(shards, -1, 6)
    bank_labels = np.concatenate([labels, np.full(missing, -1, np.int32)]).reshape(shards, -1)
    similarity, found = nearest(queries, bank, bank_labels, k)
    assert similarity.shape == (4, k)
    expected = plain(queries, features, labels, k, 3, 0.07)
    np.testing.assert_allclose(vote(similarity, found, 3, 0.07), expected, rtol=1e-4, atol=1e-6)


def test_length_one():
    np.testing.assert_allclose(unit(np.array([[3.0, 4.0]])), [[0.6, 0.8]], rtol=1e-6)
    assert np.isfinite(np.asarray(unit(np.zeros((1, 3))))).all()
