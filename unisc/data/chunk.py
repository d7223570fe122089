"""Some rows of a samples table as flat arrays, and what a candidate's list and its user's history say about it.

List context (price and touch ranks) is taken over the shown list, which the pre-ranker has fixed before anything is clicked; a
list of which nothing was shown is its own context.
"""

from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int32, Int64

from unisc.data.features import Level
from unisc.errors import InputError

MOST_CANDIDATES = 1 << 15
"""Of a request: ranks are 16-bit numbers from 0."""

Ids = Int64[np.ndarray, " N"]
Values = Float32[np.ndarray, " N"]


_LIST_OF: dict[Level, str] = {"candidate": "item_id", "history": "history_item_id"}
"""The list whose lengths those of a level must have."""


class Rows(Protocol):
    """Some rows of a samples table: a record batch, or what reads like one."""

    @property
    def num_rows(self) -> int: ...

    def column(self, name: str) -> pa.Array: ...


def _lengths(lists: pa.Array) -> Int32[np.ndarray, " Q"]:
    return lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)


class Chunk:
    """Some rows of a samples table as flat arrays; absent integers are -1, absent prices NaN. `source` is named in errors.

    Raises:
      InputError: a request without candidates or with more than MOST_CANDIDATES, an unknown domain, a missing value where there
        must be one, lists of different lengths, a negative number other than -1. The line names the request.
    """

    def __init__(self, rows: Rows, domains: tuple[str, ...], source: Path):
        self.rows, self.source = rows, source
        self.num_requests = rows.num_rows
        self._flat: dict[str, np.ndarray] = {}
        codes = rows.column("domain").dictionary_encode()
        names = codes.dictionary.to_pylist()
        code = codes.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
        places = np.array([domains.index(name) if name in domains else -1 for name in [*names, None]], np.int64)
        self.domain = places[code]
        if self.domain.min(initial=0) < 0:
            row = int(self.domain.argmin())
            raise self.fault(f"domain {[*names, None][code[row]]!r}", row, f"is not one of the manifest's {list(domains)}")
        self._lengths = {level: _lengths(rows.column(name)) for level, name in _LIST_OF.items()}
        self.candidate_offsets, self.history_offsets = (
            np.concatenate([[0], np.cumsum(self._lengths[level], dtype=np.int64)]) for level in _LIST_OF
        )
        lengths = self._lengths["candidate"]
        if lengths.min(initial=1) < 1:
            raise self.fault("item_id", int(lengths.argmin()), "is empty: a request needs candidates")
        if lengths.max(initial=1) > MOST_CANDIDATES:
            row = int(lengths.argmax())
            raise self.fault("item_id", row, f"holds {lengths[row]} candidates, more than {MOST_CANDIDATES}")
        self.request_of = np.repeat(np.arange(self.num_requests), lengths)

    def fault(self, what: str, request: int, wrong: str) -> InputError:
        """Return the error that says what is wrong with `what` of a request, counted from 0 in these rows."""
        return InputError(
            f"{self.source}: {what} of request {self.rows.column('request_id')[request]} {wrong}; make the samples again"
        )

    def request_at(self, level: Level, place: int) -> int:
        """Return which of the requests a candidate or history entry belongs to, or a request is itself."""
        if level == "request":
            return place
        offsets = self.candidate_offsets if level == "candidate" else self.history_offsets
        return int(np.searchsorted(offsets, place, side="right")) - 1

    def request(self, name: str) -> Ids:
        """Return an integer column known once a request, -1 where null."""
        column = self.rows.column(name)
        if column.null_count and name in ("request_id", "user_id", "ts"):
            raise self.fault(name, int(np.flatnonzero(column.is_null())[0]), "is missing")
        return column.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)

    def flat(self, name: str) -> np.ndarray:
        """Return a list column laid end to end."""
        if name not in self._flat:
            self._flat[name] = self._flattened(name)
        return self._flat[name]

    def _flattened(self, name: str) -> np.ndarray:
        level: Level = "history" if name.startswith("history_") else "candidate"
        column = self.rows.column(name)
        wrong = np.flatnonzero(_lengths(column) != self._lengths[level])
        if len(wrong):
            raise self.fault(name, int(wrong[0]), f"is not as long as {_LIST_OF[level]}")
        values = column.flatten()
        if pa.types.is_floating(values.type):
            return values.fill_null(np.nan).to_numpy(zero_copy_only=False)
        if not pa.types.is_integer(values.type):
            return values.fill_null(False).to_numpy(zero_copy_only=False)
        numbers = values.fill_null(pa.scalar(-1, values.type)).to_numpy(zero_copy_only=False)
        if numbers.min(initial=-1) < -1:
            place = int(numbers.argmin())
            raise self.fault(f"{name} {numbers[place]}", self.request_at(level, place), "is negative")
        return numbers

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
