"""Exact retrieval by inner product over a whole catalogue, on the device, and what of the targets it finds.

Queries come in blocks of one shape, the last one padded, so that a program is compiled once. The products are float32 at the
highest precision the device has, so that a score does not hang on the block it was computed in beyond rounding.
"""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int64

from unisc import metrics
from unisc.data.interests import Examples
from unisc.data.ragged import Ragged
from unisc.errors import InputError

SCORES_AT_ONCE = 1 << 22
"""Scores of a block, so many floats, where the caller names no block."""

Pairs = Int[np.ndarray, "2 P"]
"""(query, item) by column."""


def exact_top(
    queries: Float[np.ndarray, "N D"], items: Float[np.ndarray, "I D"], k: int, *, known: Ragged | None = None, block: int = 0
) -> tuple[Float32[np.ndarray, "N k"], Int64[np.ndarray, "N k"]]:
    """Return the scores and rows of the k items of highest inner product for each query, best first, equal scores by row.

    `known` holds for each query the item rows never to return; where fewer than k are left, the rest is row -1 at score -inf.
    A `block` is so many queries at once; 0 takes about SCORES_AT_ONCE scores.

    Raises:
      InputError: vectors that are no numbers or of two widths, k beyond the catalogue, a known row that it does not have.
    """
    check_vectors(queries, "queries")
    check_vectors(items, "items", like=queries)
    if not 0 < k <= len(items):
        raise InputError(f"k {k}: of {len(items)} items; give a number from 1 to that")
    hidden = pairs_of(known, len(queries), len(items))
    block = _block_size(block, len(items), len(queries))
    best = _top_on_host if jax.default_backend() == "cpu" else _top_on_device
    found = [best(_masked(part, on_device, own), k) for part, on_device, own in _blocks(queries, items, hidden, block)]
    scores = np.concatenate([np.zeros((0, k), np.float32), *(s for s, _ in found)])[: len(queries)]
    rows = np.concatenate([np.zeros((0, k), np.int64), *(r for _, r in found)])[: len(queries)]
    return scores, np.where(np.isneginf(scores), -1, rows)


def target_ranks(
    queries: Float[np.ndarray, "N D"],
    items: Float[np.ndarray, "I D"],
    targets: Ragged,
    *,
    known: Ragged | None = None,
    block: int = 0,
) -> tuple[Int64[np.ndarray, "F"], Int64[np.ndarray, "F"]]:
    """Return the rank, from 1, of every target among all items, and the query that it belongs to; a target counts once.

    A tie is broken against the target, as in `unisc.metrics.ranks`: other items of its score come first, and of two targets the
    one of the lower row. `known` items are not ranked, unless they are targets.

    Raises:
      InputError: as `exact_top`, and a query without a target.
    """
    check_vectors(queries, "queries")
    check_vectors(items, "items", like=queries)
    pairs = pairs_of(targets, len(queries), len(items), name="targets").astype(np.int64)
    query, row = np.divmod(np.unique(pairs[0] * len(items) + pairs[1]), len(items))
    lengths = np.bincount(query, minlength=len(queries))
    if (lengths == 0).any():
        raise InputError(f"targets: query {int(np.argmin(lengths))} has none; leave such queries out")
    # Queries of few targets first: a block's work is that of its longest row.
    order = np.argsort(lengths, kind="stable")
    rows = Ragged.laid(row, lengths).take(order)
    group, longest = np.repeat(order, lengths[order]), int(lengths.max(initial=0))
    hidden = pairs_of(known, len(queries), len(items))
    hidden[0] = np.argsort(order)[hidden[0]]
    hidden = hidden[:, np.argsort(hidden[0], kind="stable")]
    block = _block_size(block, len(items), len(queries))
    score, count = np.zeros(len(group), np.float32), np.zeros(len(group), np.int64)
    for index, (part, on_device, own) in enumerate(_blocks(np.asarray(queries)[order], items, hidden, block)):
        here = np.arange(index * block, min((index + 1) * block, len(queries)))
        columns, real = np.zeros((block, longest), np.int32), np.zeros((block, longest), bool)
        columns[: len(here)], real[: len(here)] = rows.padded(here, longest, keep="first")
        own_score, at_least = _count(part, on_device, own, columns, real, real.sum(axis=1).max())
        flat = slice(rows.offsets[here[0]], rows.offsets[here[-1] + 1])
        score[flat], count[flat] = np.asarray(own_score)[real], np.asarray(at_least)[real]
    # Targets of one query and score were counted for each other; those of higher rows stand behind.
    by = np.lexsort((rows.values, -score, group))
    group, score, rank = group[by], score[by], count[by]
    last = np.append((group[1:] != group[:-1]) | (score[1:] != score[:-1]), True)
    rank -= np.flatnonzero(last)[np.cumsum(last) - last] - np.arange(len(rank))
    return rank, group


def recall_metrics(
    queries: Float[np.ndarray, "N D"],
    items: Float[np.ndarray, "I D"],
    examples: Examples,
    *,
    ks: Sequence[int],
    known: Ragged | None = None,
    block: int = 0,
) -> dict[str, Float[np.ndarray, "N"]]:
    """Return for each example `recall@k`, `hr@k`, `ndcg@k` and `mrr@k` over the whole catalogue (`unisc.metrics.found_at`).

    `known`, by user, are item rows left out of the ranking; targets never are.

    Raises:
      InputError: as `target_ranks`, another number of queries than examples, or a k below 1.
    """
    if len(queries) != len(examples.user):
        raise InputError(f"queries: {len(queries)} for {len(examples.user)} examples; give one each")
    if min(ks, default=0) < 1:
        raise InputError(f"ks {tuple(ks)}: give numbers of at least 1")
    if known is not None and examples.user.max(initial=-1) >= known.num_rows:
        raise InputError(f"known: rows of {known.num_rows} users, but examples of user {examples.user.max()}; give all users'")
    hidden = None if known is None else known.take(examples.user)
    return found_metrics(*target_ranks(queries, items, examples.targets, known=hidden, block=block), ks=ks)


def found_metrics(
    rank: Int64[np.ndarray, "F"], group: Int64[np.ndarray, "F"], *, ks: Sequence[int]
) -> dict[str, Float[np.ndarray, "N"]]:
    """Return the metrics of what `target_ranks` returned, by name and k, one value a query."""
    num_targets, out = np.bincount(group), {}
    for k in ks:
        out |= {f"{name}@{k}": values for name, values in metrics.found_at(k, rank, group, num_targets).items()}
    return out


def check_vectors(x: np.ndarray, name: str, *, like: np.ndarray | None = None) -> None:
    """Check that vectors are a matrix of finite numbers, of the width of `like`. Raises InputError."""
    if x.ndim != 2 or not x.shape[1]:
        raise InputError(f"{name}: shape {x.shape}; give one vector a row")
    if like is not None and x.shape[1] != like.shape[1]:
        raise InputError(f"{name}: width {x.shape[1]} against {like.shape[1]}; give vectors of one width")
    bad = ~np.isfinite(np.asarray(x)).all(axis=1)
    if bad.any():
        raise InputError(f"{name}: vector {int(np.argmax(bad))} has a value that is not a finite number; give numbers")


def pairs_of(ragged: Ragged | None, num_queries: int, num_items: int, *, name: str = "known") -> Pairs:
    """Return (query, item) by column. Raises InputError for another number of rows, or an item out of range."""
    if ragged is None:
        return np.zeros((2, 0), np.int32)
    offsets, values = np.asarray(ragged.offsets), np.asarray(ragged.values)
    if len(offsets) - 1 != num_queries:
        raise InputError(f"{name}: {len(offsets) - 1} rows for {num_queries} queries; give one each")
    if len(values) and not (values.min() >= 0 and values.max() < num_items):
        raise InputError(f"{name}: item row {int(values.max())} of {num_items} items; give rows of this catalogue")
    return np.stack([np.repeat(np.arange(num_queries), np.diff(offsets)), values]).astype(np.int32)


def _block_size(block: int, num_items: int, num_queries: int) -> int:
    return block or max(8, min(1024, SCORES_AT_ONCE // max(num_items, 1), -(-num_queries // 8) * 8))


def _blocks(
    queries: np.ndarray, items: np.ndarray, hidden: Pairs, block: int
) -> Iterator[tuple[Float[np.ndarray, "Q D"], Float[Array, "I D"], Pairs]]:
    """Yield queries in blocks, items, and hidden pairs counted from the block's first query; padding is out of range."""
    on_device = jnp.asarray(items, jnp.float32)
    bounds = np.searchsorted(hidden[0], np.arange(0, len(queries) + block, block))
    width = int(np.diff(bounds).max(initial=0))
    for index, start in enumerate(range(0, len(queries), block)):
        part = np.zeros((block, queries.shape[1]), np.float32)
        part[: len(queries) - start] = queries[start : start + block]
        own = hidden[:, bounds[index] : bounds[index + 1]]
        pairs = np.full((2, width), block, np.int32)
        pairs[:, : own.shape[1]] = own - np.array([[start], [0]], np.int32)
        yield part, on_device, pairs


def _scores(queries: Float[Array, "Q D"], items: Float[Array, "I D"]) -> Float[Array, "Q I"]:
    scores = jnp.einsum("qd,id->qi", queries, items, precision="highest")
    return jnp.where(scores == 0, 0.0, scores)  # one zero, since a sort tells -0 from 0


@jax.jit
def _masked(queries: Float[Array, "Q D"], items: Float[Array, "I D"], hidden: Int[Array, "2 P"]) -> Float[Array, "Q I"]:
    return _scores(queries, items).at[hidden[0], hidden[1]].set(-jnp.inf, mode="drop")


def _top_on_device(scores: Float[Array, "Q I"], k: int) -> tuple[np.ndarray, np.ndarray]:
    values, rows = _top_k(scores, k)
    return np.asarray(values), np.asarray(rows).astype(np.int64)


_top_k = jax.jit(jax.lax.top_k, static_argnums=1)


def _top_on_host(scores: Float[Array, "Q I"], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Do what `_top_on_device` does by numpy's selection, which takes a tenth of the time of XLA's on a CPU."""
    table = np.asarray(scores)
    least = np.partition(table, table.shape[1] - k, axis=1)[:, -k, None]
    above, tied = table > least, table == least
    room = k - above.sum(axis=1, keepdims=True)
    taken = above | (tied & (np.cumsum(tied, axis=1, dtype=np.int32) <= room))
    rows = np.nonzero(taken)[1].reshape(len(table), k)
    values = np.take_along_axis(table, rows, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(rows, order, axis=1)


@jax.jit
def _count(
    queries: Float[Array, "Q D"],
    items: Float[Array, "I D"],
    hidden: Int[Array, "2 P"],
    targets: Int[Array, "Q J"],
    real: Bool[Array, "Q J"],
    num_columns: Int[Array, ""],
) -> tuple[Float[Array, "Q J"], Int[Array, "Q J"]]:
    """Return each target's score, and how many of what is ranked score as high, itself included."""
    scores = _scores(queries, items)
    own = jnp.where(real, jnp.take_along_axis(scores, targets, axis=1), jnp.inf)
    ranked = scores.at[hidden[0], hidden[1]].set(-jnp.inf, mode="drop")
    where = jnp.where(real, targets, len(items)), jnp.arange(len(queries))[:, None]
    ranked = ranked.at[where[1], where[0]].set(own, mode="drop")

    def column(j: Int[Array, ""], counts: Int[Array, "Q J"]) -> Int[Array, "Q J"]:
        return counts.at[:, j].set(jnp.sum(ranked >= own[:, j, None], axis=1))

    return own, jax.lax.fori_loop(0, num_columns, column, jnp.zeros(targets.shape, jnp.int32))
