"""The ranking loss against a slow reference, at extremes, and its weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unisc.objectives.ranking import bce, ranking_loss


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    logits, labels, weights = rng.normal(size=(8, 2)) * 2, rng.random((8, 2)) < 0.4, rng.random((8, 2))
    return tuple(jnp.asarray(x, jnp.float32) for x in (logits, labels, weights))


def slow(logits, labels, weights):
    p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    losses = -(labels * np.log(p) + (1 - labels) * np.log(1 - p))
    return (losses * weights).sum() / weights.sum()


def test_it_is_the_weighted_mean_cross_entropy(sample):
    result = ranking_loss(*sample)
    assert result.mean == pytest.approx(slow(*map(np.asarray, sample)), rel=1e-6)
    assert result.mean.dtype == jnp.float32
    assert result.loss_sum.sum() / result.weight_sum.sum() == pytest.approx(float(result.mean), rel=1e-6)
    assert bce(*sample) == result.mean


def test_domain_and_task_weights_multiply(sample):
    logits, labels, weights = sample
    domain = jnp.asarray([0, 1, 2, 0, 1, 2, 0, 1], jnp.int32)
    by_domain, by_task = jnp.asarray([1.0, 0.5, 0.0]), jnp.asarray([1.0, 3.0])
    weighted = np.asarray(weights) * np.asarray(by_domain)[np.asarray(domain)][:, None] * np.asarray(by_task)
    result = ranking_loss(logits, labels, weights, domain=domain, domain_weights=by_domain, task_weights=by_task)
    assert result.mean == pytest.approx(slow(np.asarray(logits), np.asarray(labels), weighted), rel=1e-6)
    with pytest.raises(TypeError, match="domain"):
        ranking_loss(logits, labels, weights, domain_weights=by_domain)


def test_padding_has_neither_loss_nor_gradient(sample):
    logits, labels, weights = sample
    padded = weights.at[5:].set(0.0)
    grad = jax.grad(bce)(logits, labels, padded)
    assert not np.any(grad[5:]) and np.all(grad[:5] != 0)
    assert bce(logits, labels, padded) == pytest.approx(float(bce(logits[:5], labels[:5], weights[:5])), rel=1e-6)
    assert bce(logits, labels, jnp.zeros_like(weights)) == 0


def test_extreme_logits_stay_finite_with_the_right_slope():
    logits = jnp.asarray([[1e4], [-1e4], [0.0]])
    labels, weights = jnp.asarray([[0.0], [1.0], [1.0]]), jnp.ones((3, 1))
    value, grad = jax.value_and_grad(lambda x: 3 * bce(x, labels, weights))(logits)
    assert value == pytest.approx(2e4, rel=1e-4)
    np.testing.assert_allclose(grad, [[1.0], [-1.0], [-0.5]])
