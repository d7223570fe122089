"""How right the attributed labels of a samples directory are, read off its files and the shop's truth, with intervals.

The build's own report counts as it builds; this looks at any samples afterwards, also at those whose labels were moved.

Clicks. Nothing causes a click elsewhere but interest, so a label is judged by the true click probability p of its item in its
request, as if shown in the top slot. `precision` is by how much labelled candidates lie above all that the page got no click
for, of their own request and exposure, over the same of the page's own clicks: 0 for labels at random, 1 for labels as good as
the page's. Compared within the request, so that requests which draw more labels do not count as right ones; and with a mean
that no attribution changes, so that samples of one shop are on one scale. A label moved off a right candidate on purpose does a
little worse than at random, since the right one is not among those it can meet. `recall` is the sum of p over labelled
candidates, a share of that over all candidates of the train requests.
Purchases. The log says which request led to one: `precision` is the share of labels on it, `recall` the share of such purchases
that got there.

Intervals are a delete-a-group jackknife over users, whose labels hang together.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from data_gen.es3.curves import Samples
from data_gen.es3.sql import connect, scan
from unisc.data import manifest
from unisc.errors import InputError

GROUPS = 40
"""Groups of users left out one after the other; the degrees of freedom of an interval are one less."""
LEVEL = 0.90

_GROUP = f"(user_id::BIGINT * 2654435761 % 4294967296) % {GROUPS}"


def measure(samples: Path, logs: Path, *, memory: str = "1GiB") -> dict[str, Any]:
    """Return precision and recall of the attributed click and purchase labels, each with its interval and its replicates.

    Keys: `samples` (fingerprint), `click` and `purchase`, each with `labels`, `labels_per_request`, `precision`, `recall`
    ({value, low, high, level, replicates}, value null where there is nothing to judge), and for clicks `by_exposure`.

    Raises:
      InputError: logs without a truth, or not those the samples were made from.
    """
    about, source = (manifest.read(path, kind=kind) for path, kind in ((samples, "samples"), (logs, "logs")))
    if source["fingerprint"] != about["logs"]:
        raise InputError(f"{logs}: not the logs of these samples (fingerprint {source['fingerprint']}); give {about['logs']}")
    for name in ("oracle", "causes"):
        if not (logs / name).is_dir():
            raise InputError(f"{logs}: no table {name}, so nothing says which labels are right; give logs of a generated shop")
    with connect(samples, memory) as db:
        found = Samples(db, samples)
        lists = ("item_id", "click_level", "purchase_level", "purchase_ts", "purchase_origin")
        one = found.candidates(*lists, plain=("split", "origin", "request_id", "user_id"), where="split = 'train'")
        db.execute(f"CREATE TEMP TABLE one AS SELECT * FROM {one} WHERE made = 'logged'")
        db.execute(f"CREATE TEMP TABLE pages AS SELECT DISTINCT request_id, {_GROUP} AS g FROM one")
        clicks = {name: np.zeros((2, GROUPS)) for name in ("labels", "excess", "labelled", "expected", "own", "reference")}
        for row in found.rows(_CLICKS.format(oracle=scan(logs / "oracle"), candidates=scan(logs / "candidates"))):
            for name, values in clicks.items():
                values[int(row["exposed"]), row["g"]] = row[name] or 0.0
        names = "[" + ", ".join(f"'{d}'" for d in about["domains"]) + "]"
        bought = {name: np.zeros(GROUPS) for name in ("labels", "right", "caused")}
        sql = _PURCHASES.format(causes=scan(logs / "causes"), names=names, end=about["test_start"], group=_GROUP)
        for row in found.rows(sql):
            for name, values in bought.items():
                values[row["g"]] += row[name] or 0
        (pages,) = found.rows("SELECT count(*) AS n FROM pages")
    return {
        "samples": about["fingerprint"],
        "click": _clicks(clicks) | {"labels_per_request": float(clicks["labels"].sum()) / pages["n"]},
        "purchase": _purchases(bought) | {"labels_per_request": float(bought["labels"].sum()) / pages["n"]},
    }


# A page's own click is set against the candidates of either exposure, as are the attributed labels it is compared with.
_CLICKS = """
WITH pool AS (
  SELECT c.request_id, c.item_id, c.exposed, o.p_click_top::DOUBLE AS p, coalesce(one.click_level, 0) AS level, pages.g
  FROM {candidates} c JOIN {oracle} o USING (request_id, item_id) JOIN pages USING (request_id)
  LEFT JOIN one USING (request_id, item_id)
),
sides AS (SELECT request_id, exposed, avg(p) FILTER (level <> 1) AS rest FROM pool GROUP BY ALL),
own AS (
  SELECT g, sides.exposed, count(*) AS own, sum(p - rest) AS reference
  FROM pool JOIN sides USING (request_id) WHERE level = 1 AND rest IS NOT NULL GROUP BY ALL
),
told AS (
  SELECT g, pool.exposed, sum(p) AS expected, count(*) FILTER (level > 1) AS labels,
    sum(p) FILTER (level > 1) AS labelled, sum(p - rest) FILTER (level > 1) AS excess
  FROM pool JOIN sides ON pool.request_id = sides.request_id AND pool.exposed = sides.exposed GROUP BY ALL
)
SELECT * FROM told LEFT JOIN own USING (g, exposed)
"""

_PURCHASES = """
WITH labels AS (
  SELECT request_id, user_id, item_id, purchase_ts AS ts, {names}[purchase_origin + 1] AS domain
  FROM one WHERE purchase_level > 1
),
caused AS (
  SELECT DISTINCT request_id, user_id, item_id, ts, domain, true AS known FROM {causes} SEMI JOIN pages USING (request_id)
  WHERE kind = 'purchase' AND ts < {end}
)
SELECT {group} AS g, count(*) AS labels, count(known) AS "right", 0 AS caused
FROM labels LEFT JOIN caused USING (request_id, user_id, item_id, ts, domain) GROUP BY g
UNION ALL SELECT {group} AS g, 0, 0, count(*) FROM caused GROUP BY g
"""


def _clicks(sums: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Make the ratios of sums by exposure and group (2, GROUPS)."""

    def precision(side: slice | list[int], kept: np.ndarray) -> float:
        total = {name: values[side] @ kept for name, values in sums.items()}
        with np.errstate(invalid="ignore", divide="ignore"):
            each = total["excess"] * total["own"] / total["reference"]
            return float(np.sum(np.where(total["labels"] > 0, each, 0.0)) / total["labels"].sum())

    def recall(side: slice | list[int], kept: np.ndarray) -> float:
        with np.errstate(invalid="ignore", divide="ignore"):
            return float((sums["labelled"][side] @ kept).sum() / (sums["expected"][side] @ kept).sum())

    def about(side: slice | list[int]) -> dict[str, Any]:
        return {
            "labels": int(sums["labels"][side].sum()),
            "precision": _jackknife(lambda kept: precision(side, kept)),
            "recall": _jackknife(lambda kept: recall(side, kept)),
        }

    return about(slice(None)) | {"by_exposure": {name: about([side]) for side, name in ((1, "exposed"), (0, "unexposed"))}}


def _purchases(sums: Mapping[str, np.ndarray]) -> dict[str, Any]:
    def share(of: str, kept: np.ndarray) -> float:
        with np.errstate(invalid="ignore", divide="ignore"):
            return float((sums["right"] @ kept) / (sums[of] @ kept))

    return {
        "labels": int(sums["labels"].sum()),
        "precision": _jackknife(lambda kept: share("labels", kept)),
        "recall": _jackknife(lambda kept: share("caused", kept)),
    }


def _jackknife(statistic) -> dict[str, Any]:
    """Return a statistic of weights on the groups, its interval, and its values with each group left out."""
    value = statistic(np.ones(GROUPS))
    replicates = np.array([statistic(1.0 - row) for row in np.eye(GROUPS)])
    if not (np.isfinite(value) and np.isfinite(replicates).all()):
        return {"value": None, "low": None, "high": None, "level": LEVEL, "replicates": []}
    error = float(np.sqrt((GROUPS - 1) / GROUPS * ((replicates - replicates.mean()) ** 2).sum()))
    half = float(stdtrit(GROUPS - 1, 0.5 + LEVEL / 2)) * error
    return {"value": value, "low": value - half, "high": value + half, "level": LEVEL, "replicates": replicates.tolist()}
