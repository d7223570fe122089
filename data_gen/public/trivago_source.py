"""Reads trivago's `events.parquet` into dense, time-ordered arrays (see `trivago` for what they mean)."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_gen.public import parquet
from data_gen.public.delimited import needed
from unisc.errors import InputError

EVENTS_FILE = "events.parquet"
_CLICKOUT = "clickout item"
COLUMNS = {
    EVENTS_FILE: pa.schema(
        [
            needed("session_id", pa.string()),
            needed("timestamp", pa.int64()),
            needed("step", pa.int64()),
            needed("action_type", pa.string()),
            needed("reference", pa.string()),
            needed("platform", pa.string()),
            needed("city", pa.string()),
            needed("device", pa.string()),
            ("impressions", pa.string()),
            ("prices", pa.string()),
        ]
    )
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Timelines:
    """The source as dense integer arrays, sessions one after another, each in the order it happened.

    Actions on a hotel (A of them): session, item, ts and whether it is a click-out. Click-outs (R) in the same order: their
    query, scene and list bounds (R + 1); list entries (C): item and price.
    """

    session: np.ndarray
    item: np.ndarray
    ts: np.ndarray
    clickout: np.ndarray
    query: np.ndarray
    scene: np.ndarray
    bounds: np.ndarray
    listed_item: np.ndarray
    listed_price: np.ndarray
    segment: np.ndarray
    cities: list[str]
    num_items: int
    notes: dict[str, Any]


def read_timelines(path: Path) -> Timelines:
    """Read `events.parquet` of a folder, all sessions.

    Raises:
      InputError: no such file, a column missing or of another type, a null, negative time or price, or a list that cannot be
        read.
    """
    table = _load(path / EVENTS_FILE)
    table = table.append_column("row", pa.array(np.arange(len(table))))
    # One session's steps start over at a later time, so time comes before step.
    table = table.take(pc.sort_indices(table, [(c, "ascending") for c in ("session_id", "timestamp", "step", "row")]))
    codes, _ = _dense(table["session_id"])
    ts, moved = _strictly_increasing(codes, table["timestamp"].to_numpy())
    reference = table["reference"]
    action = table["action_type"]
    browse = pc.or_(pc.starts_with(action, "interaction item"), pc.equal(action, "search for item"))
    browse = pc.and_(browse, pc.match_substring_regex(reference, r"^\d{1,18}$")).to_numpy()
    clickout = pc.equal(action, _CLICKOUT).to_numpy()
    used = browse | clickout
    outs = table.filter(pa.array(clickout))
    items, prices, bounds = _lists(path / EVENTS_FILE, outs)
    chosen = _whole_numbers(path / EVENTS_FILE, "reference", pc.filter(reference, pa.array(used)))
    known = np.unique(np.concatenate([items, chosen]))
    platform, platforms = _dense(table["platform"])
    device, devices = _dense(table["device"])
    city, cities = _dense(outs["city"])
    kept, sessions = _renumber(codes[used])
    segment = np.zeros(len(sessions), np.int32)
    segment[kept] = platform[used]
    return Timelines(
        session=kept,
        item=np.searchsorted(known, chosen).astype(np.int32),
        ts=ts[used],
        clickout=clickout[used],
        query=city,
        scene=_renumber((platform * len(devices) + device)[clickout])[0],
        bounds=bounds,
        listed_item=np.searchsorted(known, items).astype(np.int32),
        listed_price=prices.astype(np.float32),
        segment=segment,
        cities=cities,
        num_items=len(known),
        notes={
            "source_rows": len(table),
            "rows_left_out": _counts(action.filter(pa.array(~used))),
            "browse_events": _counts(action.filter(pa.array(browse))),
            "platforms": len(platforms),
            "seconds_moved": {"rows": int((moved > 0).sum()), "mean": round(float(moved.mean()), 2), "max": int(moved.max())},
        },
    )


def select_sessions(source: Timelines, keep: np.ndarray) -> Timelines:
    """Keep some sessions (a mask over them) and renumber the rest away; item, query and scene codes stay."""
    actions = keep[source.session]
    requests = actions[source.clickout]
    lengths = np.diff(source.bounds)
    entries = np.repeat(requests, lengths)
    return dataclasses.replace(
        source,
        session=(np.cumsum(keep) - 1)[source.session[actions]].astype(np.int32),
        item=source.item[actions],
        ts=source.ts[actions],
        clickout=source.clickout[actions],
        query=source.query[requests],
        scene=source.scene[requests],
        bounds=np.concatenate([[0], np.cumsum(lengths[requests])]),
        listed_item=source.listed_item[entries],
        listed_price=source.listed_price[entries],
        segment=source.segment[keep],
    )


def _load(file: Path) -> pa.Table:
    source = parquet.read(file, COLUMNS[EVENTS_FILE])
    if not pc.any(pc.equal(source["action_type"], _CLICKOUT), min_count=0).as_py():
        raise InputError(f"{file}: holds no click-out; give logs with at least one")
    if (negative := source["timestamp"].to_numpy() < 0).any():
        source.fail("timestamp", negative, "a negative time; give unix seconds")
    return source.table


def _lists(file: Path, outs: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    columns = {}
    for name in ("impressions", "prices"):
        if outs[name].null_count:
            raise InputError(f"{file}: column {name} is null in {outs[name].null_count} click-out(s); remove these rows")
        columns[name] = pc.split_pattern(outs[name], "|")
    lengths = pc.list_value_length(columns["impressions"])
    if not lengths.equals(pc.list_value_length(columns["prices"])):
        raise InputError(f"{file}: columns impressions and prices differ in length in a click-out; remove that row")
    items = _whole_numbers(file, "impressions", pc.list_flatten(columns["impressions"]))
    bounds = np.concatenate([[0], np.cumsum(lengths.to_numpy())])
    request = np.repeat(np.arange(len(outs)), np.diff(bounds))
    pairs = np.sort(np.stack([request, items], axis=1).view([("r", np.int64), ("i", np.int64)]), axis=0)
    if len(np.unique(pairs)) < len(pairs):
        raise InputError(f"{file}: column impressions repeats an item within one click-out; keep one of them")
    try:
        prices = pc.list_flatten(columns["prices"]).cast(pa.float64()).to_numpy()
    except pa.ArrowInvalid as e:
        raise InputError(f"{file}: column prices holds what is not a number; correct or remove these rows") from e
    if not np.all(np.isfinite(prices)) or prices.min() < 0:
        raise InputError(f"{file}: column prices has negative or NaN values; correct or remove these rows")
    return items, prices, bounds


def _whole_numbers(file: Path, name: str, texts: pa.ChunkedArray) -> np.ndarray:
    try:
        return texts.cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid as e:
        raise InputError(f"{file}: column {name} holds what is not an item number; correct or remove these rows") from e


def _dense(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Code strings by their sorted order."""
    words = sorted(pc.unique(column).to_pylist())
    return pc.index_in(column, value_set=pa.array(words, pa.string())).to_numpy().astype(np.int32), words


def _renumber(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known, dense = np.unique(codes, return_inverse=True)
    return dense.astype(np.int32), known


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    return dict(sorted((row["values"], row["counts"]) for row in column.value_counts().to_pylist()))


def _strictly_increasing(session: np.ndarray, ts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move times up just enough to increase strictly within each session; return them and by how much each moved."""
    step = np.arange(len(ts))
    lift = session.astype(np.int64) * (int(ts.max()) + len(ts) + 1)  # keeps a session's running maximum out of the next
    moved = np.maximum.accumulate(ts - step + lift) - lift + step
    return moved, moved - ts
