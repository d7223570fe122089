"""The input pipeline: a Grain source of packed batches, shuffled by (seed, epoch), whose iterator's state can be saved."""

from typing import Any

import numpy as np
from grain import DatasetIterator as BatchIterator
from grain import MapDataset, ReadOptions
from jaxtyping import Int64

from unisc.data.blocks import Blocks
from unisc.data.columns import Columns
from unisc.data.features import Batch
from unisc.data.hashing import RowMap
from unisc.data.pack import BatchShape, Packer, Views, batch_bounds, num_batches, plan
from unisc.data.stream import PackedBlocks


class PackedRequests:
    """Element i is batch i of a run over `num_epochs` passes; an element depends on nothing but (columns, arguments, i).

    `position_dropout` is the share of requests whose candidates are given as not shown anywhere, drawn anew for every batch by
    (seed, epoch, batch): scoring a full list, where no position is known yet, is then nothing new to the model.
    """

    def __init__(self, columns: Columns, shape: BatchShape, *, seed: int, num_epochs: int = 1, position_dropout: float = 0.0):
        self.columns, self.shape, self.position_dropout, self.seed = columns, shape, position_dropout, seed
        self._packer = Packer(columns, shape)
        self._pieces = Views.all_of(columns).split(shape.longest)
        self._orders, self._starts, self._first = [], [], [0]
        for epoch in range(num_epochs):
            order = np.random.default_rng([seed, epoch]).permutation(len(self._pieces.length))
            self._orders.append(order)
            self._starts.append(plan(self._pieces.length[order], shape))
            self._first.append(self._first[-1] + num_batches(self._starts[-1], shape))

    def __len__(self) -> int:
        return self._first[-1]

    def __getitem__(self, index: int) -> Batch:
        epoch = int(np.searchsorted(self._first, index, side="right")) - 1
        batch = index - self._first[epoch]
        bounds = batch_bounds(self._starts[epoch], self.shape, batch)
        views = self._pieces.take(self._orders[epoch][bounds[0] : bounds[-1]])
        if self.position_dropout > 0:
            draws = np.random.default_rng([self.seed, epoch, batch]).random(len(views.request))
            views.hide_position[:] = draws < self.position_dropout
        return self._packer(views, bounds - bounds[0])

    def __repr__(self) -> str:
        return f"PackedRequests({self.columns.num_requests} requests, {len(self)} batches, seed {self.seed})"


class PackedViews:
    """Element i is batch i of views in their given order, each packed once: for evaluation."""

    def __init__(self, columns: Columns, views: Views, shape: BatchShape):
        self._packer = Packer(columns, shape)
        self._pieces = views.split(shape.longest)
        self._starts = plan(self._pieces.length, shape)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> Batch:
        return self._packer(self._batch(index))

    def rows(self, index: int) -> Int64[np.ndarray, " n"]:
        """Return which candidate rows of the columns batch `index` holds, in the batch's order."""
        return self._packer.rows(self._batch(index))

    def hidden(self, index: int) -> np.ndarray:
        """Return for each of those candidates whether its position was hidden."""
        batch = self._batch(index)
        return np.repeat(batch.hide_position, batch.length)

    def _batch(self, index: int) -> Views:
        return self._pieces.take(np.arange(self._starts[index], self._starts[index + 1]))

    def __repr__(self) -> str:
        return f"PackedViews({len(self._pieces.length)} lists, {len(self)} batches)"


def packed(
    data: Columns | Blocks, shape: BatchShape, *, seed: int, num_epochs: int = 1, position_dropout: float = 0.0
) -> PackedRequests | PackedBlocks:
    """Return the batches of a run over mapped columns or a dataset of blocks; the orders differ, the features do not."""
    if isinstance(data, Columns):
        return PackedRequests(data, shape, seed=seed, num_epochs=num_epochs, position_dropout=position_dropout)
    return PackedBlocks(data, shape, seed=seed, num_epochs=num_epochs, position_dropout=position_dropout)


def iterate(
    source: Any,
    *,
    num_threads: int = 0,
    row_map: RowMap | None = None,
    share: tuple[int, int] = (0, 1),
) -> BatchIterator:
    """Iterate over a source's batches in order; `get_state` and `set_state` save and restore the place.

    A source has a length, and its element i is batch i, whatever was asked for before.

    `row_map` rewrites each batch for a store of fewer rows. A `share` (i, n) is every n-th batch, from batch i on.

    No reader threads by default: packing runs while the device computes, and on one core a thread only adds switches.
    """
    dataset = MapDataset.source(source)
    if share != (0, 1):
        dataset = dataset[share[0] :: share[1]]
    if row_map is not None:
        dataset = dataset.map(row_map)
    return iter(dataset.to_iter_dataset(ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads)))


def shown_lists(columns: Columns) -> Views:
    """View every request's exposed candidates at their true positions."""
    rows = np.flatnonzero(columns.exposed)
    offsets = np.searchsorted(rows, columns.candidate_offsets)
    hidden = np.zeros(columns.num_requests, np.bool_)
    return Views(
        request=np.arange(columns.num_requests),
        start=offsets[:-1],
        length=np.diff(offsets),
        hide_position=hidden,
        candidates=rows,
    )


def full_lists(columns: Columns, num_requests: int | None = None) -> Views:
    """View the whole lists of the first requests, positions hidden, as they stand before anything is shown."""
    views = Views.all_of(columns, hide_position=True)
    return views if num_requests is None else views.take(np.arange(min(num_requests, columns.num_requests)))


def interleave(shown: Views, full: Views) -> Views:
    """Merge two sets of views, spread evenly among each other, so that batches are alike and one shape serves both."""
    assert shown.candidates is not None and full.candidates is None
    num_rows = int((full.start + full.length).max(initial=0))
    candidates = np.concatenate([shown.candidates, np.arange(num_rows)])
    both = Views(
        request=np.concatenate([shown.request, full.request]),
        start=np.concatenate([shown.start, full.start + len(shown.candidates)]),
        length=np.concatenate([shown.length, full.length]),
        hide_position=np.concatenate([shown.hide_position, full.hide_position]),
        candidates=candidates,
    )
    place = np.concatenate([np.arange(len(v.request)) / max(len(v.request), 1) for v in (shown, full)])
    return both.take(np.argsort(place, kind="stable"))
