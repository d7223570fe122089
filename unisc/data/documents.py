"""Texts as batches for a language model: one text a row, begun and ended by special tokens."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from unisc.data.ragged import Ragged
from unisc.data.text import BEGIN, END
from unisc.errors import InputError


class TextBatch(NamedTuple):
    """`<begin> text` as inputs, `text <end>` as what each is to foresee, and where both are real."""

    tokens: Int[np.ndarray, "B T"]
    targets: Int[np.ndarray, "B T"]
    valid: Bool[np.ndarray, "B T"]


class Documents:
    """Element i is batch i of a run over `num_epochs` passes of some texts, in an order drawn anew by (seed, epoch).

    Texts are cut to `max_len` tokens. A pass ends with its last full batch; what is left over waits for another pass's order.

    Raises:
      InputError: fewer texts than a batch.
    """

    def __init__(self, texts: Ragged, *, name: str, batch_size: int, max_len: int, seed: int, num_epochs: int):
        if texts.num_rows < batch_size:
            raise InputError(f"batch_size {batch_size}: there are {texts.num_rows} texts; give at most that")
        self._texts, self._max_len, self._seed, self._num_epochs = texts, max_len, seed, num_epochs
        self.batch_size = batch_size
        self.identity = f"texts {name} max_len {max_len} seed {seed}"
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self._num_epochs * (self._texts.num_rows // self.batch_size)

    def __getitem__(self, index: int) -> TextBatch:
        epoch, batch = divmod(index, self._texts.num_rows // self.batch_size)
        if epoch not in self._orders:
            self._orders = {epoch: np.random.default_rng([self._seed, epoch]).permutation(self._texts.num_rows)}
        return text_batch(self._texts, self._orders[epoch][batch * self.batch_size :][: self.batch_size], self._max_len)

    def __repr__(self) -> str:
        return f"Documents({self._texts.num_rows} texts, {len(self)} batches, seed {self._seed})"


def text_batch(texts: Ragged, rows: Int[np.ndarray, " B"], max_len: int) -> TextBatch:
    """Lay some texts out as a batch; a cut text ends where it is cut, without the end's token."""
    cut, real = texts.padded(rows, max_len, keep="first")
    lengths = texts.offsets[np.asarray(rows) + 1] - texts.offsets[rows]
    tokens = np.concatenate([np.full((len(rows), 1), BEGIN, np.int32), cut], axis=1)
    targets = np.concatenate([cut, np.zeros((len(rows), 1), np.int32)], axis=1)
    ends = np.flatnonzero(lengths <= max_len)
    targets[ends, lengths[ends]] = END
    valid = np.concatenate([real, np.zeros((len(rows), 1), bool)], axis=1)
    valid[ends, lengths[ends]] = True
    return TextBatch(tokens, targets, valid)
