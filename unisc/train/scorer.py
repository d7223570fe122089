"""Scores of lists that nobody has been shown yet, by one compiled program however many lists come."""

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from unisc.data.columns import Columns
from unisc.data.pack import BatchShape
from unisc.data.pipeline import PackedViews, full_lists, iterate
from unisc.errors import InputError
from unisc.train.step import compiled, make_eval_step
from unisc.train.trained import Trained

CLICK = 0


class Scorer:
    """Scores whole lists as `unisc.train.evaluate` does: positions hidden, lists cut at the ranker's own length.

    `mean_list_len` is what lists have on average; with it and `batch_candidates` the batch's shape is fixed, and so are sums.
    """

    def __init__(self, trained: Trained, *, batch_candidates: int, mean_list_len: float):
        about = trained.about
        self.shape = BatchShape.of(
            about.spec,
            candidates=max(batch_candidates, about.list_len),
            mean_list_len=mean_list_len,
            list_len=about.list_len,
        )
        graphdef, params, rest = nnx.split(trained.model, nnx.Param, ...)
        self._step = make_eval_step(graphdef)
        self._state = nnx.to_pure_dict(params), nnx.to_pure_dict(rest), trained.table
        self._row_map = trained.row_map

    def __call__(self, columns: Columns) -> Float[np.ndarray, "N"]:
        """Return the click logit of every candidate.

        Raises:
          InputError: a logit that is not a number.
        """
        out = np.full(len(columns.item_id), np.nan, np.float32)
        source = PackedViews(columns, full_lists(columns), self.shape)
        if not len(source):
            return out
        step = compiled(self._step, *self._state, self._row_map(source[0]))
        pending: tuple[int, jax.Array] | None = None
        for index, batch in enumerate(iterate(source, row_map=self._row_map)):
            logits = step(*self._state, batch)
            if pending is not None:  # read one batch late: packing and computing overlap
                _store(out, source, *pending)
            pending = (index, logits)
        assert pending is not None
        _store(out, source, *pending)
        if not np.isfinite(out).all():
            raise InputError("scores: not numbers; train the ranker again with lower learning rates")
        return out


def _store(out: np.ndarray, source: PackedViews, index: int, logits: jax.Array) -> None:
    rows = source.rows(index)
    out[rows] = np.asarray(logits)[: len(rows), CLICK]
