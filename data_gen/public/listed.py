"""Log tables from lists that were shown: requests, their entries and events under the source's own keys become dense tables.

Every adapter of a log with lists ends here, so that ids, orders, unknowns and counts mean the same in all of them:

- requests are numbered in the order of time, then of user, then of the source; users, items and queries in the order of their
  keys;
- `rank` is the entry's place in the list as handed over. No source here states a pre-ranker's order;
- a categorical feature of 0, an empty title and a creation time of 0 mean that the source does not say.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unisc.data.schema import CANDIDATES, EVENTS, ITEMS, LOG_TABLES, QUERIES, REQUESTS, USERS, TableSchema
from unisc.errors import InputError

_LONGEST = 2**15 - 1


def account(rows: int, dropped: Mapping[str, int]) -> dict[str, Any]:
    """Account for the rows of a file: in = kept + dropped, by reason; reasons that did not occur are left out."""
    dropped = {reason: int(n) for reason, n in dropped.items() if n}
    return {"in": int(rows), "kept": int(rows) - sum(dropped.values()), "dropped": dropped}


def coded(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Code values from 1 by their order, null as 0; int32."""
    (codes,), _ = dense(column)
    return (codes + 1).astype(np.int32)


def dense(*columns: pa.ChunkedArray | pa.Array) -> tuple[list[np.ndarray], pa.Array]:
    """Code columns of one type from 0 by the order of the values of all of them; null as -1. Return codes and values."""
    chunks = [chunk for c in columns for chunk in (c.chunks if isinstance(c, pa.ChunkedArray) else [c])]
    known = pc.drop_null(pc.unique(pa.chunked_array(chunks, type=columns[0].type)))
    known = known.take(pc.sort_indices(known))
    codes = [pc.fill_null(pc.index_in(c, value_set=known), -1) for c in columns]
    return [c.to_numpy(zero_copy_only=False) if isinstance(c, pa.Array) else c.to_numpy() for c in codes], known


def firsts(column: pa.ChunkedArray) -> np.ndarray:
    """Return the places of the first row of each value, in order."""
    return np.sort(np.unique(column.to_numpy(), return_index=True)[1])


def without_repeats(entries: pa.Table) -> pa.Table:
    """Keep the first entry of each (list, item)."""
    (item,), _ = dense(entries["item"])
    pairs = entries["list"].to_numpy() * (int(item.max(initial=0)) + 1) + item
    return entries.take(np.sort(np.unique(pairs, return_index=True)[1]))


def category_codes(*levels: pa.ChunkedArray | pa.Array) -> list[np.ndarray]:
    """Code the levels of a category tree by their paths, so that equal codes of a level mean equal levels above it, too.

    A null is an unknown level; a path of which nothing is known is 0.
    """
    path = np.zeros(len(levels[0]), np.int64)
    paths = []
    for level in levels:
        codes = coded(level).astype(np.int64)
        known, path = np.unique(path * (codes.max(initial=0) + 1) + codes, return_inverse=True)
        path = path.astype(np.int64) + (0 if len(known) and known[0] == 0 else 1)
        paths.append(path.astype(np.int32))
    return paths


def requests(*, user: Any, ts: Any, domain: str, query: Any = None, scene: Any = None) -> pa.Table:
    """The `lists` of `log_tables`, of one domain."""
    query = pa.nulls(len(user), pa.string()) if query is None else query
    scene = pa.nulls(len(user), pa.int32()) if scene is None else scene
    return pa.table({"user": user, "ts": ts, "domain": pa.repeat(domain, len(user)), "query": query, "scene": scene})


def clicks(
    where: np.ndarray, *, user: np.ndarray, item: np.ndarray, ts: np.ndarray, domain: str, lists: np.ndarray
) -> pa.Table:
    """The `events` of `log_tables`: clicks at the rows `where` of the other columns."""
    said = {"domain": pa.repeat(domain, len(where)), "kind": pa.repeat("click", len(where))}
    return pa.table({"user": user[where], "item": item[where], "ts": ts[where], **said, "list": lists[where]})


def choose_test_start(ts: np.ndarray, share: float) -> int:
    """Return the second from which on requests are test: the last `share` of them by time, rounded down, at least one.

    Raises:
      InputError: a share outside (0, 1), or one that leaves no request to train on.
    """
    if not 0 < share < 1:
        raise InputError(f"test_share {share}: is no share; give a number between 0 and 1")
    ordered = np.sort(ts)
    test_start = int(ordered[len(ordered) - max(1, int(share * len(ordered)))])
    if test_start == ordered[0]:
        raise InputError(
            f"test_share {share}: leaves no request of {len(ts)} in the train split; give a smaller share or longer logs"
        )
    return test_start


def log_tables(
    *, lists: pa.Table, entries: pa.Table, events: pa.Table, items: pa.Table | None = None, users: pa.Table | None = None
) -> tuple[dict[str, pa.Table], dict[str, int]]:
    """Make the six log tables; return them, and counts of what is unknown.

    Args:
      lists: one row a request: user, ts, domain, query (text or null), optionally scene.
      entries: list (row of `lists`), item, exposed, optionally position and propensity; those of a list in the order of their
        rank, none twice.
      events: user, item, ts, domain, kind, list (null if on none).
      items: item and feature columns of ITEMS, one row an item; items of the logs without a row get unknown features.
      users: user and feature columns of USERS, the same.

    Raises:
      InputError: a list longer than a rank can say.
    """
    (user, event_user, *_), known_users = dense(lists["user"], events["user"], *([users["user"]] if users else []))
    (entry, event_item, *_), known_items = dense(entries["item"], events["item"], *([items["item"]] if items else []))
    (query,), texts = dense(lists["query"])
    order = np.lexsort((np.arange(len(lists)), user, lists["ts"].to_numpy()))
    request = np.empty(len(lists), np.int64)
    request[order] = np.arange(len(lists))

    of = request[entries["list"].to_numpy()]
    kept = np.argsort(of, kind="stable")
    starts = np.searchsorted(of[kept], np.arange(len(lists)))
    rank = np.arange(len(kept)) - starts[of[kept]]
    if len(rank) and rank.max() >= _LONGEST:
        raise InputError(f"a list of {rank.max() + 1} entries: longer than {_LONGEST}; give a smaller feed_gap or remove it")
    event_list = events["list"]
    on_list = pc.is_valid(event_list).to_numpy()
    event_request = request[pc.fill_null(event_list, 0).to_numpy()] if len(lists) else np.zeros(len(events), np.int64)
    by_time = np.lexsort((np.arange(len(events)), event_item, event_user, events["ts"].to_numpy()))

    columns: dict[TableSchema, dict[str, Any]] = {
        REQUESTS: {
            "request_id": np.arange(len(lists)),
            "user_id": user[order],
            "ts": lists["ts"].take(order),
            "domain": lists["domain"].take(order),
            "query_id": pa.array(query[order], mask=query[order] < 0),
            **({"scene": lists["scene"].take(order)} if "scene" in lists.column_names else {}),
        },
        CANDIDATES: {
            "request_id": of[kept],
            "item_id": entry[kept],
            "rank": rank,
            "exposed": entries["exposed"].take(kept),
            **{n: entries[n].take(kept) for n in ("position", "propensity") if n in entries.column_names},
        },
        EVENTS: {
            "user_id": event_user[by_time],
            "item_id": event_item[by_time],
            "ts": events["ts"].take(by_time),
            "domain": events["domain"].take(by_time),
            "kind": events["kind"].take(by_time),
            "request_id": pa.array(event_request, mask=~on_list).take(by_time),
        },
        ITEMS: {"item_id": np.arange(len(known_items)), **features(items, "item", known_items)},
        USERS: {"user_id": np.arange(len(known_users)), **features(users, "user", known_users)},
        QUERIES: {"query_id": np.arange(len(texts)), "text": texts},
    }
    notes = {
        "items without features": len(known_items) - (len(items) if items else 0),
        "users without features": len(known_users) - (len(users) if users else 0),
    }
    return {s.name: declared(s, columns[s]) for s in LOG_TABLES.values()}, {k: n for k, n in notes.items() if n}


def end_of(tables: Mapping[str, pa.Table]) -> int:
    """Return the second after the last one of the logs."""
    return 1 + max(pc.max(tables[name]["ts"]).as_py() or 0 for name in ("requests", "events"))


def features(table: pa.Table | None, key: str, known: pa.Array) -> dict[str, pa.Array | pa.ChunkedArray]:
    """Bring the columns beside `key` into the order of the known keys; 0, "" and [] where the table has no row or a null."""
    if table is None:
        return {}
    place = pc.index_in(known, value_set=table[key].combine_chunks())
    made = {}
    for name in table.column_names:
        if name != key:
            values = table[name].take(place)
            empty: Any = "" if pa.types.is_string(values.type) else [] if pa.types.is_list(values.type) else 0
            made[name] = _filled(values, empty)
    return made


def _filled(values: pa.ChunkedArray, empty: Any) -> pa.ChunkedArray:
    if not pa.types.is_list(values.type):
        return pc.fill_null(values, empty)
    return pc.if_else(pc.is_null(values), pa.scalar(empty, values.type), values)


def declared(schema: TableSchema, columns: Mapping[str, Any]) -> pa.Table:
    """Make a table of a declared schema, less the columns that are not given."""
    fields = [f for f in schema.columns if f.name in columns]
    arrays = [
        pa.chunked_array([columns[f.name]]) if not isinstance(columns[f.name], pa.ChunkedArray) else columns[f.name]
        for f in fields
    ]
    return pa.table([a.cast(f.type) for a, f in zip(arrays, fields, strict=True)], schema=pa.schema(fields))
