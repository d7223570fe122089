"""Label attribution of 5M exposures against 650k events: `python benchmarks/attribution.py`.

Each event goes to the latest exposure of its user and item within a day, and of the events on one exposure the first of a kind
is its label. Four programs read the same Parquet files and write the same labels: ES3's own expressions, two hand-written
DuckDB statements (join and rank; ASOF join) and pandas. Each runs in a process of its own, in turns; imports are left out of
the times and the peak memory is that of the process. All labels are compared row by row.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unisc.data.schema import KINDS

DAY = 86400
EVENTS = {"click": 500_000, "cart": 100_000, "purchase": 50_000}
COLUMNS = ("request_id", "item_id", "kind", "ts")


def by_es3(root: Path, out: Path) -> Callable[[], None]:
    """The functions the build calls, on the engine it uses."""
    import contextlib

    import ibis

    from data_gen.es3.attribution import choose, find_pairs
    from data_gen.es3.config import ES3Config
    from data_gen.es3.session import DuckDBSession

    assert ibis.duckdb  # imported when first named

    def run() -> None:
        config = ES3Config(composition="attributed", click_window=DAY, purchase_window=DAY)
        with (
            tempfile.TemporaryDirectory(dir=root) as scratch,
            contextlib.closing(DuckDBSession(Path(scratch), threads=os.cpu_count(), memory=2**32)) as session,
        ):
            tables = {
                n: session.read([root / f"{n}.parquet"], pq.read_schema(root / f"{n}.parquet")) for n in ("exposures", "events")
            }
            pairs = find_pairs(tables["exposures"], tables["events"], config)
            session.write(choose(pairs).select(*COLUMNS), out)

    return run


def by_join(root: Path, out: Path) -> Callable[[], None]:
    """DuckDB SQL by hand: every pair in the window, ranked."""
    return _by_sql(
        root,
        out,
        """WITH pairs AS (
             SELECT e.user_id, e.event, e.kind, e.ts, x.request_id, x.item_id,
               row_number() OVER (PARTITION BY e.user_id, e.event ORDER BY x.ts DESC, x.request_id DESC) AS place
             FROM events e JOIN exposures x
               ON e.user_id = x.user_id AND e.item_id = x.item_id AND x.ts < e.ts AND x.ts >= e.ts - 86400)
           SELECT request_id, item_id, kind, min(ts) AS ts FROM pairs WHERE place = 1 GROUP BY ALL""",
    )


def by_asof(root: Path, out: Path) -> Callable[[], None]:
    """DuckDB SQL by hand: its ASOF join finds the latest exposure before each event."""
    return _by_sql(
        root,
        out,
        """WITH found AS (
             SELECT x.request_id, x.item_id, e.kind, e.ts
             FROM events e ASOF JOIN exposures x ON e.user_id = x.user_id AND e.item_id = x.item_id AND e.ts > x.ts
             WHERE e.ts - x.ts <= 86400)
           SELECT request_id, item_id, kind, min(ts) AS ts FROM found GROUP BY ALL""",
    )


def _by_sql(root: Path, out: Path, query: str) -> Callable[[], None]:
    import duckdb

    def run() -> None:
        out.mkdir()
        with duckdb.connect(config={"threads": os.cpu_count()}) as db:
            for name in ("exposures", "events"):
                db.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{root / name}.parquet')")
            db.execute(f"COPY ({query}) TO '{out / 'part-00000.parquet'}' (FORMAT parquet, COMPRESSION lz4)")

    return run


def by_pandas(root: Path, out: Path) -> Callable[[], None]:
    """The same join in pandas: merge, filter, sort, first of each."""
    import pandas as pd

    def run() -> None:
        out.mkdir()
        exposures = pd.read_parquet(root / "exposures.parquet", columns=["request_id", "user_id", "item_id", "ts"])
        events = pd.read_parquet(root / "events.parquet", columns=["user_id", "event", "item_id", "ts", "kind"])
        pairs = events.merge(exposures.rename(columns={"ts": "asked"}), on=["user_id", "item_id"])
        pairs = pairs[(pairs["asked"] < pairs["ts"]) & (pairs["asked"] >= pairs["ts"] - DAY)]
        pairs = pairs.sort_values(["user_id", "event", "asked", "request_id"]).drop_duplicates(
            ["user_id", "event"], keep="last"
        )
        labels = pairs.groupby(["request_id", "item_id", "kind"], as_index=False)["ts"].min()
        labels.to_parquet(out / "part-00000.parquet", compression="lz4")

    return run


PROGRAMS = {"es3": by_es3, "duckdb join": by_join, "duckdb asof": by_asof, "pandas": by_pandas}


def main() -> None:
    """Measure, then print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exposures", type=int, default=5_000_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--one", nargs=3, metavar=("PROGRAM", "ROOT", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        _one(args.one[0], Path(args.one[1]), Path(args.one[2]))
        return
    with tempfile.TemporaryDirectory(prefix="attribution-") as directory:
        _measure(Path(directory), args)


def _one(program: str, root: Path, out: Path) -> None:
    run = PROGRAMS[program](root, out)
    began = time.perf_counter()
    run()
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "peak_mib": _peak_mib()}))


def _peak_mib() -> float:
    """Peak memory of this process; getrusage would count what its parent held when it was forked."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return float("nan")


def _measure(root: Path, args: argparse.Namespace) -> None:
    exposures, events = write_logs(root, args.exposures)
    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    peaks: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    labels: dict[str, pa.Table] = {}
    for repeat in range(args.repeats + 1):
        print(f"round {repeat} of {args.repeats}", file=sys.stderr)
        for name in PROGRAMS:
            out = root / f"{name.replace(' ', '-')}-{repeat}"
            done = subprocess.run(
                [sys.executable, __file__, "--one", name, str(root), str(out)], check=True, capture_output=True, text=True
            )
            said = json.loads(done.stdout.splitlines()[-1])
            if repeat:  # the first round warms the page cache
                times[name].append(said["seconds"])
                peaks[name].append(said["peak_mib"])
            else:
                labels[name] = _sorted(pq.read_table(out))
    for name, found in labels.items():
        if not found.equals(labels["es3"]):
            raise SystemExit(f"{name}: {len(found):,} labels that are not es3's {len(labels['es3']):,}")
    packages = ", ".join(f"{name} {version(name)}" for name in ("duckdb", "ibis-framework", "pandas", "pyarrow"))
    print(f"machine   {os.cpu_count()} cores, {platform.machine()}; Python {platform.python_version()}; {packages}")
    print(f"data      {exposures:,} exposures, {events:,} events; {len(labels['es3']):,} labels, equal row by row in all")
    print(f"{'program':14} {'s: median':>10} {'lowest':>8} {'highest':>8} {'x es3':>7} {'peak MiB':>9}")
    own = statistics.median(times["es3"])
    for name, took in times.items():
        middle = statistics.median(took)
        peak = statistics.median(peaks[name])
        print(f"{name:14} {middle:10.2f} {min(took):8.2f} {max(took):8.2f} {middle / own:7.2f} {peak:9.0f}")


def write_logs(root: Path, num_exposures: int) -> tuple[int, int]:
    """Write `exposures.parquet` and `events.parquet`; two thirds of the events are on an item seen in the day before."""
    rng = np.random.default_rng(0)
    num_users, num_items, per_request = num_exposures // 50, 200_000, 20
    num_requests = num_exposures // per_request
    user = rng.integers(0, num_users, num_requests)
    asked = rng.integers(0, 7 * DAY, num_requests)
    items = rng.integers(0, num_items, (num_requests, per_request))
    order = np.lexsort((asked, user))
    ids = np.repeat(np.arange(num_requests), per_request)
    owner, when, item = np.repeat(user[order], per_request), np.repeat(asked[order], per_request), items[order].reshape(-1)
    kept = np.sort(np.unique(ids * num_items + item, return_index=True)[1])
    never = pa.nulls(len(kept), pa.int64())
    exposures = {
        "request_id": ids[kept], "user_id": owner[kept].astype(np.int32), "item_id": item[kept].astype(np.int32),
        "ts": when[kept], "exposed": np.ones(len(kept), bool), "click_ts": never, "purchase_ts": never,
    }  # fmt: skip
    pq.write_table(pa.table(exposures), root / "exposures.parquet", compression="zstd")

    scale = num_exposures / 5_000_000
    kind = np.repeat([KINDS.index(k) for k in EVENTS], [round(n * scale) for n in EVENTS.values()])
    n = len(kind)
    seen = kept[rng.integers(0, len(kept), n)]
    lag = np.where(rng.random(n) < 0.67, rng.integers(1, DAY, n), rng.integers(DAY, 5 * DAY, n))
    rows = np.column_stack([owner[seen], when[seen] + lag, item[seen], kind])
    rows = np.unique(rows, axis=0)  # by user, then time
    first = np.searchsorted(rows[:, 0], rows[:, 0])
    events = {
        "user_id": rows[:, 0].astype(np.int32), "event": np.arange(len(rows)) - first, "item_id": rows[:, 2].astype(np.int32),
        "ts": rows[:, 1], "kind": rows[:, 3].astype(np.int8), "domain": np.ones(len(rows), np.int8),
    }  # fmt: skip
    pq.write_table(pa.table(events), root / "events.parquet", compression="zstd")
    return len(kept), len(rows)


def _sorted(labels: pa.Table) -> pa.Table:
    schema = pa.schema([("request_id", pa.int64()), ("item_id", pa.int32()), ("kind", pa.int8()), ("ts", pa.int64())])
    return labels.select(schema.names).cast(schema).sort_by([(name, "ascending") for name in COLUMNS]).combine_chunks()


if __name__ == "__main__":
    main()
