"""Item-to-item retrieval: the items that histories hold together with those of one history, by the cosine of their counts.

The score of item c for a history is the sum over its items a of weight(a) x pairs(a, c) / sqrt(count(a) x count(c)). In ordered
histories (sessions) a pair counts 1 / steps between the two, over at most WINDOW steps either way, and the item met k steps
before the last one weighs 1 / (1 + k); in sets every pair counts and weighs 1 (item-based collaborative filtering, Sarwar et
al. 2001; counts by distance as in the sequential rules of Ludewig and Jannach, arXiv 1803.09587, but in both directions).

A history that is among those counted is left out of the counts of its own request, in training and in testing alike, so that
a score means the same in both: what the *other* histories say.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float64, Int64

WINDOW = 10
_NONE = 1e-12
"""Scores below it are what rounding leaves of nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lists:
    """Lists of item ids laid end to end: list g is `items[offsets[g]:offsets[g + 1]]`."""

    items: Int64[np.ndarray, " N"]
    offsets: Int64[np.ndarray, " G1"]

    @classmethod
    def of(cls, items: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> "Lists":
        """Take stretches of `items`."""
        ends = np.cumsum(lengths)
        places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)
        return cls(items=np.asarray(items, np.int64)[places], offsets=np.concatenate([[0], ends]).astype(np.int64))

    def take(self, lists: Int64[np.ndarray, " R"]) -> "Lists":
        """Return some of the lists; an empty one for -1."""
        return Lists.of(self.items, self.offsets[lists], np.where(lists < 0, 0, self.lengths[lists]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64[np.ndarray, " G"]:
        return np.diff(self.offsets)

    @property
    def rows(self) -> Int64[np.ndarray, " N"]:
        """The list that each item is in."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def steps_back(self) -> Int64[np.ndarray, " N"]:
        """How many items of its list come after each item."""
        return np.repeat(self.offsets[1:], self.lengths) - 1 - np.arange(len(self.items))


class ItemToItem:
    """What all `histories` say of each pair of items; sets hold no item twice."""

    def __init__(self, histories: Lists, *, num_items: int, ordered: bool):
        self.histories, self.num_items, self.ordered = histories, num_items, ordered
        self.counts = np.bincount(histories.items, minlength=num_items).astype(np.float64)
        shape = (num_items, num_items)
        if ordered:
            pairs = sp.csr_array(shape, dtype=np.float64)
            for a, b, _, steps in _pairs(histories):
                pairs = pairs + sp.csr_array((np.full(len(a), 1 / steps), (a, b)), shape=shape)
            self.pairs = sp.csr_array(pairs + pairs.T)
        else:
            held = sp.csr_array(
                (np.ones(len(histories.items)), histories.items, histories.offsets), shape=(len(histories), num_items)
            )
            self.pairs = sp.csr_array(held.T @ held)
            self.pairs.setdiag(0)

    def scores(
        self, asked: Lists, own: Int64[np.ndarray, " R"]
    ) -> tuple[Float64[np.ndarray, "R items"], Float64[np.ndarray, "R items"]]:
        """Return each item's score for the histories `asked`, and how often the counted histories hold it.

        `own` is the place among the counted histories of the one that a request is from, which counts for nothing here; -1 for
        a request from none of them. Memory is a few times R x items.
        """
        rows = asked.rows
        counts = np.tile(self.counts, (len(asked), 1))
        mine = self.histories.take(own)
        np.subtract.at(counts, (mine.rows, mine.items), 1)
        scale = np.divide(1, np.sqrt(counts), out=np.zeros_like(counts), where=counts > 0)
        query = np.zeros_like(counts)
        np.add.at(query, (rows, asked.items), 1 / (1 + asked.steps_back) if self.ordered else 1.0)
        query *= scale
        scores = (sp.csr_array(query) @ self.pairs).toarray()
        if self.ordered:
            for a, b, row, steps in _pairs(mine):
                np.subtract.at(scores, (row, b), query[row, a] / steps)
                np.subtract.at(scores, (row, a), query[row, b] / steps)
        else:
            each = query[mine.rows, mine.items]
            total = np.bincount(mine.rows, weights=each, minlength=len(asked))
            np.subtract.at(scores, (mine.rows, mine.items), total[mine.rows] - each)
        scores *= scale
        return np.where(scores > _NONE, scores, 0), counts

    def propose(self, asked: Lists, own: Int64[np.ndarray, " R"], num: int, *, repeats: bool) -> "Proposed":
        """Return the `num` best items for each history, the highest score first, equals in the order of their ids.

        A history with fewer neighbours is filled up by counts (popularity). Without `repeats` its own items are left out.
        """
        scores, counts = self.scores(asked, own)
        order = scores + counts * (_NONE / (1 + len(self.histories.items)))  # decides where there is no score, nowhere else
        if not repeats:
            order[asked.rows, asked.items] = -1
        num = min(num, self.num_items)
        best = np.sort(np.argpartition(-order, num - 1, axis=1)[:, :num], axis=1)
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(order, best, 1), axis=1, kind="stable"), 1)
        return Proposed(
            items=best.astype(np.int64),
            scores=np.take_along_axis(scores, best, 1),
            counts=np.take_along_axis(counts, best, 1),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposed:
    """Candidates of R requests, the best first, with their scores and how often other histories hold them."""

    items: Int64[np.ndarray, "R K"]
    scores: Float64[np.ndarray, "R K"]
    counts: Float64[np.ndarray, "R K"]


def _pairs(lists: Lists) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, int]]:
    """Yield for every number of steps the items that stand so far apart: the earlier, the later, their list, the steps."""
    rows = lists.rows
    for steps in range(1, WINDOW + 1):
        same = rows[steps:] == rows[:-steps]
        yield lists.items[:-steps][same], lists.items[steps:][same], rows[steps:][same], steps
