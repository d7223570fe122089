"""Pointwise ranking loss: weighted binary cross-entropy over tasks, candidates and domains."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Scalar = Float[Array, ""]


class RankingLoss(NamedTuple):
    """The mean to minimise, and the float32 sums per task whose ratio is a task's mean (sums add up over batches)."""

    mean: Scalar
    loss_sum: Float[Array, "tasks"]
    weight_sum: Float[Array, "tasks"]


def ranking_loss(
    logits: Float[Array, "B tasks"],
    labels: Float[Array, "B tasks"],
    weights: Float[Array, "B tasks"],
    *,
    domain: Int[Array, "B"] | None = None,
    domain_weights: Float[Array, "domains"] | None = None,
    task_weights: Float[Array, "tasks"] | None = None,
) -> RankingLoss:
    """Average -[y log p + (1 - y) log(1 - p)], p = sigmoid(logits), in nats, over everything of positive weight.

    One sample's weight is weights x domain_weights[domain] x task_weights. Labels may be soft. The mean is over all tasks and
    domains together, so that a domain counts by its samples; a batch of no weight has loss 0.
    """
    if domain_weights is not None:
        if domain is None:
            raise TypeError("domain_weights need domain, the domain of each candidate")
        weights = weights * domain_weights[domain][:, None]
    if task_weights is not None:
        weights = weights * task_weights
    # softplus(x) - xy is the cross-entropy without forming p, so that no logit overflows.
    losses = jax.nn.softplus(logits) - logits * labels
    loss_sum, weight_sum = jnp.sum(losses * weights, axis=0), jnp.sum(weights, axis=0)
    total = jnp.sum(weight_sum)
    return RankingLoss(jnp.sum(loss_sum) / jnp.where(total > 0, total, 1.0), loss_sum, weight_sum)


def bce(logits: Float[Array, "B tasks"], labels: Float[Array, "B tasks"], weights: Float[Array, "B tasks"]) -> Scalar:
    """Return the weighted mean cross-entropy alone, in nats."""
    return ranking_loss(logits, labels, weights).mean
