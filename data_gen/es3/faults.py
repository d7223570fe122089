"""Counts of what must not be in a samples directory: repeated rows, labels at odds with themselves, anything from the future.

`measure` needs the sample files alone; `measure_against` reads the logs they were made from and looks every label and a share
of the features up there, by SQL that has nothing in common with the build's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_gen.es3.curves import Samples
from data_gen.es3.sql import scan
from unisc.data import manifest
from unisc.errors import InputError

RECOUNTED = 200_000
"""About how many candidates have their touches counted anew from the logs; whole users, chosen by a hash of their id."""

_LISTS = (
    "item_id", "exposed", "position", "rank", "price", "propensity", "probability", "touches", "touch_age",
    "click", "click_level", "click_origin", "click_ts", "click_weight",
    "purchase", "purchase_level", "purchase_origin", "purchase_ts", "purchase_weight",
)  # fmt: skip

CONFLICTS = {
    "exposed without a position": "exposed AND position < 0",
    "a position but not exposed": "NOT exposed AND position >= 0",
    "probability not in (0, 1]": "NOT (probability > 0 AND probability <= 1)",
    "exposed with a probability below 1": "exposed AND probability <> 1",
    "touches without an age, or an age without touches": "(touches > 0) <> (touch_age >= 0)",
    **{
        f"{kind}: {name}": rule.replace("KIND", kind)
        for kind in ("click", "purchase")
        for name, rule in {
            "not 0 or 1": "KIND NOT IN (0, 1)",
            "label and level disagree": "(KIND = 1) <> (KIND_level > 0)",
            "level without time, or time without level": "(KIND_level > 0) <> (KIND_ts >= 0)",
            "level without domain, or domain without level": "(KIND_level > 0) <> (KIND_origin >= 0)",
            "weight not in (0, 1]": "NOT (KIND_weight > 0 AND KIND_weight <= 1)",
        }.items()
    },
    "click: on the page, but not exposed": "click_level = 1 AND NOT exposed",
    "click: level 2 means exposed, 3 unexposed": "(click_level = 2 AND NOT exposed) OR (click_level = 3 AND exposed)",
    "purchase: levels 2 and 3 mean exposed, 4 unexposed": "made = 'logged' AND "
    "((purchase_level IN (2, 3) AND NOT exposed) OR (purchase_level = 4 AND exposed))",
    "purchase: level 2 means clicked before": "made = 'logged' AND purchase_level = 2 "
    "AND NOT (click > 0 AND click_ts <= purchase_ts)",
}
"""Conditions on a candidate that contradict what the samples' schema says of its columns."""


def measure(samples: Samples, about: Mapping[str, Any]) -> dict[str, Any]:
    """Count repeats, conflicts and leaks of a samples directory whose manifest is `about`; a count of 0 is as it should be."""
    return {
        "repeats": samples.rows(_REPEATS)[0],
        "conflicts": _count(samples, CONFLICTS, ("exposed", "position", "probability", "touches", "touch_age", *_LABEL_LISTS)),
        "requests": _requests(samples, about["test_start"]),
        "leaks": _count(samples, _leaks(about), ("exposed", "touch_age", "probability", *_LABEL_LISTS)),
        "features": _features(samples, about["config"]),
    }


_LABEL_LISTS = tuple(name for name in _LISTS if name.startswith(("click", "purchase")))
_LENGTHS = " OR ".join(f"len({name}) IS DISTINCT FROM len(item_id)" for name in _LISTS[1:])

_REPEATS = f"""
SELECT count(*) - count(DISTINCT request_id) AS request_ids, sum(len(item_id) - len(list_distinct(item_id)))::BIGINT AS items,
  count(*) FILTER ({_LENGTHS}) AS lists_of_unequal_length, count(*) FILTER (len(item_id) = 0) AS empty_lists FROM requests
"""


def _count(samples: Samples, rules: Mapping[str, str], lists: tuple[str, ...]) -> dict[str, int]:
    counts = ", ".join(f'count(*) FILTER ({rule}) AS "{name}"' for name, rule in rules.items())
    plain = ("split", "origin", "ts")
    return samples.rows(f"SELECT {counts} FROM {samples.candidates(*lists, plain=plain)}")[0]


def _requests(samples: Samples, test_start: int) -> dict[str, int]:
    row = samples.rows(
        f"""
        SELECT count(*) FILTER (split = 'train' AND ts >= {test_start}) AS "train requests in the test period",
          count(*) FILTER (split = 'test' AND ts < {test_start}) AS "test requests in the train period",
          count(*) FILTER (split = 'test' AND origin <> 'logged') AS "pseudo requests in test",
          count(*) FILTER (list_min(history_age) < 1) AS "history not before its request"
        FROM requests
        """
    )[0]
    return {name: n or 0 for name, n in row.items()}


def _leaks(about: Mapping[str, Any]) -> dict[str, str]:
    found = {"touch not before its request": "touch_age = 0", "test candidate drawn": "split = 'test' AND probability <> 1"}
    for kind in ("click", "purchase"):
        window, end = about["config"][f"{kind}_window"], about["test_start"]
        found |= {
            f"{kind} before its request": f"{kind}_level > 0 AND {kind}_ts < ts",
            f"train {kind} from the test period": f"split = 'train' AND {kind}_level > 0 AND {kind}_ts >= {end}",
            f"test {kind} from elsewhere": f"split = 'test' AND {kind}_level > 1",
            f"{kind} from elsewhere outside its window": f"made = 'logged' AND {kind}_level > 1 "
            f"AND NOT ({kind}_ts - ts BETWEEN 1 AND {window})",
        }
    return found


def _features(samples: Samples, config: Mapping[str, Any]) -> dict[str, int]:
    """Compare two features made apart: an item's touches, and its place in the history. Of one they say the same."""
    length, oldest = config["history_len"], config["history_max_age"]
    short = f"len(history_age) < {length} AND ({oldest} = 0 OR touch_age <= {oldest})"
    return samples.rows(
        f"""
        WITH c AS (
          SELECT history_age, touches, touch_age, list_position(history_item_id, item_id) AS place FROM (
            SELECT history_age, history_item_id, unnest(item_id) AS item_id, unnest(touches) AS touches,
              unnest(touch_age) AS touch_age FROM requests)
        )
        SELECT count(*) AS candidates, count(place) AS "in the history",
          count(*) FILTER (place > 0 AND (touches < 1 OR touch_age <> history_age[place])) AS "history and touch age disagree",
          count(*) FILTER (coalesce(place, 0) = 0 AND touch_age >= 0 AND (touch_age < history_age[-1] OR ({short})))
            AS "touched, but missing from the history"
        FROM c
        """
    )[0]


def measure_against(samples: Samples, about: Mapping[str, Any], logs: Path) -> dict[str, Any]:
    """Look labels and features up in the logs the samples were made from.

    Rows that the build set aside are still in the logs, so with a quarantine a few counts may differ.

    Raises:
      InputError: logs that are not the ones the samples' manifest names.
    """
    source = manifest.read(logs, kind="logs")
    if source["fingerprint"] != about["logs"]:
        raise InputError(f"{logs}: not the logs of these samples (fingerprint {source['fingerprint']}); give {about['logs']}")
    domains = "[" + ", ".join("'" + d.replace("'", "''") + "'" for d in about["domains"]) + "]"
    samples.db.execute(f"CREATE VIEW events AS SELECT * FROM {scan(logs / 'events')}")
    labels = _labels(samples, domains)
    missing = samples.rows(
        f"""
        WITH labels AS ({labels})
        SELECT (SELECT count(*) FROM labels) AS labels, count(*) AS missing FROM labels
        ANTI JOIN (SELECT DISTINCT user_id, item_id, ts, kind, domain FROM events) USING (user_id, item_id, ts, kind, domain)
        """
    )[0]
    return {"rows": source["counts"], "labels": missing, "touches": _recount(samples, about)}


def _labels(samples: Samples, domains: str) -> str:
    one = samples.candidates("item_id", *_LABEL_LISTS, plain=("user_id",))
    return f"WITH one AS {one} " + " UNION ALL ".join(
        f"SELECT user_id, item_id, {kind}_ts AS ts, '{kind}' AS kind, {domains}[{kind}_origin + 1] AS domain "
        f"FROM one WHERE {kind}_level > 0"
        for kind in ("click", "purchase")
    )


def _recount(samples: Samples, about: Mapping[str, Any]) -> dict[str, int]:
    counts = about["counts"]
    every = max(1, round((counts["train_samples"] + counts["test_samples"]) / RECOUNTED))
    some = f"hash(user_id) % {every} = 0"
    return samples.rows(
        f"""
        WITH c AS {samples.candidates("item_id", "touches", "touch_age", plain=("request_id", "user_id", "ts"), where=some)},
        asked AS (SELECT DISTINCT user_id, item_id, ts FROM c),
        counted AS (
          SELECT a.user_id, a.item_id, a.ts, count(*) AS times, a.ts - max(e.ts) AS age
          FROM asked a JOIN events e ON a.user_id = e.user_id AND a.item_id = e.item_id AND e.ts < a.ts
          GROUP BY a.user_id, a.item_id, a.ts
        )
        SELECT count(*) AS candidates, count(times) AS touched,
          count(*) FILTER (coalesce(times, 0) <> touches OR coalesce(age, -1) <> touch_age) AS different
        FROM c LEFT JOIN counted USING (user_id, item_id, ts)
        """
    )[0]
