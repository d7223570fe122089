"""The language model's loss: cross-entropy of the next token, with logits of a few positions at a time.

The logits of a whole batch, (B, T, V) in float32, would be the largest array of a training step. Here a chunk of positions gets
its logits, its loss and, where a gradient is wanted, at once what the gradient needs of them, (B, T, D) and (V, D); then they
are forgotten. The gradient thus costs the usual three products of the head and no second pass.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Scalar = Float[Array, ""]


class LanguageLoss(NamedTuple):
    """The mean to minimise, in nats a token, and the sum of weights that it is a mean of."""

    mean: Scalar
    num_tokens: Scalar


def next_token_loss(
    hidden: Float[Array, "B T D"],
    vectors: Float[Array, "V D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
    *,
    chunk: int,
) -> LanguageLoss:
    """Average -log softmax(hidden vectors^T)[target] by weights; a batch of no weight has loss 0.

    `vectors` are what logits are products with (`Decoder.output_vectors`). `targets[:, t]` is the token that `hidden[:, t]` is
    to foresee: token t + 1 of the row. Logits, their softmax and the sums are float32; `chunk` positions of every row have
    theirs at one time.
    """
    num_tokens = jnp.sum(weights.astype(jnp.float32))
    total = _loss_sum(hidden, vectors, targets, weights.astype(jnp.float32), chunk)
    return LanguageLoss(total / jnp.where(num_tokens > 0, num_tokens, 1.0), num_tokens)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _loss_sum(hidden: Array, vectors: Array, targets: Array, weights: Array, chunk: int) -> Scalar:
    def add(total: Scalar, part: Any) -> tuple[Scalar, None]:
        h, t, w = part
        losses, _, _ = _chunk_losses(h, vectors, t)
        return total + jnp.sum(losses * w), None

    return jax.lax.scan(add, jnp.zeros(()), _chunks((hidden, targets, weights), chunk))[0]


def _forward(hidden: Array, vectors: Array, targets: Array, weights: Array, chunk: int) -> tuple[Scalar, Any]:
    def add(so_far: Any, part: Any) -> tuple[Any, Any]:
        (total, by_vectors), (h, t, w) = so_far, part
        losses, exps, sums = _chunk_losses(h, vectors, t)
        is_target = jax.lax.broadcasted_iota(t.dtype, exps.shape, 2) == t[..., None]
        slopes = (exps * (w / sums)[..., None] - jnp.where(is_target, w[..., None], 0.0)).astype(h.dtype)
        by_hidden = jnp.einsum("btv,vd->btd", slopes, vectors.astype(h.dtype))
        rows = slopes.reshape(-1, len(vectors)), h.reshape(-1, h.shape[-1])  # as in `product`: one axis is contracted faster
        by_vectors += jnp.einsum("nv,nd->vd", *rows, preferred_element_type=jnp.float32)
        return (total + jnp.sum(losses * w), by_vectors), (by_hidden, losses)

    start = jnp.zeros(()), jnp.zeros(vectors.shape, jnp.float32)
    (total, by_vectors), parts = jax.lax.scan(add, start, _chunks((hidden, targets, weights), chunk))
    by_hidden, losses = (jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])[:, : hidden.shape[1]] for x in parts)
    return total, (by_hidden, by_vectors.astype(vectors.dtype), losses)


def _backward(chunk: int, saved: Any, slope: Scalar) -> tuple[Array, Array, None, Array]:
    by_hidden, by_vectors, losses = saved
    return by_hidden * slope.astype(by_hidden.dtype), by_vectors * slope.astype(by_vectors.dtype), None, losses * slope


_loss_sum.defvjp(_forward, _backward)


def _chunk_losses(hidden: Array, vectors: Array, targets: Array) -> tuple[Array, Array, Array]:
    """Return each token's loss, and exponentials of its logits with their sum."""
    logits = jnp.einsum("btd,vd->btv", hidden, vectors.astype(hidden.dtype), preferred_element_type=jnp.float32)
    top = jnp.max(logits, axis=-1, keepdims=True)
    exps = jnp.exp(logits - top)
    sums = jnp.sum(exps, axis=-1)
    own = jnp.take_along_axis(logits, targets[..., None], axis=-1)
    return jnp.log(sums) - (own - top)[..., 0], exps, sums


def _chunks(arrays: tuple[Array, ...], chunk: int) -> tuple[Array, ...]:
    """Cut (B, T, ...) into (T / chunk, B, chunk, ...), the last chunk filled up with what has no weight."""
    length = arrays[0].shape[1]
    size = min(chunk, length)
    missing = -length % size

    def cut(x: Array) -> Array:
        if missing:
            x = jnp.pad(x, ((0, 0), (0, missing)) + ((0, 0),) * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], -1, size, *x.shape[2:]), 1, 0)

    return tuple(cut(x) for x in arrays)
