"""A page of facts about converted logs, with or without lists: volumes, days, the way from click to purchase, who and what.

It says what a source holds and what it cannot give, and judges nothing: nobody has made samples of it yet.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from data_gen.es3.plots import cumulative, times, up_to
from data_gen.es3.sql import Rows, bin_start, connect, log_bin, rows, scan, wilson
from unisc.data import manifest
from unisc.data.schema import KINDS
from unisc.errors import InputError
from unisc.report.numbers import duration, flatten, number, percent
from unisc.report.page import Page
from unisc.report.style import COLOURS, LINES, MARKERS, PERCENT, figure

DAY = 86400
STEPS = (("click", "cart"), ("cart", "purchase"), ("click", "purchase"))
"""Ways from one kind of event to another that the page follows, pair by pair of user and item."""


def write_facts(directory: Path, out: Path | None = None) -> dict[str, Any]:
    """Write `index.html` and `quality.json` about a directory of events or logs into `out` (default: `<directory>.report`).

    Returns:
      what quality.json holds: `counts`, `kinds`, `days`, `steps`, `activity`, for logs `lists`, and the manifest's `gives`,
      `cannot_give` and `source` (its quality section).

    Raises:
      InputError: no finished directory of either kind there, files that cannot be read, a folder that cannot be written.
    """
    directory = directory.absolute()
    try:
        about = manifest.read(directory, kind="events")
    except InputError:
        about = manifest.read(directory, kind="logs")
    with connect(directory) as db:
        db.execute(f"CREATE VIEW events AS SELECT * FROM {scan(directory / 'events')}")
        numbers: dict[str, Any] = {
            "directory": about["fingerprint"],
            "counts": about["counts"],
            "kinds": _in_order(rows(db, _KINDS)),
            "days": rows(db, f"SELECT ts // {DAY} AS day, kind, count(*) AS n FROM events GROUP BY ALL ORDER BY ALL"),
            "steps": [_step(db, *step) for step in STEPS],
            "activity": _activity(db),
            "lists": _lists(db, directory) if about["kind"] == "logs" else [],
            **{name: _as_list(about.get(name)) for name in ("gives", "cannot_give")},
            "source": about.get("quality", {}),
        }
    if not numbers["cannot_give"]:
        numbers["cannot_give"] = _as_list(numbers["source"].get("cannot_give"))
    _page(about, numbers).write(out or directory.with_name(directory.name + ".report"), {"quality.json": numbers})
    return numbers


def _as_list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])


_KINDS = """
SELECT kind, domain, count(*) AS n, count(DISTINCT user_id) AS users, count(DISTINCT item_id) AS items,
  count(*) - count(DISTINCT (user_id, item_id)) AS repeats, min(ts) AS first, max(ts) AS last
FROM events GROUP BY ALL ORDER BY ALL
"""


def _in_order(found: Rows) -> Rows:
    return sorted(found, key=lambda row: KINDS.index(row["kind"]))


def _step(db: duckdb.DuckDBPyConnection, first: str, then: str) -> dict[str, Any]:
    """Follow pairs of user and item from their first event of one kind to their first of another."""
    found = rows(
        db,
        f"""
        WITH pairs AS (
          SELECT user_id, item_id, min(ts) FILTER (kind = '{first}') AS a, min(ts) FILTER (kind = '{then}') AS b
          FROM events WHERE kind IN ('{first}', '{then}') GROUP BY user_id, item_id
        )
        SELECT count(a) AS pairs, count(*) FILTER (b >= a) AS went_on, count(*) FILTER (b < a) AS backwards,
          count(*) FILTER (a IS NULL) AS without, median(b - a) FILTER (b >= a) AS median,
          histogram({log_bin("b - a")}) FILTER (b >= a) AS bins
        FROM pairs
        """,
    )[0]
    return {"first": first, "then": then, **found, "bins": sorted((found["bins"] or {}).items())}


def _activity(db: duckdb.DuckDBPyConnection) -> Rows:
    """How many users and items have so many events of a kind."""
    return [
        {"of": of, **row}
        for of in ("user", "item")
        for row in rows(
            db,
            f"""
            SELECT kind, events, count(*) AS n FROM (SELECT kind, {of}_id, count(*) AS events FROM events GROUP BY ALL)
            GROUP BY ALL ORDER BY ALL
            """,
        )
    ]


def _lists(db: duckdb.DuckDBPyConnection, directory: Path) -> Rows:
    """Requests by domain with the sizes of their lists and the clicks and purchases on them."""
    for table in ("requests", "candidates"):
        db.execute(f"CREATE VIEW {table} AS SELECT * FROM {scan(directory / table)}")
    on_page = "request_id" in {row["column_name"] for row in rows(db, "DESCRIBE events")}
    counted = "count(*) FILTER (kind = 'click') AS clicks, count(*) FILTER (kind = 'purchase') AS purchases"
    page = f"SELECT request_id, {counted} FROM events WHERE request_id IS NOT NULL GROUP BY request_id"
    none = "SELECT NULL::BIGINT AS request_id, 0 AS clicks, 0 AS purchases WHERE false"
    return rows(
        db,
        f"""
        WITH c AS (SELECT request_id, count(*) AS n, count(*) FILTER (exposed) AS shown FROM candidates GROUP BY request_id),
        e AS ({page if on_page else none})
        SELECT domain, count(*) AS requests, coalesce(sum(n), 0)::BIGINT AS candidates,
          coalesce(sum(shown), 0)::BIGINT AS exposed, count(*) FILTER (n IS NULL) AS without_list,
          coalesce(sum(clicks), 0)::BIGINT AS clicks, coalesce(sum(purchases), 0)::BIGINT AS purchases
        FROM requests LEFT JOIN c USING (request_id) LEFT JOIN e USING (request_id) GROUP BY domain ORDER BY requests DESC
        """,
    )


def _page(about: Mapping[str, Any], numbers: Mapping[str, Any]) -> Page:
    source = about["config"].get("source")
    page = Page(f"What the {about['kind']} hold" + (f": {source}" if source else ""))
    counts = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in about["counts"].items())
    page.text(f"Fingerprint {about['fingerprint']}. {counts}.", kind="facts")
    if about["kind"] == "events":
        page.text("These are events without lists: nothing is known of what was shown, so no samples can be built from them.")
    if numbers["cannot_give"]:
        page.heading("What the source cannot give")
        page.text(*numbers["cannot_give"])
    page.heading("Events")
    header = ["kind", "domain", "events", "users", "items", "beyond the first of a pair", "days"]
    page.table(header, [_kind(row) for row in numbers["kinds"]], text=(0, 1))
    page.figure(_days(numbers["days"]), "Events by day (UTC) and kind.")
    page.heading("From one event to the next")
    kinds = {row["kind"] for row in numbers["kinds"]}
    _steps(page, [row for row in numbers["steps"] if {row["first"], row["then"]} <= kinds])
    if missing := [kind for kind in KINDS if kind not in kinds]:
        page.text(f"The source has no event of kind {' or '.join(missing)}.")
    page.heading("Users and items")
    page.figure(_counts(numbers["activity"]), "How many events of a kind users and items have, of those that have any.")
    if numbers["lists"]:
        page.heading("Lists")
        header = ["domain", "requests", "candidates", "exposed", "requests without a list", "clicks on it", "purchases on it"]
        page.table(header, [list(row.values()) for row in numbers["lists"]])
    if counted := list(flatten({name: value for name, value in numbers["source"].items() if name != "cannot_give"})):
        page.heading("What the reader counted")
        page.table(["what", "value"], counted)
    return page


def _kind(row: Mapping[str, Any]) -> list[Any]:
    names = ("kind", "domain", "n", "users", "items", "repeats")
    return [*(row[name] for name in names), number((row["last"] - row["first"]) / DAY)]


def _steps(page: Page, steps: Rows) -> None:
    if not steps:
        return
    page.text(
        "Pairs of a user and an item, from the pair's first event of one kind to its first of another. A share comes with its "
        "95% interval, as if pairs were independent; backwards are pairs where the later kind came first."
    )
    table = []
    for row in steps:
        low, high = wilson(row["went_on"], row["pairs"])
        share = f"{percent(row['went_on'] / row['pairs'])} [{percent(low)}, {percent(high)}]" if row["pairs"] else "n/a"
        name = f"{row['first']} to {row['then']}"
        table.append([name, row["pairs"], share, duration(row["median"]), row["backwards"], row["without"]])
    page.table(["way", "pairs", "went on", "median lag", "backwards", "without the first"], table)
    some = [row for row in steps if row["bins"]]
    if some:
        fig, (ax,) = figure(1, width=6.5, height=3.2)
        for i, row in enumerate(some):
            label = f"{row['first']} to {row['then']} (n = {row['went_on']:,})"
            cumulative(ax, row["bins"], label=label, color=COLOURS[i], ls=LINES[i])
        times(ax, 1, max(bin_start(row["bins"][-1][0] + 1) for row in some))
        ax.set(xlabel="from the first event to the second", ylabel="share of pairs that went on")
        ax.yaxis.set_major_formatter(PERCENT)
        ax.legend(loc="lower right")
        page.figure(fig, "Time from one event to the next, of pairs that went on.")


def _days(days: Rows) -> Figure:
    fig, (ax,) = figure(1, width=7.5, height=3.0)
    first = min((row["day"] for row in days), default=0)
    for i, kind in enumerate(KINDS):
        some = [row for row in days if row["kind"] == kind]
        if some:
            x, y = [row["day"] - first for row in some], [row["n"] for row in some]
            ax.plot(x, y, MARKERS[i] + LINES[i], color=COLOURS[i], ms=3, lw=1, label=f"{kind} (n = {sum(y):,})")
    start = datetime.fromtimestamp(first * DAY, UTC).date()
    ax.set(xlabel=f"day, 0 is {start}", ylabel="events a day")
    if days and max(row["n"] for row in days) > 10 * min(row["n"] for row in days):
        ax.set_yscale("log")
    else:
        ax.set_ylim(0, 1.1 * max((row["n"] for row in days), default=1))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda n, _: number(n)))
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return fig


def _counts(activity: Rows) -> Figure:
    fig, axes = figure(2, height=3.0, sharey=True)
    for ax, of in zip(axes, ("user", "item"), strict=True):
        some = [row for row in activity if row["of"] == of]
        up_to(ax, some, "events", lambda row: row["kind"])
        ax.set(xscale="log", xlabel=f"at most so many events of {'a user' if of == 'user' else 'an item'}")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda n, _: number(n)))
    axes[0].set_ylabel("share of users or items")
    return fig
