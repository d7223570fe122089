"""Losses of predicting the next item at every place of a sequence.

- `binary`: the item taken against one drawn at random, each a logistic loss, as SASRec was published (arXiv 1808.09781, eq. 4).
- `softmax`: cross-entropy over the whole catalogue. The model is the same; with it SASRec passes BERT4Rec (arXiv 2309.07602),
  since one negative a place overstates the probability of items (arXiv 2308.07192).
- `sampled_softmax`: the same with the catalogue's sum estimated from uniform draws that all places share.

A loss is a mean over the places of `weights` 1. `scale` multiplies inner products.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from unisc.objectives import contrastive


def binary(
    hidden: Float[Array, "B T D"],
    vectors: Float[Array, "I D"],
    targets: Int[Array, "B T"],
    negatives: Int[Array, "B T"],
    weights: Float[Array, "B T"],
    *,
    scale: float = 1.0,
) -> Float[Array, ""]:
    """Return the mean of -log sigmoid(target) - log sigmoid(-negative), by scores; a target drawn as negative is none."""
    taken = jnp.einsum("btd,btd->bt", hidden, vectors[targets]) * scale
    drawn = jnp.einsum("btd,btd->bt", hidden, vectors[negatives]) * scale
    against = jnp.where(negatives == targets, 0.0, jax.nn.softplus(drawn))
    return _mean(jax.nn.softplus(-taken) + against, weights)


def softmax(
    hidden: Float[Array, "B T D"],
    vectors: Float[Array, "I D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
    *,
    scale: float = 1.0,
) -> Float[Array, ""]:
    """Return the mean cross-entropy over all items."""
    flat = hidden.reshape(-1, hidden.shape[-1]) * scale
    logits = jnp.einsum("pd,id->pi", flat, vectors).astype(jnp.float32)
    taken = jnp.take_along_axis(logits, targets.reshape(-1, 1), axis=1)[:, 0]
    return _mean((jax.nn.logsumexp(logits, axis=-1) - taken).reshape(targets.shape), weights)


def sampled_softmax(
    hidden: Float[Array, "B T D"],
    vectors: Float[Array, "I D"],
    targets: Int[Array, "B T"],
    negatives: Int[Array, "B K"],
    weights: Float[Array, "B T"],
    *,
    scale: float = 1.0,
) -> Float[Array, ""]:
    """Return the mean cross-entropy of the target against all B x K draws, which stand for the other items.

    Each draw counts for items / draws of them; one that is a place's target is none of its negatives.
    """
    drawn, log_prob = negatives.reshape(-1), jnp.full(negatives.size, -math.log(len(vectors)), jnp.float32)
    losses = contrastive.sampled_softmax(
        hidden.reshape(-1, hidden.shape[-1]),
        vectors[targets.reshape(-1)],
        targets.reshape(-1),
        vectors[drawn],
        drawn,
        scale=scale,
        log_prob=log_prob,
    )
    return _mean(losses.reshape(targets.shape), weights)


def _mean(losses: Float[Array, "B T"], weights: Float[Array, "B T"]) -> Float[Array, ""]:
    wide = weights.astype(jnp.float32)
    return jnp.sum(losses.astype(jnp.float32) * wide) / jnp.maximum(jnp.sum(wide), 1.0)
