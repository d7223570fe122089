"""Packs ragged requests into batches of one fixed shape, so that a model is compiled once and padding stays small."""

import copy
import dataclasses
import math
import threading
from collections.abc import Sequence
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

    Longer lists than C are cut into pieces; C is 0 where no model works on whole lists, and a list may then fill the batch. A
    batch is packed in `parts` of equal numbers of slots, none of which shares a request with another, so that devices and
    micro-batches can have whole parts.
    """

    candidates: int
    requests: int
    unique_rows: int
    list_len: int = 0
    parts: int = 1

    @classmethod
    def of(cls, spec: FeatureSpec, *, candidates: int, mean_list_len: float, list_len: int = 0, parts: int = 1) -> "BatchShape":
        """Derive R from the mean list length, and U as a bound no batch of that R and B can exceed.

        A table cannot be touched in more rows than it has, nor more often than the batch has slots that name it.
        """
        if candidates < 1:
            raise InputError(f"batch_candidates {candidates}: give at least 1")
        if parts < 1 or candidates % parts:
            raise InputError(
                f"num_parts {parts}: give a divisor of batch_candidates {candidates} (one part a device, if you did not say)"
            )
        of_part = candidates // parts
        if not 0 <= list_len <= of_part:
            raise InputError(
                f"list_len {list_len}: give at least 0 and at most the {of_part} candidates of a part of the batch"
            )
        mean_list_len = max(1.0, min(mean_list_len, list_len or mean_list_len))
        requests = parts * max(1, min(of_part, math.ceil(REQUEST_SLACK * of_part / mean_list_len)))
        slots_per_field = {"request": requests, "candidate": candidates, "history": requests * spec.history_len}
        slots = dict.fromkeys((t.name for t in spec.tables), 0)
        for field in spec.fields:
            slots[field.table] += slots_per_field[field.level]
        unique_rows = sum(min(table.num_rows, slots[table.name]) for table in spec.tables)
        return cls(candidates=candidates, requests=requests, unique_rows=unique_rows, list_len=list_len, parts=parts)

    @property
    def longest(self) -> int:
        """Candidates that a list can have before it is cut."""
        return self.list_len or self.part_candidates

    @property
    def part_candidates(self) -> int:
        """Candidate slots of a part."""
        return self.candidates // self.parts

    @property
    def part_requests(self) -> int:
        """Request slots of a part."""
        return self.requests // self.parts


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


def plan(lengths: Int64[np.ndarray, " V"], shape: BatchShape) -> Int64[np.ndarray, " parts1"]:
    """Assign views to parts of batches in order, one that does not fit starting the next: where each starts, and the end.

    Batch i has the parts from `i * shape.parts` on.

    Raises:
      InputError: a view longer than `shape.longest`.
    """
    if not len(lengths):
        return np.zeros(1, np.int64)
    if lengths.max() > shape.longest:
        raise InputError(f"list of {lengths.max()} candidates: more than the {shape.longest} that fit; split it first")
    ends = np.cumsum(lengths)
    places = np.arange(len(lengths))
    following = np.minimum(
        np.searchsorted(ends, ends - lengths + shape.part_candidates, side="right"), places + shape.part_requests
    ).tolist()
    starts = [0]
    while starts[-1] < len(lengths):
        starts.append(following[starts[-1]])
    return np.asarray(starts, np.int64)


def num_batches(starts: Int64[np.ndarray, " parts1"], shape: BatchShape) -> int:
    """Return how many batches a plan makes."""
    return -(-(len(starts) - 1) // shape.parts)


def batch_bounds(starts: Int64[np.ndarray, " parts1"], shape: BatchShape, batch: int) -> Int64[np.ndarray, " bounds"]:
    """Return where the parts of a batch start among the planned views, and where the last ends."""
    return starts[batch * shape.parts : (batch + 1) * shape.parts + 1]


Slots = slice | np.ndarray
"""Which slots of a batch are filled: a slice where they are neighbours."""


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

    def __call__(self, views: Views, bounds: Sequence[int] | None = None) -> Batch:
        """Pack views that fit into one batch; the rest of its slots is padding.

        Part p holds the views from `bounds[p]` to `bounds[p + 1]`; all are in the first part by default.
        """
        cols, spec, b, r, s = self.columns, self.spec, self.shape.candidates, self.shape.requests, self.spec.history_len
        m_req, m_cand, m_hist = (len(spec.at(level)) for level in ("request", "candidate", "history"))
        rows, req = self.rows(views), views.request
        requests, candidates, first = self._slots(views, bounds)

        # One buffer for all ids, so that they are made unique in one go; its three parts are viewed in their shapes.
        ids = np.empty(r * m_req + b * m_cand + r * s * m_hist, np.int32)
        request_ids = ids[: r * m_req].reshape(r, m_req)
        candidate_ids = ids[r * m_req : r * m_req + b * m_cand].reshape(b, m_cand)
        history_ids = ids[r * m_req + b * m_cand :].reshape(r, s, m_hist)
        # Padding points at a row the batch has anyway, so that it never adds one.
        filler = cols.request_fields[req[0], 0] if m_req else cols.candidate_fields[rows[0], 0]
        _fill(request_ids, requests, cols.request_fields, req, filler)
        _fill(candidate_ids, candidates, cols.candidate_fields, rows, filler)

        history_mask = np.zeros((r, s), np.bool_)
        begin = cols.history_offsets[req]
        history_mask[requests] = np.arange(s) < (cols.history_offsets[req + 1] - begin)[:, None]
        if len(cols.history_fields):
            entries = begin[:, None] + np.arange(s)
            _fill(history_ids, requests, cols.history_fields, entries, filler)
        history_ids[~history_mask] = filler

        candidate_numeric = np.zeros((b, cols.candidate_numeric.shape[1]), np.float32)
        _fill(candidate_numeric, candidates, cols.candidate_numeric, rows, 0)
        # A padding candidate belongs to the first request of its part.
        request_index = np.repeat(
            np.arange(self.shape.parts, dtype=np.int32) * self.shape.part_requests, self.shape.part_candidates
        )
        request_index[candidates] = np.repeat(np.arange(r)[requests], views.length)
        if views.hide_position.any():
            hidden = np.arange(b)[candidates][np.repeat(views.hide_position, views.length)]
            for column, absent in self._position_fields:
                candidate_ids[hidden, column] = absent
            if self._position_numeric is not None:
                candidate_numeric[hidden, self._position_numeric] = 0
        lists = np.full((r, self.shape.list_len), b, np.int32)
        if self.shape.list_len:
            slots = np.arange(self.shape.list_len, dtype=np.int32)
            lists[requests] = np.where(slots < views.length[:, None], first[:, None] + slots, b)
        domain = np.zeros(b, np.int32)
        domain[candidates] = np.repeat(cols.domain[req], views.length)
        labels = np.zeros((b, len(spec.tasks)), np.float32)
        labels[candidates] = cols.labels[rows]
        weights = np.zeros((b, len(spec.tasks)), np.float32)
        weights[candidates] = cols.label_weights[rows]

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

    def _slots(self, views: Views, bounds: Sequence[int] | None) -> tuple[Slots, Slots, np.ndarray]:
        """Return the request slots and the candidate slots of the views, and the slot of each view's first candidate."""
        total = np.cumsum(views.length)
        first = total - views.length
        if self.shape.parts == 1 or bounds is None:
            return slice(len(first)), slice(int(total[-1])), first
        part = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
        before = np.concatenate([[0], total])[np.asarray(bounds)[:-1]]
        requests = part * self.shape.part_requests + np.arange(len(part)) - np.asarray(bounds)[part]
        moved = part * self.shape.part_candidates - before[part]
        return requests, np.arange(int(total[-1])) + np.repeat(moved, views.length), first + moved

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


def _fill(out: np.ndarray, slots: Slots, source: np.ndarray, rows: np.ndarray, rest: int | float) -> None:
    """Write rows of `source` into some slots, `rest` into the others."""
    if isinstance(slots, slice):
        np.take(source, rows, axis=0, out=out[slots], mode="clip")
        out[slots.stop :] = rest
    else:
        out[...] = rest
        out[slots] = source.take(rows, axis=0, mode="clip")
