"""Rows of different lengths laid end to end: token ids of texts, item rows of histories."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int64


class Ragged(NamedTuple):
    """Row i is `values[offsets[i]:offsets[i + 1]]`; both may be memory-mapped. A tuple, so `len` is no count of rows."""

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Any], dtype: Any = np.int32) -> "Ragged":
        """Return some sequences of numbers as rows."""
        values = np.concatenate([np.zeros(0, dtype), *(np.asarray(row, dtype) for row in rows)])
        return cls.laid(values, np.fromiter((len(row) for row in rows), np.int64, len(rows)))

    @classmethod
    def laid(cls, values: np.ndarray, lengths: Int[np.ndarray, " n"]) -> "Ragged":
        """Return rows of `lengths` whose values are laid end to end already."""
        return cls(values, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))

    @classmethod
    def cut(cls, values: np.ndarray, starts: Int[np.ndarray, " n"], lengths: Int[np.ndarray, " n"]) -> "Ragged":
        """Return as rows the stretches of `values` that begin at `starts`; they may overlap."""
        lengths = np.asarray(lengths, np.int64)
        ends = np.cumsum(lengths)
        places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)
        return cls.laid(values[places], lengths)

    @property
    def num_rows(self) -> int:
        """How many rows there are, the empty ones too."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64[np.ndarray, " n"]:
        """How many values each row has."""
        return np.diff(self.offsets)

    def row(self, index: int) -> np.ndarray:
        """Return the values of one row, a view."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def take(self, rows: Int[np.ndarray, " m"]) -> "Ragged":
        """Return some of the rows, in that order."""
        return Ragged.cut(self.values, self.offsets[rows], self.offsets[np.asarray(rows) + 1] - self.offsets[rows])

    def padded(
        self, rows: Int[np.ndarray, " n"], length: int, *, keep: Literal["first", "last"]
    ) -> tuple[Int[np.ndarray, "n L"], Bool[np.ndarray, "n L"]]:
        """Return some rows as one array, and where it is real: values from the left, zeros after them.

        Of a row longer than `length` the `keep` ones stay, in their order.
        """
        starts = self.offsets[rows]
        lengths = self.offsets[np.asarray(rows) + 1] - starts
        kept = np.minimum(lengths, length)
        if keep == "last":
            starts = starts + lengths - kept
        place = np.arange(length)
        real = place < kept[:, None]
        padded = np.zeros(real.shape, self.values.dtype)
        padded[real] = self.values[(starts[:, None] + place)[real]]
        return padded, real
