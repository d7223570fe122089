"""What a generated directory holds, and the best that any ranker could do on it: the oracle's loss and AUC by split."""

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from scipy.special import entr

from unisc.data import manifest
from unisc.errors import InputError
from unisc.metrics import auc_roc

WINDOW_SECONDS = 86_400
"""A click elsewhere counts as foreseen by a search if the search considered the item at most this long before."""
HEAD = 0.01
"""The popularity check reports the share of exposures falling on this share of items."""


def describe(directory: Path | str) -> dict[str, Any]:
    """Return the volumes, rates and known limits of generated logs.

    Keys: `counts` by table; `splits[split][domain]` (see `split_figures`), where domain "all" pools them; `floor_name`, what
    the oracle's entropy is in this preset; `cross_domain`; `popularity`; `preset`, `fingerprint`.

    Raises:
      InputError: no finished logs of the marketplace there.
    """
    path = Path(directory)
    made = manifest.read(path, kind="logs")
    if "oracle" not in made["counts"]:
        raise InputError(f"{path}: logs without an oracle table; only logs of data_gen.marketplace can be described")
    with duckdb.connect() as db:
        db.execute("SET enable_progress_bar = false")
        for table in made["counts"]:
            files = str(path / table / "*.parquet").replace("'", "''")
            db.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{files}')")
        domains = list(made["domains"])
        return {
            "preset": made["preset"],
            "fingerprint": made["fingerprint"],
            "counts": made["counts"],
            "floor_name": floor_name(made["preset"]),
            "splits": _splits(db, domains, made["test_start"]),
            "cross_domain": _cross_domain(db, domains[0]),
            "popularity": _popularity(db),
        }


def floor_name(preset: str) -> str:
    """Return what the oracle's entropy is: reachable where nothing is hidden, else only a bound."""
    return "irreducible log loss" if preset == "stationary" else "lower bound of log loss"


def _splits(db: duckdb.DuckDBPyConnection, domains: list[str], test_start: int) -> dict[str, dict[str, dict[str, Any]]]:
    exposed = db.execute(
        """
        SELECT r.domain AS domain, r.ts >= ? AS test, o.p_click AS p, c.position AS position, e.request_id IS NOT NULL AS click
        FROM candidates c JOIN oracle o USING (request_id, item_id) JOIN requests r USING (request_id)
        LEFT JOIN (SELECT DISTINCT request_id, item_id FROM events WHERE kind = 'click') e USING (request_id, item_id)
        WHERE c.exposed
        """,
        [test_start],
    ).fetchnumpy()
    volumes = db.execute(
        """
        SELECT r.domain, r.ts >= ? AS test, count(DISTINCT request_id), count(*)
        FROM candidates c JOIN requests r USING (request_id) GROUP BY ALL
        """,
        [test_start],
    ).fetchall()
    requests = {(d, t): (n, m) for d, t, n, m in volumes}
    # A purchase made on its request belongs to it; one made elsewhere to the user's last click on that item before it.
    purchases = {
        (d, t): (n, m)
        for d, t, n, m in db.execute(
            """
            WITH bought AS (SELECT user_id, item_id, ts, request_id FROM events WHERE kind = 'purchase'),
            clicked AS (SELECT user_id, item_id, ts, request_id FROM events WHERE kind = 'click')
            SELECT r.domain, r.ts >= ? AS test, count(*), count(*) FILTER (WHERE b.request_id IS NULL)
            FROM bought b ASOF JOIN clicked k ON b.user_id = k.user_id AND b.item_id = k.item_id AND b.ts >= k.ts
            JOIN requests r ON r.request_id = coalesce(b.request_id, k.request_id) GROUP BY ALL
            """,
            [test_start],
        ).fetchall()
    }
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for split, wanted in (("train", False), ("test", True)):
        out[split] = {}
        for domain in (*domains, "all"):
            parts = domains if domain == "all" else [domain]
            keep = np.asarray(exposed["test"]) == wanted
            if domain != "all":
                keep &= np.asarray(exposed["domain"]) == domain
            n, m = (sum(requests.get((d, wanted), (0, 0))[k] for d in parts) for k in (0, 1))
            bought, elsewhere = (sum(purchases.get((d, wanted), (0, 0))[k] for d in parts) for k in (0, 1))
            out[split][domain] = {
                "requests": n,
                "candidates": m,
                "purchases": bought,
                "purchases_elsewhere": elsewhere / bought if bought else float("nan"),
                **split_figures(np.asarray(exposed["p"])[keep], np.asarray(exposed["click"])[keep]),
            }
    return out


def split_figures(p_click: np.ndarray, click: np.ndarray) -> dict[str, Any]:
    """Return what the true probabilities of exposed candidates say; NaN where there is nothing to say it of.

    `entropy` is the mean entropy of a click given its probability, in nats: no ranker's expected log loss is below it.
    `oracle_log_loss` and `oracle_auc_roc` are the oracle's own on the labels that were drawn, `constant_log_loss` the
    loss of always predicting the click rate.
    """
    p, y = p_click.astype(np.float64), click.astype(np.float64)
    if not len(p):
        nan = float("nan")
        return {"exposed": 0, "clicks": 0} | dict.fromkeys(
            ("click_rate", "entropy", "oracle_log_loss", "oracle_auc_roc", "constant_log_loss"), nan
        )
    rate = float(y.mean())
    return {
        "exposed": len(p),
        "clicks": int(y.sum()),
        "click_rate": rate,
        "entropy": float(binary_entropy(p).mean()),
        "oracle_log_loss": float(-(y * np.log(p) + (1 - y) * np.log1p(-p)).mean()),
        "oracle_auc_roc": auc_roc(y, p) if 0 < rate < 1 else float("nan"),
        "constant_log_loss": float(binary_entropy(np.array([rate]))[0]),
    }


def binary_entropy(p: np.ndarray) -> np.ndarray:
    """Return the entropy in nats of coins of probability `p`; 0 at 0 and 1."""
    return entr(p) + entr(1 - p)


def _cross_domain(db: duckdb.DuckDBPyConnection, target: str) -> dict[str, Any]:
    """How many clicks made outside the target domain fell on what one of its requests had lately considered."""
    row = db.execute(
        """
        WITH outside AS (SELECT row_number() OVER () AS id, user_id, item_id, ts FROM events
                         WHERE kind = 'click' AND domain <> $target),
        considered AS (SELECT r.user_id, c.item_id, r.ts, c.exposed FROM candidates c JOIN requests r USING (request_id)
                       WHERE r.domain = $target),
        hit AS (SELECT o.id, bool_or(s.exposed) AS exposed FROM outside o JOIN considered s
                ON s.user_id = o.user_id AND s.item_id = o.item_id AND s.ts < o.ts AND s.ts >= o.ts - $window GROUP BY o.id)
        SELECT (SELECT count(*) FROM outside), count(*) FILTER (WHERE exposed), count(*) FILTER (WHERE NOT exposed) FROM hit
        """,
        {"target": target, "window": WINDOW_SECONDS},
    ).fetchone()
    assert row is not None
    clicks, exposed, unexposed = row
    nan = float("nan")
    return {
        "target": target,
        "clicks": clicks,
        "on_exposed": exposed / clicks if clicks else nan,
        "on_unexposed": unexposed / clicks if clicks else nan,
        "window_seconds": WINDOW_SECONDS,
    }


def _popularity(db: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """Check the heavy tail: the slope of log exposures on log rank over the first tenth of items, and the head's share."""
    got = db.execute("SELECT count(*) AS n FROM candidates WHERE exposed GROUP BY item_id ORDER BY n DESC").fetchnumpy()["n"]
    n = np.asarray(got, dtype=np.float64)
    head = max(10, len(n) // 10)
    top = n[:head]
    slope = float(np.polyfit(np.log(np.arange(1, len(top) + 1)), np.log(top), 1)[0]) if len(top) > 2 else float("nan")
    return {"zipf_slope": slope, "head_share": float(n[: max(1, int(HEAD * len(n)))].sum() / n.sum()), "items_exposed": len(n)}


_COLUMNS = (
    ("requests", ","),
    ("candidates", ","),
    ("exposed", ","),
    ("click_rate", ".4f"),
    ("purchases", ","),
    ("purchases_elsewhere", ".3f"),
    ("entropy", ".5f"),
    ("oracle_log_loss", ".5f"),
    ("constant_log_loss", ".5f"),
    ("oracle_auc_roc", ".4f"),
)


def render(found: dict[str, Any]) -> str:
    """Return the description as text: a table of splits and domains, then the rest a line each."""
    head = ["split", "domain", *(found["floor_name"] if name == "entropy" else name for name, _ in _COLUMNS)]
    rows = [
        [split, domain, *(format(figures[name], style) for name, style in _COLUMNS)]
        for split, domains in found["splits"].items()
        for domain, figures in domains.items()
    ]
    widths = [max(len(row[k]) for row in [head, *rows]) for k in range(len(head))]
    lines = [f"{found['preset']} preset, fingerprint {found['fingerprint']}"]
    lines.append(", ".join(f"{rows:,} {table}" for table, rows in sorted(found["counts"].items())))
    lines += ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in [head, *rows]]
    cross, pop = found["cross_domain"], found["popularity"]
    lines.append(
        f"clicks outside {cross['target']}: {cross['clicks']:,}, of which in the {cross['window_seconds'] // 3600} h after a "
        f"{cross['target']} request exposed the item {cross['on_exposed']:.3f}, only considered it {cross['on_unexposed']:.3f}"
    )
    lines.append(
        f"item popularity: slope of log exposures on log rank {pop['zipf_slope']:.2f} over the first tenth; "
        f"{pop['head_share']:.1%} of exposures on the first {HEAD:.0%} of {pop['items_exposed']:,} items"
    )
    return "\n".join(lines)
