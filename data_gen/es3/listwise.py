"""Flat, ordered rows packed list-wise (one row a request), bucket by bucket, then merged into shards in hash order."""

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_gen.es3.hashing import BUCKETS
from data_gen.es3.rowwise import explode
from data_gen.es3.session import Session, parquet_files
from data_gen.es3.timeline import Timeline, histories
from unisc.data.schema import SAMPLES

PART_ENTRIES = 2_000_000
"""List entries (candidates and history) aimed at a part; what packing and merging hold in memory at once."""
ROW_GROUP = 4096
_KEY = pa.field("order_key", pa.int64())
PACKED = pa.schema([_KEY, *SAMPLES])
"""A packed row on its way to its shard."""

_CANDIDATE = tuple(f.name for f in SAMPLES if pa.types.is_list(f.type) and not f.name.startswith("history_"))


def pack_bucket(
    session: Session,
    directory: Path,
    requests: ir.Table,
    candidates: ir.Table,
    timeline: Timeline,
    *,
    domains: Sequence[str],
    history_len: int,
    history_max_age: int,
) -> None:
    """Write one bucket's rows as PACKED Parquet files, ordered by (order_key, request_id) within and across files.

    Each file is a range of order_key, computed and packed by itself, so memory does not grow with the bucket.
    """
    directory.mkdir(parents=True)
    entries = session.first(candidates.aggregate(n=candidates.count()))["n"]
    entries += session.first(requests.aggregate(n=requests.count()))["n"] * history_len
    parts = max(1, -(-entries // PART_ENTRIES))
    edges = [BUCKETS * i // parts for i in range(parts + 1)]
    for i, (low, high) in enumerate(itertools.pairwise(edges)):
        some = requests.filter((requests.order_key >= low) & (requests.order_key < high))
        lists = candidates.filter((candidates.order_key >= low) & (candidates.order_key < high))
        history = histories(some, timeline, history_len, history_max_age)
        packed = _pack(
            session.fetch(some.order_by("order_key", "request_id")),
            session.fetch(_listed(lists)),
            session.fetch(history.order_by("order_key", "request_id", "back")),
            domains,
        )
        if len(packed) or parts == 1:
            pq.write_table(packed, directory / f"part-{i:05d}.parquet", row_group_size=ROW_GROUP, compression="lz4")


def merge_split(buckets: Sequence[Path], directory: Path, *, rows: bool) -> None:
    """Merge the packed rows of all buckets into `part-*.parquet` in one order, that of (order_key, request_id).

    The shards do not depend on how many buckets there were. With `rows` they hold one row a candidate instead of one a request.
    """
    directory.mkdir(parents=True)
    files = [file for bucket in buckets for file in parquet_files(bucket)]
    entries = sum(_entries(file) for file in files)
    parts = max(1, -(-entries // PART_ENTRIES))
    edges = [BUCKETS * i // parts for i in range(parts + 1)]

    def merge(i: int) -> None:
        table = pa.concat_tables([*_between(files, edges[i], edges[i + 1]), PACKED.empty_table()])
        order = np.lexsort((table["request_id"].to_numpy(), table["order_key"].to_numpy()))
        table = table.take(pa.array(order)).drop_columns([_KEY.name])
        # One chunk a column: where a chunk ends would otherwise show in the file.
        table = pa.table([_whole(c) for c in table.columns], schema=SAMPLES)
        out = explode(table) if rows else table
        size = ROW_GROUP * 16 if rows else ROW_GROUP
        pq.write_table(out, directory / f"part-{i:05d}.parquet", row_group_size=size, compression="zstd")

    # Two at a time: one decodes while the other compresses, and memory stays that of two parts.
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(merge, range(parts)))


def _entries(file: Path) -> int:
    metadata = pq.read_metadata(file)
    leaves = [
        i for i in range(len(metadata.schema)) if metadata.schema.column(i).path.split(".")[0] in ("item_id", "history_kind")
    ]
    return sum(metadata.row_group(g).column(i).num_values for g in range(metadata.num_row_groups) for i in leaves)


def _between(files: Sequence[Path], low: int, high: int) -> Iterator[pa.Table]:
    """Read the rows with low <= order_key < high, and of each file only the row groups that can hold any."""
    for file in files:
        with pq.ParquetFile(file) as reader:
            groups = []
            for g in range(reader.num_row_groups):
                span = reader.metadata.row_group(g).column(0).statistics
                if reader.metadata.row_group(g).num_rows and span.min < high and span.max >= low:
                    groups.append(g)
            if groups:
                rows = reader.read_row_groups(groups, use_threads=False)
                key = rows["order_key"]
                yield rows.filter(pc.and_(pc.greater_equal(key, low), pc.less(key, high)))


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
    )


def _pack(rows: pa.Table, candidates: pa.Table, history: pa.Table, domains: Sequence[str]) -> pa.Table:
    ids = rows["request_id"].to_numpy()
    plain = ("order_key", "request_id", "user_id", "ts", "origin", "query_id", "query_level", "scene", "shop_id")
    columns = {name: rows[name] for name in plain}
    columns["domain"] = pc.take(pa.array(domains, pa.string()), rows["domain"])
    offsets = _offsets(ids, history)
    for name in ("item_id", "kind", "domain", "age"):
        columns[f"history_{name}"] = _lists(offsets, history[name], SAMPLES.field(f"history_{name}").type)
    offsets = _offsets(ids, candidates)
    for name in _CANDIDATE:
        columns[name] = _lists(offsets, candidates[name], SAMPLES.field(name).type)
    return pa.table([pa.chunked_array([_whole(columns[f.name])]).cast(f.type) for f in PACKED], schema=PACKED)


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
