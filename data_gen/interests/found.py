"""What a source says, before its texts are tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, Int64

from unisc.data.ragged import Ragged

NO_QUERY = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Examples of a split; `query` is a place in `Found.queries`, or NO_QUERY."""

    user: Int64[np.ndarray, " N"]
    query: Int64[np.ndarray, " N"]
    history: Ragged
    targets: Ragged
    shown: Ragged

    @classmethod
    def without_lists(cls, user: np.ndarray, history: Ragged, targets: Ragged) -> "Rows":
        """Examples of a source that recorded neither queries nor lists."""
        none = np.zeros(len(user), np.int64)
        shown = Ragged.laid(np.zeros(0, np.int32), none)
        return cls(user=user, query=none + NO_QUERY, history=history, targets=targets, shown=shown)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A whole source. `train_queries` are the places of the queries that the train side has; `quality` counts what was cut."""

    titles: list[str]
    category: Int32[np.ndarray, " I"]
    brand: Int32[np.ndarray, " I"]
    visual: Float32[np.ndarray, "I Dv"] | None
    queries: list[str]
    train_queries: Int64[np.ndarray, " Q"]
    splits: Mapping[str, Rows]
    known: Ragged
    is_ordered: bool
    quality: Mapping[str, Any]


def unknown(num: int) -> Int32[np.ndarray, " n"]:
    """A feature that the source does not state."""
    return np.full(num, -1, np.int32)


def known_items(user: np.ndarray, item: np.ndarray, *, num_users: int, num_items: int) -> Ragged:
    """Return by user the distinct items of some pairs, by row."""
    user, item = np.divmod(np.unique(user.astype(np.int64) * num_items + item), num_items)
    return Ragged.laid(item.astype(np.int32), np.bincount(user, minlength=num_users))


def last(values: np.ndarray, starts: np.ndarray, ends: np.ndarray, length: int) -> tuple[Ragged, int]:
    """Return of each stretch of `values` its last `length`, and how many stretches were longer."""
    kept = np.maximum(starts, ends - length)
    return Ragged.cut(values.astype(np.int32, copy=False), kept, ends - kept), int((kept > starts).sum())


def none_of(length_of: Ragged) -> int:
    """Count the empty rows."""
    return int((length_of.lengths == 0).sum())
