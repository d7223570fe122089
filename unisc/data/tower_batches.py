"""Batches for two towers: each row a user at a moment and the item wanted then; items are named once a batch.

A batch depends on its number and the source's `identity` alone. Examples come in a new order every epoch, and epochs follow
each other without a seam, so that no batch is short.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from unisc.data.interests import Examples, Interests
from unisc.errors import InputError

PROBED, SPARE, ROUND = 8, 1.1, 256
"""Room for distinct items: the most of this many batches, this much more, rounded up to a multiple of this."""


ORDER_STREAM, DRAW_STREAM, USER_STREAM = 1, 2, 3


class TowerBatch(NamedTuple):
    """One batch. `unique_rows` are table rows: the batch's distinct items, then its users, counted from `num_items` on.

    Items elsewhere are places among its items, users among its users; padding is place 0 with its mask False. `known` marks the
    columns, other rows' wanted items, that row's user is known to want, too. `drawn` are items drawn for all rows together.
    """

    unique_rows: Int[np.ndarray, " UB"]
    user: Int[np.ndarray, " B"]
    wanted: Int[np.ndarray, " B"]
    history: Int[np.ndarray, "B S"]
    history_mask: Bool[np.ndarray, "B S"]
    query: Int[np.ndarray, "B T"]
    query_mask: Bool[np.ndarray, "B T"]
    hard: Int[np.ndarray, "B K"]
    hard_mask: Bool[np.ndarray, "B K"]
    known: Bool[np.ndarray, "B B"]
    drawn: Int[np.ndarray, "B M"]


class Hard(NamedTuple):
    """Mined negatives of every train example, where `mask`."""

    rows: Int[np.ndarray, "N K"]
    mask: Bool[np.ndarray, "N K"]


class TowerBatches:
    """The train split as batches: `len(batches)`, `batches[i]`.

    With `whole` every batch names the whole catalogue, in order, so that an item's place is its row. `num_shown` are slots for
    what was shown and not clicked, `hard` what was mined. `num_drawn` items a row are drawn with probability proportional to
    their count^`draw_power`. `fraction` is the share of users, nested, whose examples are trained on.

    Raises:
      InputError: fewer examples than one batch holds, or no number in range.
    """

    def __init__(
        self,
        data: Interests,
        *,
        batch_size: int,
        seed: int,
        num_epochs: int,
        history_len: int,
        query_len: int,
        num_shown: int = 0,
        hard: Hard | None = None,
        whole: bool = False,
        num_drawn: int = 0,
        draw_power: float = 0.0,
        mask_known: bool = False,
        fraction: float = 1.0,
    ):
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self.history_len, self.query_len, self.num_shown, self.hard = history_len, query_len, num_shown, hard
        self.whole, self.num_drawn, self.mask_known = whole, num_drawn, mask_known
        self.rows = kept(data, fraction)
        if len(self.rows) < batch_size:
            raise InputError(f"batch_size {batch_size}: there are {len(self.rows)} train examples; give at most that")
        self.counts = wanted_counts(data, self.rows)
        draw = np.maximum(self.counts, 1.0) ** draw_power
        self._bounds = np.cumsum(draw) / draw.sum()
        self._length = num_epochs * len(self.rows) // batch_size
        self._order: tuple[int, np.ndarray] = (-1, self.rows)
        mined = "" if hard is None else hashlib.sha256(hard.rows.tobytes() + hard.mask.tobytes()).hexdigest()[:16]
        told = (batch_size, seed, num_epochs, history_len, query_len, num_shown, whole, num_drawn, draw_power, mask_known)
        self.identity = f"towers {data.fingerprint} {told} {fraction} {mined}"
        self.num_slots = data.catalogue.num_items
        if not whole:
            probes = np.linspace(0, self._length - 1, min(PROBED, self._length)).astype(int)
            most = max(len(np.unique(np.concatenate(self._content(int(i)).groups()))) for i in probes)
            self.num_slots = max(batch_size, -(-int(SPARE * most) // ROUND) * ROUND)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> TowerBatch:
        if not 0 <= index < self._length:
            raise IndexError(index)
        content, train = self._content(index), self.data.train
        items, place = self._name(content.groups())
        users, user = np.unique(np.asarray(train.user[content.rows]), return_inverse=True)
        num_items = self.data.catalogue.num_items
        unique = np.full(self.num_slots + self.batch_size, num_items + self.data.num_users, np.int32)
        unique[: len(items)] = items
        unique[self.num_slots : self.num_slots + len(users)] = users + num_items
        query, query_mask = train.query.padded(content.rows, self.query_len, keep="first")
        history, history_mask = _placed(place, content.history, content.history_mask)
        hard, hard_mask = _placed(place, content.hard, content.hard_mask)
        return TowerBatch(
            unique_rows=unique,
            user=user.astype(np.int32),
            wanted=place[content.wanted],
            history=history,
            history_mask=history_mask,
            query=query.astype(np.int32),
            query_mask=query_mask,
            hard=hard,
            hard_mask=hard_mask,
            known=self._known(content),
            drawn=np.maximum(place[content.drawn], 0),
        )

    def _content(self, index: int) -> "_Content":
        """Return what a batch is about, by item rows."""
        first = index * self.batch_size
        epochs, places = np.divmod(np.arange(first, first + self.batch_size), len(self.rows))
        rows = np.concatenate([self._ordered(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)])
        targets = self.data.train.targets
        wanted = np.asarray(targets.values[targets.offsets[rows]], np.int64)
        history, history_mask = histories(self.data, self.data.train, rows, self.history_len, wanted=wanted)
        hard, hard_mask = self.data.train.shown.padded(rows, self.num_shown, keep="first")
        if self.hard is not None:
            hard = np.concatenate([hard, self.hard.rows[rows]], axis=1)
            hard_mask = np.concatenate([hard_mask, self.hard.mask[rows]], axis=1)
        rng = np.random.default_rng([self.seed, DRAW_STREAM, index])
        drawn = np.searchsorted(self._bounds[:-1], rng.random((self.batch_size, self.num_drawn)), side="right")
        return _Content(rows, wanted, hard, hard_mask, drawn, history, history_mask)

    def _ordered(self, epoch: int) -> Int[np.ndarray, " N"]:
        """Return the train rows in an epoch's order; the last one asked for is kept."""
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, ORDER_STREAM, epoch]).permutation(self.rows)
        return self._order[1]

    def _name(self, groups: Sequence[np.ndarray]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " I"]]:
        """Return distinct items, first groups first while there is room, and each item's place among them, -1 without one."""
        place = np.full(self.data.catalogue.num_items, -1, np.int32)
        if self.whole:
            return np.arange(len(place)), np.arange(len(place), dtype=np.int32)
        named = np.zeros(0, np.int64)
        for group in groups:
            new = np.unique(group[place[group] < 0])[: self.num_slots - len(named)]
            place[new] = np.arange(len(named), len(named) + len(new))
            named = np.concatenate([named, new])
        return named, place

    def _known(self, content: "_Content") -> Bool[np.ndarray, "B B"]:
        """Mark the columns whose wanted item is in the row's history, by way of each item's columns, not of all pairs."""
        known = np.zeros((self.batch_size, self.batch_size), bool)
        if not self.mask_known:
            return known
        order = np.argsort(content.wanted, kind="stable")
        row, slot = np.nonzero(content.history_mask)
        item = content.history[row, slot]
        first, last = (np.searchsorted(content.wanted[order], item, side=side) for side in ("left", "right"))
        count = last - first
        column = order[np.repeat(first, count) + np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)]
        known[np.repeat(row, count), column] = True
        return known


class _Content(NamedTuple):
    rows: np.ndarray
    wanted: np.ndarray
    hard: np.ndarray
    hard_mask: np.ndarray
    drawn: np.ndarray
    history: np.ndarray
    history_mask: np.ndarray

    def groups(self) -> list[np.ndarray]:
        """Return the items that are named, by what can least be missed."""
        return [self.wanted, self.drawn.reshape(-1), self.hard[self.hard_mask], self.history[self.history_mask]]


def histories(
    data: Interests, examples: Examples, rows: Int[np.ndarray, " B"], length: int, *, wanted: np.ndarray | None = None
) -> tuple[Int[np.ndarray, "B S"], Bool[np.ndarray, "B S"]]:
    """Return the last items of some examples' histories, oldest first, and where they are real.

    Of pairs without order it is what the user is known to want, but for the `wanted` item itself.
    """
    if data.is_ordered:
        return examples.history.padded(rows, length, keep="last")
    found, mask = data.known.padded(examples.user[rows], length + 1, keep="last")
    if wanted is not None:
        mask = mask & (found != wanted[:, None])
    return found[:, :length], mask[:, :length]


def kept(data: Interests, fraction: float) -> Int[np.ndarray, " N"]:
    """Return the train rows of that share of users; a larger share holds the smaller.

    Raises:
      InputError: no share above 0 and up to 1.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"fraction {fraction}: give a number above 0 and up to 1")
    lot = np.random.default_rng(USER_STREAM).permutation(data.num_users)
    return np.flatnonzero(lot[data.train.user] < fraction * data.num_users)


def wanted_counts(data: Interests, rows: Int[np.ndarray, " N"]) -> Int[np.ndarray, " I"]:
    """Count how often each item is wanted in some train rows."""
    targets = data.train.targets
    return np.bincount(targets.values[targets.offsets[rows]], minlength=data.catalogue.num_items)


def _placed(place: np.ndarray, items: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = place[items]
    mask = mask & (found >= 0)
    return np.where(mask, found, 0).astype(np.int32), mask
