"""Attention over a handful of tokens, over a masked sequence, and of a candidate over its request's history."""

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from unisc.dims import Heads

BASE_HEAD_DIM = 8

BLOCKED = -1e30
"""Added to the score of a key that must not be seen; finite, so that a query that sees none gets the mean of all values."""

QUERY_BLOCK = 128
"""Queries that read together where later ones read more."""


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


def masked_attention(
    q: Heads, k: Float[Array, "B S N H"], v: Float[Array, "B S N H"], blocked: Float[Array, "B #T S"] | None = None
) -> Heads:
    """Multi-head attention of T queries, already scaled, over S keys; `blocked` is BLOCKED for a key not to be seen, else 0.

    Without `blocked` all are seen.

    On a GPU one kernel that never writes the scores, where `fits_kernel` says so. On a CPU and a TPU
    `jax.nn.dot_product_attention` is the same matrix products as here, and slower on a CPU (BENCHMARKS.md).
    """
    if jax.default_backend() == "gpu" and fits_kernel(q, k):
        return fused_attention(q, k, v, blocked, implementation="cudnn")
    scores = query_key_products(q, k)
    (weights,), total = unnormalised_softmax(scores if blocked is None else scores + blocked[:, None])
    # The division waits until the keys are summed away: one pass less over the largest array of the model.
    return jnp.einsum("bnts,bsnh->btnh", weights, v) / total.swapaxes(1, 2)


def causal_attention(
    q: Heads, k: Float[Array, "B T K H"], v: Float[Array, "B T K H"], valid: Bool[Array, "B T"] | None = None
) -> Heads:
    """Grouped-query attention of a sequence over itself, each query, already scaled, reading the real keys up to its own.

    K key-value heads serve N query heads, N / K beside each other. Without `valid` every key is real. Queries go in blocks of
    QUERY_BLOCK, each with the keys up to its end alone, so that a long sequence costs little more than the half that is seen;
    on a GPU one kernel does that, where `fits_kernel` says so.
    """
    b, length, num_heads, head_dim = q.shape
    groups = num_heads // k.shape[2]
    if jax.default_backend() == "gpu" and fits_kernel(q, k):
        visible = None if valid is None else jnp.broadcast_to(valid[:, None, None], (b, 1, length, length))
        return jax.nn.dot_product_attention(q, k, v, mask=visible, scale=1.0, is_causal=True, implementation="cudnn")
    # Query heads that share keys stand beside each other as queries.
    folded = q.reshape(b, length, -1, groups, head_dim).swapaxes(2, 3)
    parts = []
    for start in range(0, length, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, length)
        seen = jnp.arange(end) <= jnp.arange(start, end)[:, None]
        seen = seen[None] if valid is None else seen & valid[:, None, :end]
        blocked = jnp.repeat(jnp.where(seen, 0.0, BLOCKED), groups, axis=1).astype(q.dtype)
        queries = folded[:, start:end].reshape(b, -1, k.shape[2], head_dim)
        (weights,), total = unnormalised_softmax(query_key_products(queries, k[:, :end]) + blocked[:, None])
        read = jnp.einsum("bnts,bsnh->btnh", weights, v[:, :end]) / total.swapaxes(1, 2)
        parts.append(read.reshape(b, end - start, groups, -1, head_dim))
    return jnp.concatenate(parts, axis=1).swapaxes(2, 3).reshape(q.shape)


@jax.custom_vjp
def query_key_products(q: Heads, k: Float[Array, "B S N H"]) -> Float[Array, "B N T S"]:
    """Return the product of every query with every key.

    The gradient of the keys multiplies from the left. As autodiff writes it, with the slopes transposed, XLA on a CPU leaves
    its fast matrix products for one of a third of their speed: a seventh of a training step (`benchmarks/train_step.py`).
    """
    return jnp.einsum("btnh,bsnh->bnts", q, k)


def _products_forward(q: Array, k: Array) -> tuple[Array, tuple[Array, Array]]:
    return query_key_products(q, k), (q, k)


def _products_backward(saved: tuple[Array, Array], slopes: Array) -> tuple[Array, Array]:
    q, k = saved
    by_key = jnp.matmul(q.transpose(0, 2, 3, 1), slopes)  # (B, N, H, S)
    return jnp.einsum("bnts,bsnh->btnh", slopes, k), by_key.transpose(0, 3, 1, 2)


query_key_products.defvjp(_products_forward, _products_backward)


def fits_kernel(q: Heads, k: Float[Array, "B S N H"]) -> bool:
    """Whether cuDNN's attention takes such arrays, and has scores to save that outnumber what they are made of."""
    queries, keys, head_dim = q.shape[1], k.shape[1], q.shape[3]
    takes = q.dtype in (jnp.bfloat16, jnp.float16) and head_dim % 8 == 0 and head_dim <= 128
    even = queries % 2 == keys % 2 == 0  # asked for where a mask is trained through
    return takes and even and queries * keys > (queries + 2 * keys) * head_dim


def fused_attention(
    q: Heads,
    k: Float[Array, "B S N H"],
    v: Float[Array, "B S N H"],
    blocked: Float[Array, "B #T S"] | None,
    *,
    implementation: Literal["xla", "cudnn"],
) -> Heads:
    """Return what `masked_attention` returns by way of `jax.nn.dot_product_attention`."""
    visible = None if blocked is None else jnp.broadcast_to(blocked == 0, (q.shape[0], q.shape[1], k.shape[1]))[:, None]
    return jax.nn.dot_product_attention(q, k, v, mask=visible, scale=1.0, implementation=implementation)


def unnormalised_softmax(*scores: Float[Array, "..."]) -> tuple[list[Float[Array, "..."]], Float[Array, "..."]]:
    """Return the exponentials of several groups of keys' scores and their common sum (..., 1); groups may be empty."""
    tops = [jnp.max(s, axis=-1, keepdims=True, initial=BLOCKED) for s in scores]
    top = jax.lax.stop_gradient(jnp.max(jnp.concatenate(tops, axis=-1), axis=-1, keepdims=True))
    exps = [jnp.exp(s - top) for s in scores]
    return exps, functools.reduce(jnp.add, [jnp.sum(e, axis=-1, keepdims=True) for e in exps])


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
