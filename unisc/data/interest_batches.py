"""Batches for models that read an interest as a sequence: query, history, the item wanted, what was shown, the item's text."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from unisc.data.documents import text_batch
from unisc.data.interests import Examples, Interests
from unisc.data.ragged import Ragged
from unisc.data.tower_batches import kept
from unisc.errors import InputError

ORDER_STREAM = 1


class InterestBatch(NamedTuple):
    """One batch; `history`, `wanted` and `shown` are item rows, padding is row 0 with its mask False.

    `answer` is the wanted item's text, `targets` what the token before each of its places and after its last is to foresee.
    """

    query: Int[np.ndarray, "B Q"]
    query_mask: Bool[np.ndarray, "B Q"]
    history: Int[np.ndarray, "B S"]
    history_mask: Bool[np.ndarray, "B S"]
    wanted: Int[np.ndarray, " B"]
    shown: Int[np.ndarray, "B K"]
    shown_mask: Bool[np.ndarray, "B K"]
    answer: Int[np.ndarray, "B A"]
    answer_mask: Bool[np.ndarray, "B A"]
    targets: Int[np.ndarray, "B A1"]
    targets_mask: Bool[np.ndarray, "B A1"]


class InterestBatches:
    """Element i is batch i of `num_epochs` passes of the train split, in an order drawn anew by (seed, epoch).

    `fraction` is the share of users, nested. A pass follows the other without a seam, so that no batch is short.

    Raises:
      InputError: fewer examples than a batch.
    """

    def __init__(
        self,
        data: Interests,
        *,
        batch_size: int,
        seed: int,
        num_epochs: int,
        lengths: "Lengths",
        fraction: float = 1.0,
    ):
        self.batch_size, self._data, self._lengths, self._seed = batch_size, data, lengths, seed
        self._rows = kept(data, fraction)
        if len(self._rows) < batch_size:
            raise InputError(f"batch_size {batch_size}: there are {len(self._rows)} train examples; give at most that")
        self._length = num_epochs * len(self._rows) // batch_size
        self.identity = f"interests {data.fingerprint} {tuple(lengths)} {fraction} seed {seed}"
        self._order: tuple[int, np.ndarray] = (-1, self._rows)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> InterestBatch:
        first = index * self.batch_size
        epochs, places = np.divmod(np.arange(first, first + self.batch_size), len(self._rows))
        rows = np.concatenate([self._ordered(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)])
        return interest_batch(self._data.train, self._data.catalogue.text, rows, self._lengths)

    def _ordered(self, epoch: int) -> Int[np.ndarray, " N"]:
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self._seed, ORDER_STREAM, epoch]).permutation(self._rows)
        return self._order[1]

    def __repr__(self) -> str:
        return f"InterestBatches({len(self._rows)} examples, {self._length} batches, seed {self._seed})"


class Lengths(NamedTuple):
    """Where rows are cut: tokens of a query and of a text, items of a history (the last) and of what was shown."""

    query: int
    history: int
    shown: int
    answer: int


def interest_batch(examples: Examples, texts: Ragged, rows: Int[np.ndarray, " B"], lengths: Lengths) -> InterestBatch:
    """Lay some examples out as a batch; of several targets the first is the one wanted."""
    query, query_mask = examples.query.padded(rows, lengths.query, keep="first")
    history, history_mask = examples.history.padded(rows, lengths.history, keep="last")
    shown, shown_mask = examples.shown.padded(rows, lengths.shown, keep="first")
    wanted = np.asarray(examples.targets.values[examples.targets.offsets[rows]], np.int32)
    text = text_batch(texts, wanted, lengths.answer)
    length = texts.offsets[wanted + 1] - texts.offsets[wanted]
    return InterestBatch(
        query=query,
        query_mask=query_mask,
        history=history,
        history_mask=history_mask,
        wanted=wanted,
        shown=shown,
        shown_mask=shown_mask,
        answer=text.tokens[:, 1:],
        answer_mask=np.arange(lengths.answer) < length[:, None],
        targets=text.targets,
        targets_mask=text.valid,
    )
