"""Attention over a handful of tokens, and attention of a candidate over its request's history."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from unisc.dims import Heads

BASE_HEAD_DIM = 8


def score_scale(head_dim: int) -> float:
    """Return the factor on query-key products: 1/sqrt(d) at d = 8 and falling as 1/d.

    Trained queries and keys align, so their product grows as d; 1/d keeps attention equally sharp at every width
    (arXiv 2203.03466, section 4), which a comparison across widths needs.
    """
    return math.sqrt(BASE_HEAD_DIM) / head_dim


def attention(q: Heads, k: Float[Array, "B S N H"], v: Float[Array, "B S N H"]) -> Heads:
    """Multi-head attention of T queries over S keys, no mask."""
    scores = jnp.einsum("btnh,bsnh->bnts", q, k) * score_scale(q.shape[-1])
    return jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(scores, axis=-1), v)


def sink_attention(scores: Float[Array, "B S"], mask: Bool[Array, "B S"], values: Float[Array, "B S D"]) -> Float[Array, "B D"]:
    """Pool values by softmax over the entries and one empty entry of score 0 and value 0.

    The empty entry lets a query match nothing, so the pooled length tells how well anything matched; with every entry masked
    the result is exactly zero.
    """
    return jnp.einsum("bs,bsd->bd", _sink_weights(scores, mask), values)


def list_sink_attention(
    queries: Float[Array, "R C D"], entries: Float[Array, "R S D"], mask: Bool[Array, "R S"]
) -> Float[Array, "R C D"]:
    """Pool each request's entries for each of its candidates as `sink_attention` does; the entries stay one copy a request."""
    scores = jnp.einsum("rcd,rsd->rcs", queries, entries)
    weights = _sink_weights(scores, jnp.broadcast_to(mask[:, None], scores.shape))
    return jnp.einsum("rcs,rsd->rcd", weights, entries)


def _sink_weights(scores: Float[Array, "*batch S"], mask: Bool[Array, "*batch S"]) -> Float[Array, "*batch S"]:
    top = jax.lax.stop_gradient(jnp.max(jnp.where(mask, scores, 0.0), axis=-1, keepdims=True, initial=0.0))
    exps = jnp.where(mask, jnp.exp(jnp.where(mask, scores, 0.0) - top), 0.0)
    return exps / (jnp.sum(exps, axis=-1, keepdims=True) + jnp.exp(-top))
