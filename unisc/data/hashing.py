"""Fewer rows than ids: which rows of a smaller store an id's embedding is made of.

Columns keep every id apart. A `RowMap` rewrites a packed batch, so that caches, packing and models know nothing of it:

    batches = map(RowMap(columns.spec, config), packed batches)      a table of RowMap.spec.num_rows rows

- "share": one row; ids that hash alike share it (the hashing trick, arXiv 0902.2206).
- "double": the sum of two rows by two hash functions, so that few pairs of ids share both (arXiv 2007.14523, without its
  exemption of frequent ids).
- "quotient_remainder": the sum of the rows of id // m and id % m, so that no two ids have the same two (arXiv 1909.02107,
  section 3; the sum among its operations).

Row 0 of a table, the absent value, is never shared. A sum of two rows starts with sqrt(2) of a row's deviation.
"""

import dataclasses
import math
import zlib
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Int64

from unisc.data.features import Batch, FeatureSpec, Table
from unisc.errors import InputError

Collision = Literal["share", "double", "quotient_remainder"]


@dataclass(frozen=True, kw_only=True, slots=True)
class HashConfig:
    """Tables of more than `hash_rows` rows are stored in that many, the absent value's row included; 0 hashes none."""

    hash_rows: int = 0
    collision: Collision = "share"

    def __post_init__(self) -> None:
        if not isinstance(self.hash_rows, int) or self.hash_rows < 0 or self.hash_rows == 1:
            raise InputError(f"hash_rows {self.hash_rows!r}: give 0 for no hashing, or a whole number of at least 2")
        if self.collision not in get_args(Collision):
            raise InputError(f"collision {self.collision!r}: unknown; give one of {', '.join(get_args(Collision))}")


class RowMap:
    """Rewrites batches of `whole` features for a smaller store, whose features are `spec`; safe to call from several threads.

    Of U distinct rows in and P out, P = min(U, stored rows), or min(2 U, stored rows) where rows are summed.

    Raises:
      InputError: too few rows for "quotient_remainder" to tell a table's ids apart.
    """

    def __init__(self, whole: FeatureSpec, config: HashConfig):
        self.whole, self.config = whole, config
        hashed = [config.hash_rows and table.num_rows > config.hash_rows for table in whole.tables]
        stored = [config.hash_rows if h else table.num_rows for table, h in zip(whole.tables, hashed, strict=True)]
        tables = tuple(
            Table(name=t.name, num_rows=n, hashed=bool(h)) for t, n, h in zip(whole.tables, stored, hashed, strict=True)
        )
        self.spec = dataclasses.replace(whole, tables=tables)
        self.num_parts = 2 if any(hashed) and config.collision != "share" else 1
        self._changes = any(hashed)
        self._starts = np.array(list(whole.table_offsets().values()), np.int64)
        self._stored_starts = np.array(list(self.spec.table_offsets().values()), np.int64)
        self._salts = np.array([zlib.crc32(t.name.encode()) for t in whole.tables], np.uint64)
        self._buckets = np.array([config.hash_rows - 1 if h else 0 for h in hashed], np.int64)
        if config.collision == "quotient_remainder":
            sizes = [
                _remainders(t.name, t.num_rows - 1, config.hash_rows - 1) if h else 0
                for t, h in zip(whole.tables, hashed, strict=True)
            ]
            self._buckets = np.array(sizes, np.int64)

    def rows(self, whole_rows: Int64[np.ndarray, " U"]) -> Int64[np.ndarray, "U K"]:
        """Return the stored rows whose sum is each row's embedding; `spec.num_rows`, which reads 0, where there is but one."""
        table = np.searchsorted(self._starts, whole_rows, side="right") - 1
        ids = whole_rows - self._starts[table] - 1  # -1 is the absent value
        start, buckets = self._stored_starts[table], self._buckets[table]
        split = (buckets > 0) & (ids >= 0)
        m = np.maximum(buckets, 1)
        out = np.full((len(whole_rows), self.num_parts), self.spec.num_rows, np.int64)
        if self.config.collision == "quotient_remainder":
            parts = [ids % m, m + ids // m]
        else:
            parts = [(_mix(ids, self._salts[table], k) % m.astype(np.uint64)).astype(np.int64) for k in range(self.num_parts)]
        for k, part in enumerate(parts[: self.num_parts]):
            out[:, k] = np.where(split, start + 1 + part, start + 1 + ids if k == 0 else self.spec.num_rows)
        return out

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch over the stored rows; `row_parts` says which of them to sum, where any are."""
        if not self._changes:
            return batch
        whole_rows = np.asarray(batch.unique_rows)
        num_whole, none = len(whole_rows), self.spec.num_rows
        real = whole_rows[whole_rows < self.whole.num_rows]
        stored, place = np.unique(self.rows(real.astype(np.int64)), return_inverse=True)
        place = place.reshape(len(real), self.num_parts).astype(np.int32)
        unique_rows: Any = np.full(min(self.num_parts * num_whole, none), none, np.int32)
        num_stored = np.searchsorted(stored, none)  # "no second row" sorts last, and is no row
        unique_rows[:num_stored] = stored[:num_stored]
        if self.num_parts == 1:
            place = place[:, 0]
            ids: dict[str, Any] = {
                name: place[np.asarray(getattr(batch, name))] for name in ("request_ids", "candidate_ids", "history_ids")
            }
            return batch._replace(unique_rows=unique_rows, **ids)
        row_parts: Any = np.full((num_whole, self.num_parts), len(unique_rows), np.int32)
        row_parts[: len(real)] = np.where(place < num_stored, place, len(unique_rows))
        return batch._replace(unique_rows=unique_rows, row_parts=row_parts)


def _remainders(name: str, num_ids: int, rows: int) -> int:
    """Return the largest m with m + ceil(num_ids / m) <= rows: the more remainders, the fewer ids share one."""
    least = min(m + math.ceil(num_ids / m) for m in {math.isqrt(num_ids) or 1, math.isqrt(num_ids) + 1})
    if rows < least:
        raise InputError(
            f"hash_rows {rows + 1}: too few to tell the {num_ids} ids of table {name} apart by quotient and remainder;"
            f" give at least {least + 1}"
        )
    m = (rows + math.isqrt(max(rows * rows - 4 * num_ids, 0))) // 2
    return next(m for m in range(min(m + 1, rows), 0, -1) if m + math.ceil(num_ids / m) <= rows)


def _mix(ids: Int64[np.ndarray, " U"], salts: np.ndarray, function: int) -> np.ndarray:
    """Hash ids of tables to 64 bits by the finaliser of splitmix64 (doi 10.1145/2660193.2660195), the same on every machine."""
    with np.errstate(over="ignore"):
        x = ids.astype(np.uint64) + (salts + np.uint64(function << 32)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
