"""Batches of users' item sequences, several to a row, so that nearly every place is a prediction to learn from."""

import hashlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int, Int32

from unisc.data.interests import Examples
from unisc.data.ragged import Ragged
from unisc.errors import InputError

NEGATIVES_STREAM = 1


class SequenceBatch(NamedTuple):
    """B rows of T places. `weights` are 1 where a place is real; `segment` numbers the sequences of a row, -1 for none.

    `place` counts back from a sequence's last item, which has T - 1. `negatives` are K items a row drawn at random, K what the
    loss wants.
    """

    items: Int32[np.ndarray, "B T"]
    targets: Int32[np.ndarray, "B T"]
    place: Int32[np.ndarray, "B T"]
    segment: Int32[np.ndarray, "B T"]
    weights: Float32[np.ndarray, "B T"]
    negatives: Int32[np.ndarray, "B K"]


def user_sequences(train: Examples) -> Ragged:
    """Return each user's sequence in train, in the order of the users' numbers: its longest history and what came after it.

    Of a user with more items than a history holds it is the last such example, by the order in train.

    Raises:
      InputError: no example, or none with a history.
    """
    if not train.num_examples or not train.history.lengths.any():
        raise InputError("train: no example with a history; give interests whose users have an order")
    order = np.lexsort((train.history.lengths, train.user))  # stable
    last = order[np.append(np.diff(train.user[order]) != 0, True)]
    history, target = train.history.take(last), train.targets.take(last)
    lengths = history.lengths + 1
    values = np.zeros(int(lengths.sum()), np.int32)
    ends = np.cumsum(lengths) - 1
    is_target = np.zeros(len(values), bool)
    is_target[ends] = True
    values[is_target], values[~is_target] = target.values, history.values
    return Ragged.laid(values, lengths)


class PackedSequences:
    """Element i is batch i of a run over `num_epochs` passes; it depends on nothing but the arguments and i.

    A pass takes the sequences in an order of its own, drawn by (seed, epoch), and lays them into rows of `max_len` one after
    the other; the next row begins where one does not fit. Of a longer sequence the last `max_len` predictions stay.
    """

    def __init__(
        self,
        sequences: Ragged,
        *,
        num_items: int,
        max_len: int,
        batch_size: int,
        seed: int,
        num_epochs: int = 1,
        num_negatives: int = 0,
    ):
        self.sequences, self.num_items, self.max_len = sequences, num_items, max_len
        self.batch_size, self.seed, self.num_negatives = batch_size, seed, num_negatives
        self._lengths = np.minimum(sequences.lengths - 1, max_len)
        usable = np.flatnonzero(self._lengths > 0)
        if not len(usable):
            raise InputError("sequences: none of two items or more; give longer ones")
        if sequences.values.max() >= num_items:
            raise InputError(f"sequences: item {sequences.values.max()} of {num_items}; give the catalogue's rows")
        self._passes = []
        for epoch in range(num_epochs):
            order = np.random.default_rng([seed, epoch]).permutation(usable)
            self._passes.append((order, *rows_of(self._lengths[order], max_len)))
        self._first = np.cumsum([0, *(-(-(int(row[-1]) + 1) // batch_size) for _, row, _ in self._passes)])
        digest = hashlib.sha256(sequences.values.tobytes() + sequences.offsets.tobytes()).hexdigest()[:16]
        self.identity = f"{digest} {num_items} {max_len} {batch_size} {seed} {num_epochs} {num_negatives}"

    @property
    def num_targets(self) -> int:
        """Predictions of one pass."""
        return int(self._lengths.sum())

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, index: int) -> SequenceBatch:
        epoch = int(np.searchsorted(self._first, index, side="right")) - 1
        order, row, offset = self._passes[epoch]
        first_row = (index - int(self._first[epoch])) * self.batch_size
        begin, end = np.searchsorted(row, [first_row, first_row + self.batch_size])
        chosen, row, offset = order[begin:end], row[begin:end] - first_row, offset[begin:end]
        lengths = self._lengths[chosen]
        inside = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        where = np.repeat(row, lengths), np.repeat(offset, lengths) + inside
        source = np.repeat(self.sequences.offsets[chosen + 1] - 1 - lengths, lengths) + inside
        fresh = np.diff(row, prepend=-1) != 0
        number = np.arange(len(row)) - np.maximum.accumulate(np.where(fresh, np.arange(len(row)), 0))
        shape = (self.batch_size, self.max_len)
        items, targets, place, segment = (np.full(shape, fill, np.int32) for fill in (0, 0, 0, -1))
        weights = np.zeros(shape, np.float32)
        items[where], targets[where] = self.sequences.values[source], self.sequences.values[source + 1]
        place[where] = self.max_len - np.repeat(lengths, lengths) + inside
        segment[where], weights[where] = np.repeat(number, lengths), 1.0
        drawn = np.random.default_rng([self.seed, index, NEGATIVES_STREAM])
        negatives = drawn.integers(0, self.num_items, (self.batch_size, self.num_negatives), np.int32)
        return SequenceBatch(items, targets, place, segment, weights, negatives)

    def __repr__(self) -> str:
        return f"PackedSequences({self.sequences.num_rows} sequences, {len(self)} batches, seed {self.seed})"


def rows_of(lengths: Int[np.ndarray, " n"], width: int) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Return each sequence's row and where in it it begins, laid one after the other, none cut."""
    row, offset = np.zeros(len(lengths), np.int64), np.zeros(len(lengths), np.int64)
    now, used = 0, 0
    for i, length in enumerate(lengths.tolist()):
        if used + length > width:
            now, used = now + 1, 0
        row[i], offset[i] = now, used
        used += length
    return row, offset
