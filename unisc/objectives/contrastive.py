"""Losses that set a query's vector against items: softmax over a batch, over drawn items or over the catalogue, and sigmoid.

Every function returns one loss a row, in nats. `scale` is 1 / temperature. A softmax here estimates the one over the whole
catalogue if it is told with what probability a column came to be there: a column drawn from q stands for 1 / (draws x q) items,
so log(draws x q) is taken off its logit (Bengio and Senecal 2008, equation 9; in-batch items, drawn by popularity: Yi et al.,
RecSys 2019, section 4). The row's positive and its own hard negatives are there for certain and are not corrected (arXiv
2507.09331); they are taken out of the drawn columns, so that no item is counted twice. The estimate of the sum is then without
bias, and the loss and its gradient go to those of the full softmax as draws grow.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from unisc.errors import InputError
from unisc.nn.norm import unit_norm

Scale = Float[Array, ""] | float
PerRow = Float[Array, "B"]


class Hard(NamedTuple):
    """Negatives of each row's own: shown and not clicked, or mined; `mask` says which slots are filled."""

    vectors: Float[Array, "B K D"]
    ids: Int[Array, "B K"]
    mask: Bool[Array, "B K"]


def info_nce(
    queries: Float[Array, "B D"],
    items: Float[Array, "B D"],
    item_ids: Int[Array, "B"],
    *,
    scale: Scale,
    hard: Hard | None = None,
    log_prob: Float[Array, "B"] | None = None,
    known: Bool[Array, "B B"] | None = None,
) -> PerRow:
    """Set each row's positive (`items`) against its own hard negatives and the other rows' positives.

    `log_prob` is the log of each item's share of all positives, for the correction; without it every column counts alike.
    Columns that hold the row's positive, or one of its hard negatives, are left out, and so are those that `known` marks: other
    positives of the row.
    """
    positive = _dots("bd,bd->b", queries, items, scale)
    own = _own_logits(queries, hard, scale)
    blocked = _same(item_ids, hard, item_ids)
    blocked = blocked if known is None else blocked | known
    log_expected = None if log_prob is None else log_prob + jnp.log(jnp.float32(max(len(item_ids) - 1, 1)))
    return _cross_entropy(positive, own, _column_logits(queries, items, scale, blocked, log_expected))


def sampled_softmax(
    queries: Float[Array, "B D"],
    items: Float[Array, "B D"],
    item_ids: Int[Array, "B"],
    drawn: Float[Array, "C D"],
    drawn_ids: Int[Array, "C"],
    *,
    scale: Scale,
    log_prob: Float[Array, "C"],
    hard: Hard | None = None,
) -> PerRow:
    """Set each row's positive against its hard negatives and items drawn for all rows, each with log probability `log_prob`."""
    positive = _dots("bd,bd->b", queries, items, scale)
    own = _own_logits(queries, hard, scale)
    blocked = _same(item_ids, hard, drawn_ids)
    log_expected = log_prob + jnp.log(jnp.float32(len(drawn_ids)))
    return _cross_entropy(positive, own, _column_logits(queries, drawn, scale, blocked, log_expected))


def full_softmax(
    queries: Float[Array, "B D"], catalogue: Float[Array, "I D"], target: Int[Array, "B"], *, scale: Scale, chunk: int
) -> PerRow:
    """Set each row's target, a row of the catalogue, against all of it, exactly.

    Logits are made for `chunk` items at a time, and made again for the gradient: (B, chunk) of them exist at once.
    """
    num_items, dim = catalogue.shape
    pieces = -(-num_items // chunk)
    padded = jnp.pad(catalogue, ((0, pieces * chunk - num_items), (0, 0))).reshape(pieces, chunk, dim)
    real = (jnp.arange(pieces * chunk) < num_items).reshape(pieces, chunk)

    def total(piece: tuple[Array, Array]) -> Array:
        logits = _dots("bd,cd->bc", queries, piece[0], scale)
        return jax.nn.logsumexp(jnp.where(piece[1], logits, -jnp.inf), axis=1)

    totals = jax.lax.map(jax.checkpoint(total), (padded, real))
    return jax.nn.logsumexp(totals, axis=0) - _dots("bd,bd->b", queries, catalogue[target], scale)


def sigmoid_loss(
    queries: Float[Array, "B D"],
    items: Float[Array, "B D"],
    item_ids: Int[Array, "B"],
    *,
    scale: Scale,
    bias: Scale,
    hard: Hard | None = None,
    known: Bool[Array, "B B"] | None = None,
) -> PerRow:
    """Judge every pair on its own: -log sigmoid of +-(scale q.i + bias), summed over the columns (SigLIP, arXiv 2303.15343).

    Columns are those of `info_nce`. There is no sum over columns inside the logarithm, hence nothing to correct: `bias` learns
    how rare positives are.
    """
    positive = _dots("bd,bd->b", queries, items, scale) + bias
    own = _own_logits(queries, hard, scale) + bias
    blocked = _same(item_ids, hard, item_ids)
    blocked = blocked if known is None else blocked | known
    others = _column_logits(queries, items, scale, blocked, None) + bias
    negatives = jnp.concatenate([own, others], axis=1)  # a blocked one is -inf, whose softplus and slope are 0
    return jax.nn.softplus(-positive) + jnp.sum(jax.nn.softplus(negatives), axis=1)


def matryoshka(loss: Callable[..., PerRow], widths: Sequence[int], *vectors: Float[Array, "..."] | None) -> PerRow:
    """Average `loss(*vectors)` over prefixes of the vectors, each made a unit vector again (arXiv 2205.13147, equation 1).

    Raises:
      InputError: no width, or one that the vectors do not have.
    """
    dim = next(x.shape[-1] for x in vectors if x is not None)
    if not widths or min(widths) < 1 or max(widths) > dim:
        raise InputError(f"widths {tuple(widths)}: vectors have {dim} entries; give widths from 1 to {dim}")
    losses = [loss(*(None if x is None else unit_norm(x[..., :width]) for x in vectors)) for width in widths]
    return jnp.mean(jnp.stack(losses), axis=0)


def _own_logits(queries: Array, hard: Hard | None, scale: Scale) -> Float[Array, "B K"]:
    """Return the logits of each row's own negatives, -inf where there is none."""
    if hard is None:
        return jnp.zeros((len(queries), 0), jnp.float32)
    return jnp.where(hard.mask, _dots("bd,bkd->bk", queries, hard.vectors, scale), -jnp.inf)


def _column_logits(
    queries: Array, columns: Array, scale: Scale, blocked: Array, log_expected: Array | None
) -> Float[Array, "B C"]:
    logits = _dots("bd,cd->bc", queries, columns, scale)
    return jnp.where(blocked, -jnp.inf, logits if log_expected is None else logits - log_expected)


def _same(item_ids: Array, hard: Hard | None, columns: Array) -> Bool[Array, "B C"]:
    """Mark the columns that hold a row's positive or one of its own negatives; the row's own column is among them."""
    same = item_ids[:, None] == columns
    if hard is None:
        return same
    # Slot by slot: the comparisons fuse, and (B, K, C) of them are never laid down.
    for slot in range(hard.ids.shape[1]):
        same = same | ((hard.ids[:, slot, None] == columns) & hard.mask[:, slot, None])
    return same


def _cross_entropy(positive: Array, own: Array, columns: Array) -> PerRow:
    return jax.nn.logsumexp(jnp.concatenate([positive[:, None], own, columns], axis=1), axis=1) - positive


def _dots(equation: str, queries: Array, items: Array, scale: Scale) -> Float[Array, "..."]:
    """Return products as float32 logits, whatever type the vectors have."""
    return jnp.einsum(equation, queries, items, preferred_element_type=jnp.float32) * scale
