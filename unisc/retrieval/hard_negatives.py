"""Iterative hard negatives: D0 -> M0 -> D1 -> M1, the loop of 1688's recall tower and of ANCE (arXiv 2007.00808).

A model trained on the first data, M0, ranks the whole catalogue for every train query by exact inner product. Of a window of
ranks, past the very top, where unlabelled positives sit, what is no positive and scores clearly below the positive becomes a
query's own negatives, and the next model learns from them beside the easy ones of its batch. Windows of ranks 10 to 210 and 15
negatives are FlagEmbedding's (`scripts/hn_mine.py`), the threshold relative to the positive sentence-transformers'
(`mine_hard_negatives`); far more easy negatives than hard ones train best (arXiv 2006.11632, section 6.1).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from unisc.data.ragged import Ragged
from unisc.errors import InputError
from unisc.retrieval.exact import exact_top

MOST_ROUNDS = 3
QUERIES_AT_ONCE = 4096
Model = TypeVar("Model")
Teacher = Callable[[Int[np.ndarray, " Q"], Int[np.ndarray, "Q W"]], Float[np.ndarray, "Q W"]]
"""`teacher(queries, items)` scores items for queries, both by row; higher is more relevant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MiningConfig:
    """How negatives are mined. 0 rounds mine none.

    Ranks count from 0, positives among them: the window is ranks `first_rank` to `last_rank` - 1. A negative's score is at most
    `margin` of its positive's (of a negative score, as far below it), and by a teacher at most `teacher_margin` of what the
    teacher gives the positive. Of what is left `num_hard` are drawn; `num_random` come from anywhere.
    """

    num_rounds: int = 0
    first_rank: int = 10
    last_rank: int = 210
    margin: float = 0.95
    teacher_margin: float = 0.95
    num_hard: int = 15
    num_random: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.num_rounds <= MOST_ROUNDS:
            raise InputError(f"num_rounds {self.num_rounds}: give 0 to {MOST_ROUNDS}")
        if not 0 <= self.first_rank < self.last_rank:
            raise InputError(f"ranks {self.first_rank} to {self.last_rank}: give a window of at least one rank from 0 on")
        for name in ("margin", "teacher_margin"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name} {getattr(self, name)}: give a number above 0 and up to 1")
        if self.num_hard < 1 or self.num_random < 0:
            raise InputError(f"num_hard {self.num_hard}, num_random {self.num_random}: give at least 1 and 0")


class Mined(NamedTuple):
    """Negatives of each query, hard ones first, and which slots are filled."""

    rows: Int[np.ndarray, "N K"]
    mask: Bool[np.ndarray, "N K"]


def mine(
    queries: Float[np.ndarray, "N D"],
    items: Float[np.ndarray, "I D"],
    positives: Int[np.ndarray, " N"],
    config: MiningConfig,
    *,
    seed: int,
    known: Ragged | None = None,
    teacher: Teacher | None = None,
) -> Mined:
    """Draw each query's negatives from its window; `known` holds, for each query, what else it is known to want.

    Deterministic by `seed`, and the same for however many queries are worked on at once. A query whose window has too few
    negatives left has empty slots.

    Raises:
      InputError: another number of positives than queries, or a catalogue that ends before the window begins.
    """
    num_items, num_slots = len(items), config.num_hard + config.num_random
    if len(positives) != len(queries):
        raise InputError(f"positives: {len(positives)} for {len(queries)} queries; give one each")
    last = min(config.last_rank, num_items)
    if config.first_rank >= last:
        raise InputError(f"first_rank {config.first_rank}: the catalogue has {num_items} items; give an earlier one")
    rng, found = np.random.default_rng(seed), [Mined(np.zeros((0, num_slots), np.int64), np.zeros((0, num_slots), bool))]
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        at = np.arange(start, min(start + QUERIES_AT_ONCE, len(queries)))
        own = np.einsum("qd,qd->q", queries[at], items[positives[at]])[:, None]
        scores, rows = (x[:, config.first_rank :] for x in exact_top(queries[at], items, last))
        taboo = _taboo(at, positives, known, num_items)
        usable = ~_holds(taboo, rows, num_items) & (scores <= own - (1 - config.margin) * np.abs(own))
        if teacher is not None:
            best = teacher(at, positives[at][:, None])
            usable &= teacher(at, rows) <= best - (1 - config.teacher_margin) * np.abs(best)
        # One draw a query and rank, then one a random slot, in the order of the queries: blocks do not matter.
        draws = rng.random((len(at), rows.shape[1] + config.num_random))
        lot = np.where(usable, draws[:, : rows.shape[1]], np.inf)
        taken = np.argsort(lot, axis=1, kind="stable")[:, : config.num_hard]
        anywhere = (draws[:, rows.shape[1] :] * num_items).astype(np.int64)
        mined = [np.take_along_axis(rows, taken, axis=1), np.zeros((len(at), config.num_hard - taken.shape[1]), np.int64)]
        marks = [np.isfinite(np.take_along_axis(lot, taken, axis=1)), np.zeros(mined[1].shape, bool)]
        hard, hard_mask = np.concatenate(mined, axis=1), np.concatenate(marks, axis=1)
        free = ~_holds(taboo, anywhere, num_items) & ~_twice(np.where(hard_mask, hard, -1), anywhere)
        mask = np.concatenate([hard_mask, free], axis=1)
        found.append(Mined(np.where(mask, np.concatenate([hard, anywhere], axis=1), 0), mask))
    return Mined(*map(np.concatenate, zip(*found, strict=True)))


def rounds(
    fit: Callable[[int, Mined | None], Model],
    encode: Callable[[Model], tuple[np.ndarray, np.ndarray]],
    positives: Int[np.ndarray, " N"],
    config: MiningConfig,
    *,
    seed: int,
    known: Ragged | None = None,
    teacher_of: Callable[[Model], Teacher] | None = None,
) -> Iterator[Model]:
    """Yield M0, M1, ...: `fit(round, negatives)` trains, None being no mined ones; `encode` gives train queries and items.

    Every model begins as M0 did, so that what a round gains is its data's doing and not that of more steps.
    """
    model = fit(0, None)
    yield model
    for number in range(1, config.num_rounds + 1):
        queries, items = encode(model)
        teacher = None if teacher_of is None else teacher_of(model)
        mined = mine(queries, items, positives, config, seed=_seed(seed, number), known=known, teacher=teacher)
        model = fit(number, mined)
        yield model


def _seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _taboo(at: np.ndarray, positives: np.ndarray, known: Ragged | None, num_items: int) -> Int[np.ndarray, " P"]:
    """Return sorted keys (query of the block, item) of what must not be a negative."""
    pairs = [np.arange(len(at)) * num_items + positives[at]]
    if known is not None:
        own = known.take(at)
        pairs.append(np.repeat(np.arange(len(at)), own.lengths) * num_items + own.values)
    return np.unique(np.concatenate(pairs))


def _holds(taboo: Int[np.ndarray, " P"], rows: Int[np.ndarray, "Q W"], num_items: int) -> Bool[np.ndarray, "Q W"]:
    keys = np.arange(len(rows))[:, None] * num_items + rows
    place = np.minimum(np.searchsorted(taboo, keys), len(taboo) - 1)
    return taboo[place] == keys


def _twice(first: Int[np.ndarray, "Q K"], more: Int[np.ndarray, "Q R"]) -> Bool[np.ndarray, "Q R"]:
    """Mark what of `more` stands in `first` or before itself."""
    out = np.zeros(more.shape, bool)
    for slot in range(more.shape[1]):
        seen = np.concatenate([first, more[:, :slot]], axis=1)
        out[:, slot] = (seen == more[:, slot, None]).any(axis=1)
    return out


def describe(mined: Mined) -> dict[str, Any]:
    """Return how many negatives were found, on average a query, and the share of queries that have none."""
    filled = mined.mask.sum(axis=1)
    return {"hard/mean": float(filled.mean()), "hard/without": float((filled == 0).mean())}
