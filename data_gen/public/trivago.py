"""trivago's hotel search log (RecSys Challenge 2019) as log tables.

A click-out stores the list that was shown, in order and with prices, and the hotel chosen: that is a "search" request with
all its candidates exposed, and one click. Every other action on a hotel (image, info, rating, deals, "search for item") is an
event of the second domain, "browse", of kind "click" and on no request, since the log stores no list for it. Where the log is
silent, so are the tables:

- a *user* is a session: users of the extract have 1.15 sessions, and the challenge ranks within sessions. `segment` is the
  platform (the site's country).
- a *query* is the destination, its text the city's name; `scene` codes platform and device together.
- there is no purchase, no unexposed candidate and no list behind a browse event. So the unexposed composition equals the
  exposed one, and searchification finds nothing to do.
- items have an id and nothing else (the extract describes no hotel); the price stands on the candidate, as shown.
- filters, sort orders and searches for places have no hotel and are left out, counted in the manifest.

Time. Dozens of actions of a session share a second, and their order (`step`) carries the strongest signal there is: which
hotel was touched last. Histories must be strictly before the request, so times are moved up by the least number of seconds
that makes them strictly increase within a session: ts[i] = max(ts[i], ts[i-1] + 1). The manifest says by how much. A
click-out's request and its click share one ts: the click is not its own past.

Split. Whole sessions: train holds those that ended before `test_start`, test those that began at or after it; sessions that
straddle it are left out and counted.
"""

import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tyro

from data_gen.public import adapter, listed
from data_gen.public.adapter import Adapter, Converted
from data_gen.public.floors import floors, floors_of_samples
from data_gen.public.trivago_source import COLUMNS, EVENTS_FILE, Timelines, read_timelines, select_sessions
from unisc.data import manifest
from unisc.data.schema import CANDIDATES, EVENTS, ITEMS, QUERIES, REQUESTS, USERS, TableSchema
from unisc.errors import InputError

__all__ = ["ADAPTER", "DOMAINS", "convert", "floors", "floors_of_samples", "read"]

DOMAINS = ("search", "browse")
TEST_SHARE = 0.225


def read(path: Path, *, test_share: float = TEST_SHARE) -> Converted:
    """Read a folder that holds trivago's `events.parquet`.

    `test_share` of all click-outs, those of the sessions that begin last, are the test split. `quality` holds the sessions left
    out and the floors (see `floors`) over all click-outs of the source and over the test split; `config` the file's checksum.

    Raises:
      InputError: as `read_timelines`; a split without click-outs.
    """
    source = read_timelines(path)
    test_start = _choose_test_start(source, test_share)
    first, last = _spans(source)
    straddles = (first < test_start) & (last >= test_start)
    kept = select_sessions(source, ~straddles)
    requests = kept.ts[kept.clickout]
    return Converted(
        tables=_tables(kept),
        domains=DOMAINS,
        test_start=test_start,
        end_ts=int(kept.ts.max()) + 1,
        quality={
            **source.notes,
            "sessions": {
                "all": len(first),
                "train": int((last < test_start).sum()),
                "test": int((first >= test_start).sum()),
                "straddling, left out": int(straddles.sum()),
            },
            "clickouts": {
                "all": int(source.clickout.sum()),
                "train": int((requests < test_start).sum()),
                "test": int((requests >= test_start).sum()),
                "straddling, left out": int(source.clickout.sum() - kept.clickout.sum()),
            },
            "floors": {"all": floors(source), "test": floors(select_sessions(source, first >= test_start))},
        },
        config={"events_sha256": manifest.file_sha256(path / EVENTS_FILE), "test_share": test_share},
    )


def convert(path: Path, out: Path, *, test_share: float = TEST_SHARE) -> dict[str, Any]:
    """Write the log tables of a trivago folder into a new directory; return its manifest. See `read`, `adapter.convert`."""
    return adapter.convert(dataclasses.replace(ADAPTER, read=partial(read, test_share=test_share)), path, out)


def _spans(source: Timelines) -> tuple[np.ndarray, np.ndarray]:
    """First and last action of each session that has one."""
    starts = np.flatnonzero(np.diff(source.session, prepend=-1))
    ends = np.append(starts[1:], len(source.session)) - 1
    return source.ts[starts], source.ts[ends]


def _choose_test_start(source: Timelines, share: float) -> int:
    first, last = _spans(source)
    outs = np.bincount(source.session[source.clickout], minlength=len(first))
    order = np.argsort(-first, kind="stable")
    enough = np.searchsorted(np.cumsum(outs[order]), share * outs.sum())
    test_start = int(first[order[min(enough, len(order) - 1)]])
    if not outs[first >= test_start].sum() or not outs[last < test_start].sum():
        raise InputError(f"test_share {share}: leaves no click-outs in the train or the test split; give another share")
    return test_start


def _tables(source: Timelines) -> dict[str, pa.Table]:
    clicks = source.clickout
    num_requests, num_sessions = int(clicks.sum()), len(source.segment)
    lengths = np.diff(source.bounds)
    slot = (np.arange(len(source.listed_item)) - np.repeat(source.bounds[:-1], lengths)).astype(np.int16)
    request_ids = np.arange(num_requests, dtype=np.int64)
    event_requests = np.full(len(clicks), -1, np.int64)
    event_requests[clicks] = request_ids
    columns: dict[TableSchema, dict[str, Any]] = {
        ITEMS: {"item_id": np.arange(source.num_items, dtype=np.int32)},
        USERS: {"user_id": np.arange(num_sessions, dtype=np.int32), "segment": source.segment},
        QUERIES: {"query_id": np.arange(len(source.cities), dtype=np.int32), "text": source.cities},
        REQUESTS: {
            "request_id": request_ids,
            "user_id": source.session[clicks],
            "ts": source.ts[clicks],
            "domain": pa.repeat(DOMAINS[0], num_requests),
            "query_id": source.query,
            "scene": source.scene,
        },
        CANDIDATES: {
            "request_id": np.repeat(request_ids, lengths),
            "item_id": source.listed_item,
            "rank": slot,
            "exposed": np.ones(len(slot), bool),
            "position": slot,
            "price": source.listed_price,
        },
        EVENTS: {
            "user_id": source.session,
            "item_id": source.item,
            "ts": source.ts,
            "domain": pc.if_else(pa.array(clicks), *DOMAINS),
            "kind": pa.repeat("click", len(clicks)),
            "request_id": pa.array(event_requests, mask=~clicks),
        },
    }
    return {schema.name: listed.declared(schema, found) for schema, found in columns.items()}


ADAPTER = Adapter(
    name="trivago",
    title="trivago: hotel searches with the list shown, its prices and the click-out",
    source="https://recsys.trivago.cloud/challenge/dataset/",
    licence="trivago's terms of the challenge; not cleared for passing on",
    gives=(
        "click-outs with the list of hotels shown, in order and with prices",
        "other actions on hotels with times, on no list",
        "destinations as queries, platforms and devices",
    ),
    cannot_give=(
        "purchases, carts: none were logged",
        "unexposed candidates",
        "lists behind browse events",
        "hotel descriptions",
        "users across sessions: a user is a session",
    ),
    columns=COLUMNS,
    read=read,
)


def _command(path: Path, out: Path, test_share: float = TEST_SHARE) -> None:
    """Convert a folder holding trivago's events.parquet into log tables.

    Args:
        path: the folder.
        out: directory to make; must not hold anything yet.
        test_share: share of click-outs to test on.
    """
    made = convert(path, out, test_share=test_share)
    print(f"{out}: fingerprint {made['fingerprint']}, " + ", ".join(f"{n:,} {name}" for name, n in made["counts"].items()))
    for split, rows in made["quality"]["floors"].items():
        for name, row in rows.items():
            figures = f"MRR {row['mrr']:.4f}  NDCG {row['ndcg']:.4f}  n {row['clickouts']:,}"
            print(f"  floor, {split} click-outs: {name:20} {figures}")


def main() -> int:
    """Run the command; a user's mistake is one line on standard error and exit status 2."""
    try:
        tyro.cli(_command, prog="python -m data_gen.public.trivago")
    except InputError as e:
        print(e, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
