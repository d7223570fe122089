"""Log tables as arrays: pages in the order of time, what happened on them, and rows that cannot be used counted."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from data_gen.es3.catalogue import check_columns, part_files, read_catalogue
from data_gen.interests.found import NO_QUERY
from unisc.data.ragged import Ragged
from unisc.data.schema import CANDIDATES, EVENTS, REQUESTS, TableSchema
from unisc.errors import InputError

_LAST = 2**15 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Rows of the catalogue tables: what ids stay below."""

    items: int
    users: int
    queries: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Pages:
    """Requests by time, then by id; `query` is NO_QUERY outside search, `wanted` marks the chosen domains."""

    request_id: np.ndarray
    user: np.ndarray
    ts: np.ndarray
    query: np.ndarray
    wanted: np.ndarray

    def place(self, request_id: np.ndarray) -> np.ndarray:
        """Return where requests stand, -1 for those that are not there."""
        by_id = np.argsort(self.request_id)
        at = by_id[np.minimum(np.searchsorted(self.request_id, request_id, sorter=by_id), len(by_id) - 1)]
        return np.where(self.request_id[at] == request_id, at, -1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Events:
    """What users did, of all kinds and in all domains; `page` is the place of the request it happened on, -1 if none."""

    user: np.ndarray
    item: np.ndarray
    ts: np.ndarray
    page: np.ndarray
    click: np.ndarray

    def where(self, some: np.ndarray) -> "Events":
        """Return some of the events."""
        return Events(
            user=self.user[some], item=self.item[some], ts=self.ts[some], page=self.page[some], click=self.click[some]
        )


def read_pages(logs: Path, domains: tuple[str, ...], sizes: Sizes, dropped: Counter[str]) -> Pages:
    """Read the requests. Raises InputError as `_table`, or if none of them can be used."""
    table = _table(logs, REQUESTS, ["request_id", "user_id", "ts", "domain", "query_id"], dropped)
    request_id, user, ts = (table[name].to_numpy() for name in ("request_id", "user_id", "ts"))
    query = pc.fill_null(table["query_id"], NO_QUERY).to_numpy().astype(np.int64)
    wanted = pc.is_in(table["domain"], value_set=pa.array(domains)).to_numpy()
    fine = (user >= 0) & (user < sizes.users) & (query >= NO_QUERY) & (query < sizes.queries)
    dropped["requests of an unknown user or query"] += int((~fine).sum())
    order = np.lexsort((request_id, ts))
    order = order[fine[order]]
    first = np.sort(np.unique(request_id[order], return_index=True)[1])
    dropped["requests whose id another has"] += len(order) - len(first)
    order = order[first]
    if not len(order):
        raise InputError(f"{logs / REQUESTS.name}: no request that can be used; give longer logs")
    return Pages(
        request_id=request_id[order],
        user=user[order].astype(np.int64),
        ts=ts[order],
        query=query[order],
        wanted=wanted[order],
    )


def read_events(logs: Path, pages: Pages, sizes: Sizes, dropped: Counter[str]) -> Events:
    """Read the events. Raises InputError as `_table`."""
    table = _table(logs, EVENTS, ["user_id", "item_id", "ts", "kind", "request_id"], dropped)
    on_page = pc.is_valid(table["request_id"]).to_numpy()
    found = Events(
        user=table["user_id"].to_numpy().astype(np.int64),
        item=table["item_id"].to_numpy().astype(np.int64),
        ts=table["ts"].to_numpy(),
        page=np.where(on_page, pages.place(pc.fill_null(table["request_id"], 0).to_numpy()), -1),
        click=pc.equal(table["kind"], "click").to_numpy(),
    )
    known = (found.user >= 0) & (found.user < sizes.users) & (found.item >= 0) & (found.item < sizes.items)
    # Its stamp would put such a click into the history that it is to be predicted from.
    early = (found.page >= 0) & (found.ts < pages.ts[found.page])
    dropped["events of an unknown user or item"] += int((~known).sum())
    dropped["events on a page from before it was asked for"] += int((early & known).sum())
    return found.where(known & ~early)


def read_shown(
    logs: Path, pages: Pages, events: Events, clicked: np.ndarray, most: int, sizes: Sizes, dropped: Counter[str]
) -> tuple[Ragged, int]:
    """Return by page what it showed and nobody touched, the first `most` by position; rows of pages not `clicked` are empty.

    Beside it, how many of the clicked pages showed more. Raises InputError as `_table`.
    """
    names = ["request_id", "item_id", "exposed", "position", "rank"]
    table = _table(logs, CANDIDATES, names, dropped, ds.field("exposed") | ds.field("exposed").is_null())
    page, item = pages.place(table["request_id"].to_numpy()), table["item_id"].to_numpy().astype(np.int64)
    known = (item >= 0) & (item < sizes.items)
    dropped["shown items that the catalogue lacks"] += int((~known).sum())
    needed = np.zeros(len(pages.ts) + 1, bool)  # the last is page -1
    needed[clicked] = True
    key = page * sizes.items + item
    kept = np.flatnonzero(needed[page] & known & ~np.isin(key, events.page * sizes.items + events.item))
    position = pc.fill_null(table["position"], pa.scalar(_LAST, pa.int16())).to_numpy()
    kept = kept[np.lexsort((item[kept], table["rank"].to_numpy()[kept], position[kept], page[kept]))]
    kept = kept[np.sort(np.unique(key[kept], return_index=True)[1])]
    lengths = np.bincount(page[kept], minlength=len(pages.ts))
    starts = np.cumsum(lengths) - lengths
    return Ragged.cut(item[kept].astype(np.int32), starts, np.minimum(lengths, most)), int((lengths > most).sum())


def read_whole(logs: Path, schema: TableSchema) -> pa.Table:
    """Read a catalogue table with its declared columns, ids from 0 to the last row. Raises InputError for any fault in it."""
    files = part_files(logs, schema)
    check_columns(files, schema)
    return read_catalogue(files, schema)


def _table(logs: Path, schema: TableSchema, names: list[str], dropped: Counter[str], rows: Any = None) -> pa.Table:
    """Read some columns; optional ones that the table lacks are null, rows with a null elsewhere are left out and counted.

    Raises:
      InputError: a column missing or of another type, a file that cannot be read.
    """
    files = part_files(logs, schema)
    check_columns(files, schema)
    try:
        # The declared schema fills in what is absent, and brings other spellings of a type to one.
        data = ds.dataset([str(file) for file in files], schema=schema.columns, format="parquet")
        found = data.to_table(columns=names, filter=rows)
    except (pa.ArrowException, OSError) as e:
        raise InputError(f"{logs / schema.name}: cannot be read ({' '.join(str(e).split())[:120]}); write it again") from e
    whole = np.ones(len(found), bool)
    for name in set(names) - schema.nullable:
        if found[name].null_count:
            whole &= pc.is_valid(found[name]).to_numpy()
    dropped[f"{schema.name} with a null where none may be"] += int((~whole).sum())
    return found if whole.all() else found.filter(pa.array(whole))
