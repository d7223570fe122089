"""Some rows of a samples table as flat arrays, and what a candidate's list and its user's history say about it.

List context (price and touch ranks) is taken over the shown list, which the pre-ranker has fixed before anything is clicked; a
list of which nothing was shown is its own context.
"""

from functools import cached_property
from typing import Protocol

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64

from unisc.errors import InputError

Ids = Int64[np.ndarray, " N"]
Values = Float32[np.ndarray, " N"]


class Rows(Protocol):
    """Some rows of a samples table: a record batch, or what reads like one."""

    @property
    def num_rows(self) -> int: ...

    def column(self, name: str) -> pa.Array: ...


class Chunk:
    """Some rows of a samples table as flat arrays; absent integers are -1, absent prices NaN."""

    def __init__(self, rows: Rows, domains: tuple[str, ...]):
        self.rows = rows
        self.num_requests = rows.num_rows
        codes = rows.column("domain").dictionary_encode()
        names = codes.dictionary.to_pylist()
        for name in names:
            if name not in domains:
                raise InputError(f"samples: domain {name!r} is not one of the manifest's {list(domains)}; make them again")
        self.domain = np.array([domains.index(name) for name in names], np.int64)[np.asarray(codes.indices)]
        self.candidate_offsets = self._offsets("item_id")
        self.history_offsets = self._offsets("history_item_id")
        self.request_of = np.repeat(np.arange(self.num_requests), np.diff(self.candidate_offsets))

    def _offsets(self, name: str) -> Int64[np.ndarray, " Q1"]:
        lengths = self.rows.column(name).value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])

    def request(self, name: str) -> Ids:
        """Return an integer column known once a request, -1 where null."""
        return self.rows.column(name).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)

    def flat(self, name: str) -> np.ndarray:
        """Return a list column laid end to end; its lengths must be those of the other lists of its kind."""
        values = self.rows.column(name).flatten()
        expected = self.history_offsets[-1] if name.startswith("history_") else self.candidate_offsets[-1]
        if len(values) != expected:
            raise InputError(f"samples: lists of {name} and of item ids differ in length; make the samples again")
        if pa.types.is_floating(values.type):
            return values.fill_null(np.nan).to_numpy(zero_copy_only=False)
        return values.fill_null(pa.scalar(-1 if pa.types.is_integer(values.type) else False, values.type)).to_numpy(
            zero_copy_only=False
        )

    @cached_property
    def item_id(self) -> Ids:
        return self.flat("item_id").astype(np.int64)

    @cached_property
    def history_item_id(self) -> Ids:
        return self.flat("history_item_id").astype(np.int64)

    @cached_property
    def in_context(self) -> np.ndarray:
        """Which candidates form the list the others are compared with: the shown ones, or all if none was shown."""
        exposed = self.flat("exposed").astype(bool)
        num_shown = np.bincount(self.request_of, weights=exposed, minlength=self.num_requests)
        return exposed | (num_shown == 0)[self.request_of]

    @cached_property
    def touch_rank(self) -> Ids:
        """1 for the most recently touched candidate of the list, and so on; 0 if this user never touched it."""
        age = self.flat("touch_age").astype(np.int64)
        touched = age >= 0
        below, _ = self._count_below(np.where(touched, age, 0), touched)
        return np.where(touched, below + 1, 0)

    @cached_property
    def log_price(self) -> Values:
        """Natural logarithm of the price as shown, NaN if it is unknown or not positive."""
        price = self.flat("price").astype(np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(price > 0, np.log(price), np.nan).astype(np.float32)

    @cached_property
    def price_over_mean(self) -> Values:
        """Log price less its mean over the list; 0 if unknown."""
        member = self.in_context & np.isfinite(self.log_price)
        known = np.where(member, self.log_price, 0).astype(np.float64)
        total = np.bincount(self.request_of, weights=known, minlength=self.num_requests)
        count = np.bincount(self.request_of, weights=member, minlength=self.num_requests)
        mean = (total / np.maximum(count, 1))[self.request_of]
        usable = np.isfinite(self.log_price) & (count > 0)[self.request_of]
        return np.where(usable, self.log_price - mean, 0).astype(np.float32)

    @cached_property
    def price_rank(self) -> Values:
        """Share of the list that is cheaper, mapped to [-1, 1]; 0 if the price is unknown."""
        known = np.isfinite(self.log_price)
        # The bit patterns of positive floats order as the floats do, so prices can be counted as integers.
        bits = np.where(known, self.flat("price"), 0).astype(np.float32).view(np.int32).astype(np.int64)
        below, size = self._count_below(bits, known)
        return np.where(known & (size > 0), 2 * below / np.maximum(size, 1) - 1, 0).astype(np.float32)

    def _count_below(self, value: Ids, valid: np.ndarray) -> tuple[Ids, Ids]:
        """Count list members with a smaller value, and all list members; `value` lies in [0, 2^32)."""
        key = (self.request_of << 32) + value
        member = np.sort(key[valid & self.in_context])
        edges = np.searchsorted(member, np.arange(self.num_requests + 1, dtype=np.int64) << 32)
        return np.searchsorted(member, key) - edges[self.request_of], np.diff(edges)[self.request_of]

    def history_event(self, num_domains: int) -> Ids:
        """Return kind x domain of each history entry as one code, -1 if either is absent."""
        kind, domain = self.flat("history_kind").astype(np.int64), self.flat("history_domain").astype(np.int64)
        return np.where((kind >= 0) & (domain >= 0), kind * num_domains + domain, -1)

    def last_event(self, num_domains: int) -> Ids:
        """Return what this user last did with each candidate (see `history_event`), -1 if the history does not hold it."""
        request = np.repeat(np.arange(self.num_requests), np.diff(self.history_offsets))
        # Entries run from the most recent back and the sort is stable, so the first of equal keys is the last event.
        key = (request << 32) + self.history_item_id
        order = np.argsort(key, kind="stable")
        wanted = (self.request_of << 32) + self.item_id
        if not len(key):
            return np.full(len(wanted), -1, np.int64)
        at = np.minimum(np.searchsorted(key[order], wanted), len(key) - 1)
        return np.where(key[order[at]] == wanted, self.history_event(num_domains)[order[at]], -1)

    @cached_property
    def steps_below(self) -> Values:
        """Slots below the most recently touched shown candidate, negative above it; NaN without one or if not shown."""
        position = self.flat("position").astype(np.float32)
        last = (self.touch_rank == 1) & (position >= 0)
        anchor = np.full(self.num_requests, np.nan, np.float32)
        anchor[self.request_of[last][::-1]] = position[last][::-1]  # of several touched at once, the highest
        return np.where(position >= 0, position - anchor[self.request_of], np.nan)
