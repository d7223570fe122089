"""What the sample files themselves say: label lags, rates by place, histories, draws, weights; SQL over the Parquet, streamed.

Nothing here trusts the build's own counts. Every query groups into a bounded number of rows, so memory does not grow with the
samples beyond their distinct request and user ids, which DuckDB spills to disk.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from data_gen.es3.sql import Rows, log_bin, rows, scan
from unisc.data.schema import SAMPLES
from unisc.errors import InputError

MAX_POSITION = 40
"""Shown slots from this one on are counted together."""


class Samples:
    """SQL over a samples directory: the view `requests`, one row a request, with its `split`; `candidates` as needed."""

    def __init__(self, db: duckdb.DuckDBPyConnection, directory: Path) -> None:
        self.db = db
        splits = []
        for split in ("train", "test"):
            splits.append(f"SELECT '{split}' AS split, * FROM {scan(directory / split)}")
            found = {row["column_name"] for row in self.rows(f"DESCRIBE {splits[-1]}")}
            if missing := [name for name in SAMPLES.names if name not in found]:
                raise InputError(f"{directory / split}: column {missing[0]} is missing; build the samples again")
        db.execute("CREATE VIEW requests AS " + " UNION ALL ".join(splits))

    def candidates(self, *lists: str, plain: Sequence[str] = ("split", "origin"), where: str = "true") -> str:
        """One row a candidate with only the columns named: what is not unnested is not read. `origin` is called `made`."""
        kept = ", ".join(f"{c} AS made" if c == "origin" else c for c in plain)
        return f"(SELECT {kept}, {', '.join(f'unnest({c}) AS {c}' for c in lists)} FROM requests WHERE {where})"

    def rows(self, sql: str) -> Rows:
        """Fetch a query's rows as dicts."""
        return rows(self.db, sql)


def measure(samples: Samples, about: Mapping[str, Any]) -> dict[str, Any]:
    """Every curve of the report, as plain JSON values; `about` is the manifest (its domains and configuration)."""
    domains = about["domains"]
    _tally(samples)
    return {
        "volumes": samples.rows(_VOLUMES),
        "lags": _lags(samples, domains),
        "positions": samples.rows(_POSITIONS),
        "ranks": samples.rows(_RANKS),
        "labels": _named(samples.rows(_LABELS), domains),
        "list_lengths": samples.rows(
            "SELECT split, origin AS made, len(item_id) AS length, count(*) AS n FROM requests GROUP BY ALL ORDER BY ALL"
        ),
        "history_lengths": samples.rows(
            "SELECT split, len(history_item_id) AS length, count(*) AS n FROM requests GROUP BY ALL ORDER BY ALL"
        ),
        "history_ages": _named(samples.rows(_ages(samples)), domains),
        "query_levels": samples.rows(
            "SELECT split, domain, origin AS made, query_level AS level, count(*) AS n FROM requests GROUP BY ALL ORDER BY ALL"
        ),
        "probabilities": samples.rows(_probabilities(samples)),
        "weights": samples.rows(_weights(samples)),
        "prices": samples.rows(_prices(samples)),
        "overlap": _overlap(samples),
    }


_TALLIED = ("exposed", "position", "rank", "probability", "click_level", "click_origin", "purchase_level", "purchase_origin")


def _tally(samples: Samples) -> None:
    """Count candidates once by all that the curves below group by; `weighted`, `squared` sum 1 / probability and its square."""
    samples.db.execute(
        f"""
        CREATE TEMP TABLE tally AS
        SELECT split, made, exposed, least(position, {MAX_POSITION}) AS position,
          CASE WHEN rank >= 0 THEN floor(log2(rank + 1))::INT END AS rank_bin, click_level, click_origin, purchase_level,
          purchase_origin, count(*) AS n, sum(weight) AS weighted, sum(weight * weight) AS squared
        FROM (SELECT *, CASE WHEN probability > 0 AND probability <= 1 THEN 1 / probability::DOUBLE END AS weight
          FROM {samples.candidates(*_TALLIED)}) GROUP BY ALL
        """
    )


_VOLUMES = """
SELECT split, made, sum(n)::BIGINT AS samples, coalesce(sum(n) FILTER (exposed), 0)::BIGINT AS exposed,
  coalesce(sum(n) FILTER (click_level > 0), 0)::BIGINT AS clicks,
  coalesce(sum(n) FILTER (purchase_level > 0), 0)::BIGINT AS purchases,
  coalesce(sum(n) FILTER (click_level > 1), 0)::BIGINT AS clicks_from_elsewhere,
  coalesce(sum(n) FILTER (purchase_level > 1), 0)::BIGINT AS purchases_from_elsewhere
FROM tally GROUP BY ALL ORDER BY ALL
"""

# Pseudo requests hold a click by construction, so their rates say nothing of a place.
_POSITIONS = """
SELECT split, position, sum(n)::BIGINT AS n, coalesce(sum(n) FILTER (click_level = 1), 0)::BIGINT AS clicks,
  coalesce(sum(n) FILTER (click_level > 1), 0)::BIGINT AS clicks_from_elsewhere
FROM tally WHERE exposed AND made = 'logged' GROUP BY ALL ORDER BY ALL
"""

# Unexposed candidates were drawn: each stands for 1 / probability of them.
_RANKS = """
SELECT split, exposed, rank_bin, sum(n)::BIGINT AS n, sum(weighted) AS weighted, sum(squared) AS squared,
  coalesce(sum(weighted) FILTER (click_level > 0), 0) AS clicks,
  coalesce(sum(weighted) FILTER (purchase_level > 0), 0) AS purchases,
  coalesce(sum(weighted) FILTER (click_level = 1), 0) AS clicks_on_page,
  coalesce(sum(weighted) FILTER (purchase_level = 1), 0) AS purchases_on_page
FROM tally WHERE made = 'logged' AND rank_bin IS NOT NULL GROUP BY ALL ORDER BY ALL
"""

_LABELS = """
SELECT split, made, kind, level, origin, sum(n)::BIGINT AS n FROM (
  SELECT split, made, 'click' AS kind, click_level AS level, click_origin AS origin, n FROM tally UNION ALL
  SELECT split, made, 'purchase', purchase_level, purchase_origin, n FROM tally
) WHERE level > 0 GROUP BY ALL ORDER BY ALL
"""


def _lags(samples: Samples, domains: Sequence[str]) -> Rows:
    """Seconds from request to labelling event of train rows: n, median and counts by bin, by kind, level, origin and `made`."""
    lists = [f"{kind}_{what}" for kind in ("click", "purchase") for what in ("level", "origin", "ts")]
    one = samples.candidates(*lists, plain=("split", "origin", "ts"), where="split = 'train'")
    labels = " UNION ALL ".join(
        f"SELECT made, '{kind}' AS kind, {kind}_level AS level, {kind}_origin AS origin, {kind}_ts - ts AS lag FROM one "
        f"WHERE {kind}_level > 0 AND {kind}_ts >= 0"
        for kind in ("click", "purchase")
    )
    found = samples.rows(
        f"""
        WITH one AS {one}, labels AS ({labels})
        SELECT made, kind, level, origin, count(*) AS n, median(lag) AS median, max(lag) AS longest,
          count(*) FILTER (lag <= 3600) / count(*) AS within_1h, count(*) FILTER (lag <= 86400) / count(*) AS within_24h,
          histogram({log_bin("lag")}) AS bins
        FROM labels GROUP BY ALL ORDER BY made, kind, level, origin
        """
    )
    for row in found:
        row["bins"] = sorted(row["bins"].items())
    return _named(found, domains)


def _ages(samples: Samples) -> str:
    return f"""
        SELECT split, history_domain AS origin, {log_bin("history_age")} AS bin, count(*) AS n
        FROM {samples.candidates("history_domain", "history_age", plain=("split",))} GROUP BY ALL ORDER BY ALL
        """


def _probabilities(samples: Samples) -> str:
    return f"""
        SELECT split, exposed, round(probability::DOUBLE, 2) AS probability, count(*) AS n,
          count(*) FILTER (NOT isnan(propensity)) AS with_propensity,
          sum(propensity) FILTER (NOT isnan(propensity)) AS propensity
        FROM {samples.candidates("exposed", "probability", "propensity")} GROUP BY ALL ORDER BY ALL
        """


def _weights(samples: Samples) -> str:
    lists = [f"{kind}_{what}" for kind in ("click", "purchase") for what in ("level", "weight")]
    one = samples.candidates(*lists, where="split = 'train'")
    return f"""
        WITH one AS {one}
        SELECT kind, level, count(*) AS n, count(*) FILTER (weight = 1) AS "full", avg(weight) AS mean,
          min(weight)::DOUBLE AS least, quantile_cont(weight::DOUBLE, [0.1, 0.25, 0.5, 0.75, 0.9]) AS quantiles
        FROM (
          SELECT 'click' AS kind, click_level AS level, click_weight AS weight FROM one UNION ALL
          SELECT 'purchase', purchase_level, purchase_weight FROM one
        ) WHERE level > 0 GROUP BY ALL ORDER BY ALL
        """


def _prices(samples: Samples) -> str:
    """Counts by half-octave of price; a null bin is an unknown price, -1 a price of nothing."""
    return f"""
        SELECT split, exposed, click_level > 0 AS clicked,
          CASE WHEN isnan(price) THEN NULL WHEN price <= 0 THEN -1 ELSE floor(2 * log2(1 + price))::INT END AS bin,
          count(*) AS n
        FROM {samples.candidates("exposed", "price", "click_level")} GROUP BY ALL ORDER BY ALL
        """


def _overlap(samples: Samples) -> dict[str, int]:
    """Users of train, of test and of both; items likewise."""
    found: dict[str, int] = {}
    for name, table in (("users", "requests"), ("items", samples.candidates("item_id"))):
        id_ = f"{name[:-1]}_id"
        row = samples.rows(
            f"""
            WITH seen AS (
              SELECT {id_}, bool_or(split = 'train') AS train, bool_or(split = 'test') AS test FROM {table} GROUP BY ALL
            )
            SELECT count(*) FILTER (train) AS train_{name}, count(*) FILTER (test) AS test_{name},
              count(*) FILTER (train AND test) AS shared_{name} FROM seen
            """
        )[0]
        found |= row
    return found


def _named(rows: Rows, domains: Sequence[str]) -> Rows:
    """Put the domain's name where its index stands."""
    return [row | {"origin": domains[o] if 0 <= (o := row["origin"]) < len(domains) else f"domain {o}"} for row in rows]
