"""Packs ragged requests into batches of one fixed shape, so that a model is compiled once and padding stays small."""

import copy
import dataclasses
import math
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from unisc.data.columns import Columns
from unisc.data.features import Batch, FeatureSpec
from unisc.errors import InputError

REQUEST_SLACK = 1.25
"""Request slots over the mean number of requests a full batch holds: room for batches of short lists."""


POSITION_FIELDS = ("position", "steps_below")
"""Candidate fields that only a shown candidate has; each is the name of its table, whose row 0 stands for not shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchShape:
    """The static sizes of a batch: candidates (B), requests (R), distinct rows of the fused table (U), slots of a list (C).

    Longer lists than C are cut into pieces; C is 0 where no model works on whole lists, and a list may then fill the batch.
    """

    candidates: int
    requests: int
    unique_rows: int
    list_len: int = 0

    @classmethod
    def of(cls, spec: FeatureSpec, *, candidates: int, mean_list_len: float, list_len: int = 0) -> "BatchShape":
        """Derive R from the mean list length, and U as a bound no batch of that R and B can exceed.

        A table cannot be touched in more rows than it has, nor more often than the batch has slots that name it.
        """
        if candidates < 1:
            raise InputError(f"batch_candidates {candidates}: give at least 1")
        if not 0 <= list_len <= candidates:
            raise InputError(f"list_len {list_len}: give at least 0 and at most batch_candidates {candidates}")
        mean_list_len = min(mean_list_len, list_len or mean_list_len)
        requests = max(1, min(candidates, math.ceil(REQUEST_SLACK * candidates / max(mean_list_len, 1.0))))
        slots_per_field = {"request": requests, "candidate": candidates, "history": requests * spec.history_len}
        slots = dict.fromkeys((t.name for t in spec.tables), 0)
        for field in spec.fields:
            slots[field.table] += slots_per_field[field.level]
        unique_rows = sum(min(table.num_rows, slots[table.name]) for table in spec.tables)
        return cls(candidates=candidates, requests=requests, unique_rows=unique_rows, list_len=list_len)

    @property
    def longest(self) -> int:
        """Candidates that a list can have before it is cut."""
        return self.list_len or self.candidates


@dataclass(frozen=True, kw_only=True, slots=True)
class Views:
    """Lists to be packed, V of them: each shows some candidates of one request.

    View v holds entries `start[v]` to `start[v] + length[v]` of `candidates`, or of the columns themselves where `candidates`
    is None. With `hide_position` a view's candidates are given as not shown anywhere.
    """

    request: Int64[np.ndarray, " V"]
    start: Int64[np.ndarray, " V"]
    length: Int64[np.ndarray, " V"]
    hide_position: Bool[np.ndarray, " V"]
    candidates: Int64[np.ndarray, " K"] | None = None

    @classmethod
    def all_of(cls, columns: Columns, *, hide_position: bool = False) -> "Views":
        """View every request's whole list, in the order of the columns."""
        offsets, q = columns.candidate_offsets, columns.num_requests
        hidden = np.full(q, hide_position)
        return cls(request=np.arange(q), start=offsets[:-1], length=np.diff(offsets), hide_position=hidden)

    def take(self, order: Int64[np.ndarray, " W"]) -> "Views":
        """Return the views at the given places, in that order."""
        names = ("request", "start", "length", "hide_position")
        return dataclasses.replace(self, **{name: getattr(self, name)[order] for name in names})

    def split(self, longest: int) -> "Views":
        """Cut views longer than `longest` candidates into pieces, and drop empty ones."""
        pieces = -(-self.length // longest)
        parent = np.repeat(np.arange(len(pieces)), pieces)
        skipped = (np.arange(len(parent)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * longest
        part = self.take(parent)
        return dataclasses.replace(part, start=part.start + skipped, length=np.minimum(part.length - skipped, longest))


def plan(lengths: Int64[np.ndarray, " V"], shape: BatchShape) -> Int64[np.ndarray, " batches1"]:
    """Assign views to batches in order, one that does not fit starting the next: return where each batch starts, and the end.

    No length may exceed `shape.longest`.
    """
    if not len(lengths):
        return np.zeros(1, np.int64)
    ends = np.cumsum(lengths)
    places = np.arange(len(lengths))
    following = np.minimum(
        np.searchsorted(ends, ends - lengths + shape.candidates, side="right"), places + shape.requests
    ).tolist()
    starts = [0]
    while starts[-1] < len(lengths):
        starts.append(following[starts[-1]])
    return np.asarray(starts, np.int64)


class Packer:
    """Builds batches of `shape` from views of `columns`; safe to call from several threads."""

    def __init__(self, columns: Columns, shape: BatchShape):
        self.columns, self.shape, self.spec = columns, shape, columns.spec
        self._scratch = threading.local()
        offsets = self.spec.table_offsets()
        names = [f.name for f in self.spec.at("candidate")]
        self._position_fields = [(names.index(name), offsets[name]) for name in POSITION_FIELDS if name in names]
        numeric = [f.name for f in self.spec.numeric_at("candidate")]
        self._position_numeric = numeric.index("reciprocal_position") if "reciprocal_position" in numeric else None

    def over(self, columns: Columns) -> "Packer":
        """Return a packer of other columns of the same features, which shares this one's working memory."""
        other = copy.copy(self)
        other.columns = columns
        return other

    def rows(self, views: Views) -> Int64[np.ndarray, " n"]:
        """Return the candidate rows of the columns that a batch of these views holds, in the batch's order."""
        first = np.cumsum(views.length) - views.length
        entries = np.repeat(views.start - first, views.length) + np.arange(int(views.length.sum()))
        return entries if views.candidates is None else views.candidates[entries]

    def __call__(self, views: Views) -> Batch:
        """Pack views that fit into one batch; the rest of its slots is padding."""
        cols, spec, b, r, s = self.columns, self.spec, self.shape.candidates, self.shape.requests, self.spec.history_len
        m_req, m_cand, m_hist = (len(spec.at(level)) for level in ("request", "candidate", "history"))
        rows, req = self.rows(views), views.request
        n, q = len(rows), len(req)

        # One buffer for all ids, so that they are made unique in one go; its three parts are viewed in their shapes.
        ids = np.empty(r * m_req + b * m_cand + r * s * m_hist, np.int32)
        request_ids = ids[: r * m_req].reshape(r, m_req)
        candidate_ids = ids[r * m_req : r * m_req + b * m_cand].reshape(b, m_cand)
        history_ids = ids[r * m_req + b * m_cand :].reshape(r, s, m_hist)
        np.take(cols.request_fields, req, axis=0, out=request_ids[:q], mode="clip")
        np.take(cols.candidate_fields, rows, axis=0, out=candidate_ids[:n], mode="clip")
        filler = request_ids[0, 0]  # padding points at a row the batch has anyway, so that it never adds one
        request_ids[q:] = filler
        candidate_ids[n:] = filler

        history_mask = np.zeros((r, s), np.bool_)
        begin = cols.history_offsets[req]
        history_mask[:q] = np.arange(s) < (cols.history_offsets[req + 1] - begin)[:, None]
        if len(cols.history_fields):
            entries = begin[:, None] + np.arange(s)
            np.take(cols.history_fields, entries, axis=0, out=history_ids[:q], mode="clip")
        history_ids[~history_mask] = filler

        candidate_numeric = np.zeros((b, cols.candidate_numeric.shape[1]), np.float32)
        np.take(cols.candidate_numeric, rows, axis=0, out=candidate_numeric[:n], mode="clip")
        request_index = np.zeros(b, np.int32)
        request_index[:n] = np.repeat(np.arange(q), views.length)
        if views.hide_position.any():
            hidden = np.flatnonzero(views.hide_position[request_index[:n]])
            for column, absent in self._position_fields:
                candidate_ids[hidden, column] = absent
            if self._position_numeric is not None:
                candidate_numeric[hidden, self._position_numeric] = 0
        lists = np.full((r, self.shape.list_len), b, np.int32)
        if self.shape.list_len:
            slots = np.arange(self.shape.list_len, dtype=np.int32)
            first = np.cumsum(views.length) - views.length
            lists[:q] = np.where(slots < views.length[:, None], first[:, None] + slots, b)
        domain = np.zeros(b, np.int32)
        domain[:n] = cols.domain[req][request_index[:n]]
        labels = np.zeros((b, len(spec.tasks)), np.float32)
        labels[:n] = cols.labels[rows]
        weights = np.zeros((b, len(spec.tasks)), np.float32)
        weights[:n] = cols.label_weights[rows]

        unique_rows, local = self._unique(ids)
        arrays: dict[str, Any] = {  # host arrays: the step's call moves them to the device
            "unique_rows": unique_rows,
            "request_ids": local[: r * m_req].reshape(r, m_req),
            "candidate_ids": local[r * m_req : r * m_req + b * m_cand].reshape(b, m_cand),
            "history_ids": local[r * m_req + b * m_cand :].reshape(r, s, m_hist),
            "history_mask": history_mask,
            "request_numeric": np.zeros((r, 0), np.float32),
            "candidate_numeric": candidate_numeric,
            "request_index": request_index,
            "lists": lists,
            "domain": domain,
            "labels": labels,
            "weights": weights,
        }
        return Batch(**arrays)

    def _unique(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the distinct rows among `ids`, padded to U, and where each id stands among them.

        A scratch entry a table row replaces sorting, at a fifth of the time: every id writes its own place there, one of them
        stays, and that one speaks for its row. The scratch is never cleared, since only entries just written are read.
        """
        scratch = getattr(self._scratch, "place", None)
        if scratch is None:
            scratch = self._scratch.place = np.zeros(self.spec.num_rows, np.int32)
        places = np.arange(len(ids), dtype=np.int32)
        scratch[ids] = places
        distinct = ids[scratch[ids] == places]
        scratch[distinct] = places[: len(distinct)]
        unique_rows = np.full(self.shape.unique_rows, self.spec.num_rows, np.int32)
        unique_rows[: len(distinct)] = distinct
        return unique_rows, scratch[ids]
