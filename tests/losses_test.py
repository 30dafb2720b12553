from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskfeat_jax import losses
from maskfeat_jax.ops.neighbours import unit

ONE, OTHER = np.array([[1.0, 2, 2], [0, 3, 4]]), np.array([[2.0, 0, 0], [0, 3, 4]])


def test_losses_of_tokens_by_hand():
    """data2vec's and BEiT's losses, worked out."""
    assert losses.MSE()(ONE, OTHER)["loss"].tolist() == [3, 0]
    np.testing.assert_allclose(losses.Cosine()(ONE, OTHER)["loss"], [4 / 3, 0], atol=1e-6)
    units = (unit(jnp.asarray(x)) for x in (ONE, OTHER))
    np.testing.assert_allclose(losses.MSE()(*units)["loss"], [4 / 9, 0], atol=1e-6)
    for beta, mean in ((2.0, 0.375), (1.0, 0.5833333)):
        np.testing.assert_allclose(losses.SmoothL1(beta)(ONE, OTHER)["loss"].mean(), mean, 1e-6)
    with pytest.raises(ValueError, match="beta=0 must be positive"):
        losses.SmoothL1(0)


def test_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    soft = jnp.array([[1.0, 0, 0], [0, 0.5, 0.5]])
    by_hand = [-np.log(0.5), -0.5 * np.log(0.1) - 0.5 * np.log(0.8)]
    np.testing.assert_allclose(losses.soft_cross_entropy(logits, soft), by_hand, rtol=1e-6)
    np.testing.assert_allclose(losses.SoftCrossEntropy()(logits, soft)["loss"], by_hand, rtol=1e-6)
    hard = losses.CrossEntropy(3)(logits, jnp.array([0, 1]))
    np.testing.assert_allclose(hard["loss"], [-np.log(0.5), -np.log(0.1)], rtol=1e-6)
    assert hard["accuracy"].tolist() == [1, 0]


def random_targets(loss):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 5, 4, 6, 7)).astype(np.float32) + 0.5
    if isinstance(loss, losses.CrossEntropy):
        return x.argmax(-1)
    if isinstance(loss, losses.SoftCrossEntropy):
        return jax.nn.softmax(x)
    return 0.2 * x if isinstance(loss, losses.SmoothL1) else x


@pytest.mark.parametrize(
    "loss",
    [
        losses.MSE(),
        losses.Cosine(),
        losses.SmoothL1(2.0),
        losses.CrossEntropy(7),
        losses.SoftCrossEntropy(),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_the_best_constant_has_that_loss_and_no_other_constant_a_lower_one(loss):
    targets = random_targets(loss)

    def mean(constant):
        return loss(jnp.broadcast_to(constant, (1, 5, 4, 6, 7)), targets)["loss"].mean()

    @jax.jit
    def descend(constant):
        return jax.lax.fori_loop(0, 4000, lambda _, x: x - 0.3 * jax.grad(mean)(x), constant)

    constant = descend(jnp.full(7, 0.1))
    statistics = loss.statistics(targets)
    means = {name: np.asarray(x, np.float64).mean((0, 1, 2, 3)) for name, x in statistics.items()}
    best = loss.best_constant(means)
    np.testing.assert_allclose(mean(constant), best["loss"], rtol=1e-3)
    assert set(best) == set(loss(jnp.zeros((1, 5, 4, 6, 7)), targets))


def test_a_weighted_sum_of_losses():
    first, second = losses.MSE(), losses.CrossEntropy(2)
    parts = {"b": losses.Part(first, 3, 0.25), "a": losses.Part(second, 2, 0.75)}
    total = losses.Weighted(parts)
    logits = np.array([[0.1, 0.7], [2, 1.0]])
    targets = {"a": np.array([0, 1]), "b": OTHER}
    found = total(np.concatenate([ONE, logits], -1), targets)
    mse, hard = first(ONE, OTHER)["loss"], second(logits, targets["a"])
    np.testing.assert_allclose(found["loss"], 0.25 * mse + 0.75 * hard["loss"])
    np.testing.assert_allclose(found["loss_b"], mse)
    np.testing.assert_allclose(found["accuracy_a"], hard["accuracy"])
    means = {name: np.asarray(x).mean(0) for name, x in total.statistics(targets).items()}
    best = total.best_constant(means)
    np.testing.assert_allclose(best["loss_a"], np.log(2))
    np.testing.assert_allclose(best["loss"], 0.25 * OTHER.var(0).mean() + 0.75 * np.log(2))
    assert best["accuracy_a"] == 0.5


def test_hits_count_strictly_higher_classes_and_never_nan():
    logits = jnp.array([[3.0, 2, 1, 0], [1, 1, 1, 1], [jnp.nan, 0, 0, 0], [jnp.nan] * 4])
    labels = jnp.array([1, 2, 1, 1])
    assert losses.hits(logits, labels, 1).tolist() == [False, True, False, False]
    assert losses.hits(logits, labels, 2).tolist() == [True, True, True, False]
