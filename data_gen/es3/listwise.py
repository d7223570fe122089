"""Flat, ordered rows packed into list-wise Parquet: one row a request, bounded memory, the same bytes every time."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_gen.es3.hashing import BUCKETS
from data_gen.es3.session import Session
from data_gen.es3.timeline import Timeline, histories
from unisc.data.schema import SAMPLES

PART_ENTRIES = 2_000_000
"""List entries (candidates and history) aimed at a part; what packing holds in memory at once."""
_ROW_GROUP = 4096

_CANDIDATE = (
    "item_id", "exposed", "position", "rank", "price", "propensity", "probability", "touches", "touch_age",
    "click", "click_level", "click_origin", "click_ts", "click_weight",
    "purchase", "purchase_level", "purchase_origin", "purchase_ts", "purchase_weight",
)  # fmt: skip


def write_split(
    session: Session,
    directory: Path,
    requests: ir.Table,
    candidates: ir.Table,
    timeline: Timeline,
    *,
    domains: Sequence[str],
    history_len: int,
) -> None:
    """Write `part-*.parquet` of SAMPLES, rows ordered by (order_key, request_id) across all parts.

    Each part is a range of order_key, computed and packed by itself, so memory does not grow with the data.
    """
    directory.mkdir(parents=True)
    entries = session.first(candidates.aggregate(n=candidates.count()))["n"]
    entries += session.first(requests.aggregate(n=requests.count()))["n"] * history_len
    parts = max(1, -(-entries // PART_ENTRIES))
    edges = [BUCKETS * i // parts for i in range(parts + 1)]
    for i, (low, high) in enumerate(itertools.pairwise(edges)):
        some = requests.filter((requests.order_key >= low) & (requests.order_key < high))
        lists = candidates.filter((candidates.order_key >= low) & (candidates.order_key < high))
        packed = _pack(
            session.fetch(some.order_by("order_key", "request_id")),
            session.fetch(_listed(lists)),
            session.fetch(histories(some, timeline, history_len).order_by("order_key", "request_id", "back")),
            domains,
        )
        pq.write_table(packed, directory / f"part-{i:05d}.parquet", row_group_size=_ROW_GROUP, compression="zstd")


def _listed(candidates: ir.Table) -> ir.Table:
    """Candidates in list order: shown ones by slot, then the others by rank."""
    slot = candidates.position.fill_null(32767)
    ordered = candidates.order_by(
        "order_key", "request_id", candidates.exposed.desc(), slot, candidates["rank"], candidates.item_id
    )
    return ordered.select(
        "request_id",
        *(c for c in _CANDIDATE if c in candidates.columns and c not in ("position", "price", "propensity")),
        position=candidates.position.fill_null(-1),
        price=candidates.price.fill_null(float("nan")),
        propensity=candidates.propensity.fill_null(float("nan")),
        click=(candidates.click_level > 0).cast("int8"),
        purchase=(candidates.purchase_level > 0).cast("int8"),
        click_ts=candidates.click_label_ts,
        purchase_ts=candidates.purchase_label_ts,
        click_weight=ibis.literal(1.0, "float32"),
        purchase_weight=ibis.literal(1.0, "float32"),
    )


def _pack(rows: pa.Table, candidates: pa.Table, history: pa.Table, domains: Sequence[str]) -> pa.Table:
    ids = rows["request_id"].to_numpy()
    columns = {
        name: rows[name] for name in ("request_id", "user_id", "ts", "origin", "query_id", "query_level", "scene", "shop_id")
    }
    columns["domain"] = pc.take(pa.array(domains, pa.string()), rows["domain"])
    offsets = _offsets(ids, history)
    for name in ("item_id", "kind", "domain", "age"):
        columns[f"history_{name}"] = _lists(offsets, history[name], SAMPLES.field(f"history_{name}").type)
    offsets = _offsets(ids, candidates)
    for name in _CANDIDATE:
        columns[name] = _lists(offsets, candidates[name], SAMPLES.field(name).type)
    return pa.table([pa.chunked_array([_whole(columns[f.name])]).cast(f.type) for f in SAMPLES], schema=SAMPLES)


def _offsets(ids: np.ndarray, flat: pa.Table) -> pa.Array:
    """List bounds of each request in rows that stand in the same order of requests."""
    sorter = np.argsort(ids, kind="stable")
    place = sorter[np.searchsorted(ids, flat["request_id"].to_numpy(), sorter=sorter)]
    if np.any(np.diff(place) < 0):
        raise AssertionError("list entries are not in the order of their requests")
    counts = np.bincount(place, minlength=len(ids))
    return pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())


def _lists(offsets: pa.Array, values: pa.ChunkedArray, dtype: pa.ListType) -> pa.Array:
    return pa.ListArray.from_arrays(offsets, _whole(values).cast(dtype.value_type), type=dtype)


def _whole(values: pa.ChunkedArray | pa.Array) -> pa.Array:
    if isinstance(values, pa.Array):
        return values
    return values.combine_chunks() if values.num_chunks != 1 else values.chunk(0)
