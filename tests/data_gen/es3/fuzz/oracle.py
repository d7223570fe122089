"""What must come of logs, read from the rules and not from the code: errors, rows set aside, rows kept, samples.

Rows are dicts; domains and kinds are words. Everything is written for its plainness, on tables of a few hundred rows.
"""

import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from unisc.data.schema import KINDS

from .draft import FACTS, TABLES

IDS = ("request_id", "user_id", "item_id", "ts")
TS_LIMIT, REQUEST_LIMIT = 2**40, 2**51
Row = dict[str, Any]


@dataclass
class Expected:
    """`refusals`: patterns, one of which the error must match if there are any; with `may_pass` there may be no error.

    `kept`: rows of each table that must be kept. `aside`: the true reasons of each row that must be set aside.
    """

    refusals: list[str] = field(default_factory=list)
    may_pass: bool = False
    kept: dict[str, list[Row]] = field(default_factory=dict)
    aside: dict[tuple, list[set[str]]] = field(default_factory=lambda: defaultdict(list))

    def set_aside(self, table: str, row: Row, reasons: set[str]) -> None:
        self.aside[(table, *(row.get(n) for n in IDS))].append(reasons)


def expect(parts: dict[str, list[tuple[str, pa.Table]]], whole: dict[str, pa.Table], domains, limit: float) -> Expected:
    """Judge logs: `parts` as written, with file names; `whole` with all declared columns."""
    found = Expected()
    for name in ("items", "users", "queries"):
        found.refusals += _catalogue_faults(name, parts[name], whole[name])
    for name in [*FACTS, *({"oracle"} & whole.keys())]:
        rows = whole[name].to_pylist()
        if not rows:
            found.refusals.append(rf"[^:]*/{name}: .*empty")
        for column, known in (("domain", domains), ("kind", KINDS)):
            if any(row.get(column) not in (None, *known) for row in rows):
                found.refusals.append(rf"[^:]*/{name}: column {column} has unknown")
        found.kept[name], breaks = _sound(found, name, rows)
        if limit == 0:
            found.refusals += breaks
    ids = {n: {row[k] for row in whole[t].to_pylist()} for n, t, k in _CATALOGUES}
    _resolve(found, ids)
    return found


_CATALOGUES = (("user", "users", "user_id"), ("item", "items", "item_id"), ("query", "queries", "query_id"))


def _catalogue_faults(name: str, parts: list[tuple[str, pa.Table]], whole: pa.Table) -> list[str]:
    schema, found = TABLES[name], []
    for file, part in parts:
        where = rf"[^:]*/{name}/{re.escape(file)}: row {{}}: column {{}} is "
        for i, row in enumerate(part.to_pylist()):
            for column, value in row.items():
                wrong = value is None and column not in schema.nullable | schema.optional
                for v in value if isinstance(value, list) else [value]:
                    wrong |= isinstance(value, list) and v is None
                    wrong |= isinstance(v, (int, float)) and not (0 <= v < math.inf)
                wrong |= column == "created_ts" and value is not None and value >= TS_LIMIT
                if wrong:
                    found.append(where.format(i, column))
    ids = [i for i in whole[schema.key[0]].to_pylist() if i is not None]
    if sorted(ids) != list(range(len(ids))):
        found.append(rf"[^:]*/{name}/.*: row \d+: (duplicate|column) {schema.key[0]} ")
    if not len(whole) and name != "queries":
        found.append(rf"[^:]*/{name}: .*empty")
    return found


def _faults(name: str, row: Row) -> set[str]:
    found = set()
    for column, value in row.items():
        if value is None:
            if column not in TABLES[name].nullable:
                found.add(f"{column} is null")
            continue
        if isinstance(value, float) and not math.isfinite(value):
            found.add(f"{column} is NaN or infinite")
        if not isinstance(value, (str, bool)) and value < 0:
            found.add(f"{column} is negative")
        if column == "ts" and value >= TS_LIMIT:
            found.add("ts is too large for unix seconds")
        if column == "request_id" and value >= REQUEST_LIMIT:
            found.add("request_id is not below 2**51")
        if column.startswith("p_") and value > 1:
            found.add(f"{column} is above 1")
        if column == "propensity" and not 0 < value <= 1:
            found.add("propensity is not in (0, 1]")
    return found


def _sound(found: Expected, name: str, rows: list[Row]) -> tuple[list[Row], list[str]]:
    """Rows that keep to their schema and stand alone, and patterns of errors that name what does not."""
    breaks, groups = [], defaultdict(list)
    for row in rows:
        if reasons := _faults(name, row):
            found.set_aside(name, row, reasons)
            breaks += [rf"[^:]*/{name}: column {re.escape(reason)} in " for reason in reasons]
        else:
            groups[tuple(row[k] for k in TABLES[name].key or row)].append(row)
    kept = []
    for alike in groups.values():
        if all(row == alike[0] for row in alike):
            kept.append(alike[0])
            again, reason = alike[1:], "duplicate row"
        else:
            again, reason = alike, "conflicting duplicate"
        breaks += [rf"[^:]*/{name}: duplicate in "] * bool(again)
        for row in again:
            found.set_aside(name, row, {reason})
    return kept, breaks


def _resolve(found: Expected, ids: dict[str, set[int]]) -> None:
    """Set aside what refers to nothing, or contradicts what it refers to."""

    def sift(name: str, judge) -> None:
        kept = []
        for row in found.kept[name]:
            reasons = {reason for wrong, reason in judge(row) if wrong}
            if reasons:
                found.set_aside(name, row, reasons)
            else:
                kept.append(row)
        found.kept[name] = kept

    sift(
        "requests",
        lambda r: [
            (r["user_id"] not in ids["user"], "unknown user"),
            (r["query_id"] not in ids["query"] | {None}, "unknown query"),
        ],
    )
    requests = {r["request_id"]: r for r in found.kept["requests"]}
    sift(
        "candidates",
        lambda c: [
            (c["request_id"] not in requests, "unknown request"),
            (c["item_id"] not in ids["item"], "unknown item"),
        ],
    )

    def judge(e: Row) -> list[tuple[bool, str]]:
        page = requests.get(e["request_id"])
        return [
            (e["user_id"] not in ids["user"], "unknown user"),
            (e["item_id"] not in ids["item"], "unknown item"),
            (e["request_id"] is not None and page is None, "unknown request"),
            (page is not None and page["user_id"] != e["user_id"], "another user's request"),
            (page is not None and e["ts"] < page["ts"], "before its request"),
        ]

    sift("events", judge)


def check_quarantine(expected: Expected, aside: list[Row]) -> None:
    """Every row that must be set aside is, once, under a reason that is true of it; no other is."""
    found = defaultdict(list)
    for row in aside:
        found[(row["table"], *(row[n] for n in IDS))].append(row["reason"])
    ours, theirs = ({k: len(v) for k, v in of.items()} for of in (expected.aside, found))
    assert ours == theirs, f"missing {ours.items() - theirs.items()}, extra {theirs.items() - ours.items()}"
    for key, reasons in found.items():
        allowed = set.union(*expected.aside[key])
        assert set(reasons) <= allowed, f"{key}: {reasons}, but only {allowed} are true"


def check_kept(expected: Expected, name: str, rows: list[Row]) -> None:
    """The kept rows of a table are those that must be, cell by cell."""
    columns = TABLES[name].columns.names
    ours, theirs = (Counter(tuple(row[c] for c in columns) for row in of) for of in (expected.kept[name], rows))
    assert ours == theirs, f"{name}: missing {list((ours - theirs).items())[:3]}, extra {list((theirs - ours).items())[:3]}"


def lacks_positives(expected: Expected, target: str, test_start: int) -> bool:
    """Tell whether a split has no request or no click, so that there is nothing to build."""
    sides = set()
    pages = {r["request_id"]: r["ts"] >= test_start for r in expected.kept["requests"] if r["domain"] == target}
    shown = {(c["request_id"], c["item_id"]) for c in expected.kept["candidates"] if c["exposed"] or pages.get(c["request_id"])}
    for e in expected.kept["events"]:
        if e["kind"] == "click" and e["domain"] == target and (e["request_id"], e["item_id"]) in shown:
            side = pages.get(e["request_id"])
            if side or (side is False and e["ts"] < test_start):
                sides.add(side)
    return sides != {True, False}


def check_samples(expected: Expected, splits: dict[str, dict[int, Row]], domains, test_start: int, slots: int) -> None:
    """Every sample row is one that the kept rows make, with the features and page labels that follow from them."""
    requests = {r["request_id"]: r for r in expected.kept["requests"]}
    lists: dict[int, dict[int, Row]] = defaultdict(dict)
    for c in expected.kept["candidates"]:
        lists[c["request_id"]][c["item_id"]] = c
    by_user, exact = defaultdict(list), Counter()
    for e in expected.kept["events"]:
        by_user[e["user_id"]].append(e)
        exact[e["user_id"], e["item_id"], e["ts"], e["kind"], e["domain"]] += 1
    wanted = {"train": set(), "test": set()}
    for i, r in requests.items():
        if r["domain"] == domains[0] and (r["ts"] >= test_start or any(c["exposed"] for c in lists[i].values())) and lists[i]:
            wanted["test" if r["ts"] >= test_start else "train"].add(i)
    for split, rows in splits.items():
        assert {i for i in rows if i >= 0} == wanted[split]
        for request, row in rows.items():
            source = request if request >= 0 else (-1 - request) // slots
            r = requests[source]
            assert (row["user_id"], row["ts"], row["domain"]) == (r["user_id"], r["ts"], r["domain"])
            assert (row["scene"], row["shop_id"]) == (r["scene"], r["shop_id"])
            assert request < 0 or row["query_id"] == r["query_id"]
            assert (row["ts"] >= test_start) == (split == "test")
            _check_history(row, by_user[row["user_id"]], domains)
            shown = {i for i, c in lists[source].items() if c["exposed"]}
            assert row["candidates"].keys() <= lists[source].keys()
            assert request < 0 or shown <= row["candidates"].keys()
            assert request >= 0 or row["candidates"].keys() <= shown
            assert split == "train" or row["candidates"].keys() == lists[source].keys()
            for item, c in row["candidates"].items():
                logged = lists[source][item]
                assert (c["exposed"], c["rank"]) == (logged["exposed"], logged["rank"])
                assert c["position"] == (-1 if logged["position"] is None or not logged["exposed"] else logged["position"])
                for name in ("price", "propensity"):
                    assert c[name] == logged[name] or (logged[name] is None and math.isnan(c[name]))
                assert 0 < c["probability"] <= 1
                past = [e["ts"] for e in by_user[row["user_id"]] if e["ts"] < row["ts"] and e["item_id"] == item]
                assert (c["touches"], c["touch_age"]) == (len(past), _age(row["ts"] - max(past)) if past else -1)
                for kind in ("click", "purchase"):
                    here = [
                        e["ts"]
                        for e in by_user[row["user_id"]]
                        if e["request_id"] == source
                        and e["item_id"] == item
                        and e["kind"] == kind
                        and e["domain"] == r["domain"]
                        if split == "test" or e["ts"] < test_start
                    ]
                    _check_label(c, kind, min(here, default=None), row, item, exact, domains)
    ids = [i for rows in splits.values() for i in rows]
    assert len(ids) == len(set(ids))


def _age(seconds: int) -> int:
    """Cut at the largest age that the samples can say."""
    return min(seconds, 2**31 - 1)


def _check_history(row: Row, events: list[Row], domains) -> None:
    past = [e for e in events if e["ts"] < row["ts"]]
    place = {k: i for i, k in enumerate(KINDS)}
    past.sort(
        key=lambda e: (
            e["ts"], e["item_id"], place[e["kind"]], domains.index(e["domain"]),
            -1 if e["request_id"] is None else e["request_id"],
        )
    )  # fmt: skip
    told = [(e["item_id"], place[e["kind"]], domains.index(e["domain"]), _age(row["ts"] - e["ts"])) for e in reversed(past)]
    columns = (row[f"history_{n}"] for n in ("item_id", "kind", "domain", "age"))
    assert list(zip(*columns, strict=True)) == told[:20]


def _check_label(c: Row, kind: str, here: int | None, row: Row, item: int, exact: Counter, domains) -> None:
    level, origin, ts = c[f"{kind}_level"], c[f"{kind}_origin"], c[f"{kind}_ts"]
    assert c[kind] == (level > 0)
    if here is not None:
        assert (level, ts, domains[origin]) == (1, here, row["domain"])
    elif level:
        assert level > 1 and ts >= row["ts"]
        assert exact[row["user_id"], item, ts, kind, domains[origin]]
    else:
        assert (origin, ts) == (-1, -1)
