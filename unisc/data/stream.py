"""Batches from a dataset of blocks: blocks shuffled over the whole split, requests within windows of blocks.

An epoch's blocks are permuted, dealt to the hosts and cut into equal windows of about W blocks. A window is decoded and encoded
whole, its requests are permuted and packed. Everything is decided by (seed, epoch, window), so that any batch can be made at
any time and the place in a run is one number. Windows are read ahead by threads while earlier ones are packed.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from unisc.data.blocks import Blocks
from unisc.data.features import Batch
from unisc.data.pack import BatchShape, Packer, Views, batch_bounds, num_batches, plan
from unisc.errors import InputError

BATCHES_PER_WINDOW = 64
"""Aimed at: a window's last batch is half empty on average, so 0.8 % of the slots are lost beyond what packing loses anyway."""
LEAST_REQUESTS_PER_WINDOW = 4096
"""So that small batches, too, are drawn from many requests."""

_BLOCK_ORDER, _REQUEST_ORDER, _DROPOUT = range(3)


def _draws(purpose: int, seed: int, epoch: int, window: int = 0, batch: int = 0) -> np.random.Generator:
    # All keys have one length: trailing zeros do not change a generator, so [seed, epoch] and [seed, epoch, 0] would be one.
    return np.random.default_rng([seed, epoch, window, batch, purpose + 1])


class _Window(NamedTuple):
    """The blocks of one window, which epoch and place in it the window has, and where its batches begin in the run."""

    epoch: int
    place: int
    blocks: Int64[np.ndarray, " W"]


class _Loaded(NamedTuple):
    """A window in memory: its requests in shuffled order, where each batch of them starts, and what packs them."""

    pieces: Views
    starts: Int64[np.ndarray, " parts1"]
    packer: Packer


class PackedBlocks:
    """Element i is batch i of a run over `num_epochs` passes; an element depends on nothing but (blocks, arguments, i).

    Every candidate is packed once an epoch. Of several hosts each gets every `host_count`th block of the epoch's order; all get
    equally many batches, so that those who would have more leave out their last ones: `num_dropped` batches over all hosts and
    epochs. `window_blocks` is W, by default enough for 64 batches. `read_ahead` threads prepare a window each ahead of the one
    being packed; that many windows and two more are held in memory. `position_dropout` is as in `PackedRequests`.

    Raises:
      InputError: fewer blocks than hosts.
    """

    def __init__(
        self,
        blocks: Blocks,
        shape: BatchShape,
        *,
        seed: int,
        num_epochs: int = 1,
        position_dropout: float = 0.0,
        window_blocks: int | None = None,
        host_index: int = 0,
        host_count: int = 1,
        read_ahead: int = 1,
    ):
        if not 0 <= host_index < host_count <= blocks.num_blocks:
            raise InputError(
                f"host {host_index} of {host_count}: a dataset of {blocks.num_blocks} blocks serves as many hosts at most,"
                " numbered from 0; make it again with smaller blocks"
            )
        self.blocks, self.shape, self.seed, self.position_dropout = blocks, shape, seed, position_dropout
        self.window_blocks = window_blocks or _window_blocks(blocks, shape)
        self._windows: list[_Window] = []
        self._first = [0]
        self.num_dropped = 0
        for epoch in range(num_epochs):
            hosts = [list(self._epoch(epoch, host, host_count)) for host in range(host_count)]
            totals = [sum(count for _, count in host) for host in hosts]
            left = min(totals)
            self.num_dropped += sum(totals) - left * host_count
            for window, count in hosts[host_index]:
                if kept := min(count, left):
                    self._windows.append(window)
                    self._first.append(self._first[-1] + kept)
                    left -= kept
        self._packer: Packer | None = None
        self._lock = threading.Lock()
        self._loaded: OrderedDict[int, Future[_Loaded]] = OrderedDict()
        self._read_ahead = read_ahead
        self._threads = ThreadPoolExecutor(max(1, read_ahead), thread_name_prefix="windows")

    def __len__(self) -> int:
        return self._first[-1]

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        at = int(np.searchsorted(self._first, index, side="right")) - 1
        pieces, starts, packer = self._get(at)
        batch = index - self._first[at]
        bounds = batch_bounds(starts, self.shape, batch)
        views = pieces.take(np.arange(bounds[0], bounds[-1]))
        if self.position_dropout > 0:
            window = self._windows[at]
            draws = _draws(_DROPOUT, self.seed, window.epoch, window.place, batch).random(len(views.request))
            views.hide_position[:] = draws < self.position_dropout
        return packer(views, bounds - bounds[0])

    def __repr__(self) -> str:
        return f"PackedBlocks({self.blocks.num_requests} requests, {len(self)} batches, seed {self.seed})"

    def _epoch(self, epoch: int, host: int, host_count: int) -> Iterator[tuple[_Window, int]]:
        """Yield a host's windows of an epoch and how many batches each gives."""
        order = _draws(_BLOCK_ORDER, self.seed, epoch).permutation(self.blocks.num_blocks)[host::host_count]
        num_windows = max(1, round(len(order) / self.window_blocks))
        for place, blocks in enumerate(np.array_split(order, num_windows)):
            window = _Window(epoch, place * host_count + host, blocks)
            _, starts = self._plan(window)
            yield window, num_batches(starts, self.shape)

    def _plan(self, window: _Window) -> tuple[Views, Int64[np.ndarray, " parts1"]]:
        """Order a window's requests and assign them to batches, from their lengths alone."""
        lengths = np.concatenate([self.blocks.lengths[self.blocks.rows_of(int(b))] for b in window.blocks]).astype(np.int64)
        views = Views(
            request=np.arange(len(lengths)),
            start=np.cumsum(lengths) - lengths,
            length=lengths,
            hide_position=np.zeros(len(lengths), np.bool_),
        )
        pieces = views.split(self.shape.longest)
        order = _draws(_REQUEST_ORDER, self.seed, window.epoch, window.place).permutation(len(pieces.length))
        shuffled = pieces.take(order)
        return shuffled, plan(shuffled.length, self.shape)

    def _get(self, at: int) -> _Loaded:
        """Return a window, and have those after it loaded meanwhile."""
        with self._lock:
            for ahead in range(at, min(at + 1 + self._read_ahead, len(self._windows))):
                if ahead not in self._loaded:
                    self._loaded[ahead] = self._threads.submit(self._load, self._windows[ahead])
                self._loaded.move_to_end(ahead)
            found = self._loaded[at]
            while len(self._loaded) > self._read_ahead + 2:
                self._loaded.popitem(last=False)  # not cancelled: another thread may be waiting for it
        return found.result()

    def _load(self, window: _Window) -> _Loaded:
        columns = self.blocks.read([int(b) for b in window.blocks])
        pieces, starts = self._plan(window)
        with self._lock:
            if self._packer is None:
                self._packer = Packer(columns, self.shape)
            packer = self._packer.over(columns)
        return _Loaded(pieces, starts, packer)


def _window_blocks(blocks: Blocks, shape: BatchShape) -> int:
    per_block = blocks.num_examples / blocks.num_blocks
    least = LEAST_REQUESTS_PER_WINDOW / blocks.requests_per_block
    return math.ceil(max(least, BATCHES_PER_WINDOW * shape.candidates / per_block))
