"""What a build did, in numbers: volumes, fates of events, and on a shop whose truth is known how right its labels are.

A bucket is measured by itself. What it yields are counts under a key, which add up over buckets whatever their number;
probabilities are counted in millionths, so that no order of adding shows.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from data_gen.es3.attribution import REASONS, outside_events
from data_gen.es3.candidates import TARGET
from data_gen.es3.compose import ATTRIBUTED, SEARCHIFIED, Material
from data_gen.es3.config import ES3Config
from data_gen.es3.searchify import STEPS
from data_gen.es3.session import Session
from data_gen.es3.tables import Header, Logs
from unisc.data.schema import COMPOSITIONS, KINDS

STATS = pa.schema([("key", pa.string()), ("n", pa.int64())])
MILLIONTHS = 1_000_000

_LABELS = ("click_level", "click_origin", "purchase_level", "purchase_origin")
_TASKS = {"click": "p_click_top", "purchase": "p_purchase"}
"""Label kinds, and the oracle's column that says how likely each was: a click as if shown in the top slot, for all alike."""
_SAID = {1: "own past query", 2: "co-occurring query", 3: "nearest query"}
_DROPS = {
    "test_period": ("all", "early"),
    "no_impression_list": ("early", "listed"),
    "repeated_click": ("listed", "distinct"),
    "not_exposed": ("distinct", "shown"),
    "too_many_clicks": ("shown", "numbered"),
    "no_similar_negative": ("numbered", "kept"),
    "no_query": ("kept", "made"),
}
"""Why a click outside the target domain became no pseudo request, as the difference of two of STEPS."""


def measure(session: Session, logs: Logs, material: Material) -> pa.Table:
    """Count one bucket's material; returns STATS."""
    counts = [*_rows(material), *_fates(material), *_pseudo(logs, material)]
    if logs.oracle is not None:
        counts += _truth(session, logs, material)
    return session.fetch(ibis.union(*counts)).cast(STATS)


def merge(tables: Sequence[pa.Table]) -> Counter[tuple[str, ...]]:
    """Add the counts of all buckets up."""
    total: Counter[tuple[str, ...]] = Counter()
    for table in tables:
        for key, n in zip(table["key"].to_pylist(), table["n"].to_pylist(), strict=True):
            total[tuple(key.split("|"))] += n
    return total


def summarise(
    stats: Counter[tuple[str, ...]], *, header: Header, config: ES3Config, quarantine: pa.Table, shared: Mapping[str, Any]
) -> dict[str, Any]:
    """Return `counts` (flat) and the quality sections of the manifest, for a composition and all before it."""
    volumes = {COMPOSITIONS[s]: _volumes(stats, "train", s) for s in range(config.stage + 1)}
    first, test = volumes[COMPOSITIONS[0]], _volumes(stats, "test", 0)
    aside = Counter(zip(quarantine["table"].to_pylist(), quarantine["reason"].to_pylist(), strict=True))
    report: dict[str, Any] = {
        "volumes": volumes,
        "volume_ratios": {
            name: {key: round(n / first[key], 4) if first[key] else None for key, n in row.items()}
            for name, row in volumes.items()
        },
        "test": test,
        "labels": _labels(stats, header.domains, config.stage),
        "quarantine": {f"{table}: {reason}": n for (table, reason), n in sorted(aside.items())},
        "counts": {
            **{f"train_{key}": n for key, n in volumes[config.composition].items()},
            **{f"test_{key}": n for key, n in test.items()},
            "quarantined": len(quarantine),
        },
    }
    if config.stage >= ATTRIBUTED:
        report["attribution"] = {kind: _fates_of(stats, code) for code, kind in _kinds()}
        report["attribution_by_domain"] = {
            kind: {name: _fates_of(stats, code, domain) for domain, name in enumerate(header.domains)}
            for code, kind in _kinds()
        }
    if config.stage >= SEARCHIFIED:
        report["searchification"] = _searchification(stats)
        report["nearest"] = dict(shared.get("nearest", {}))
    if any(key[0] == "pool" for key in stats):
        report["oracle"] = {kind: _accuracy(stats, header.domains, config.stage, kind) for kind in _TASKS}
    return report


def _key(*parts: str | ir.Value) -> ir.StringValue:
    """Join parts by "|"; truth values as 1 and 0."""
    text = ibis.literal("")
    for i, part in enumerate(parts):
        value = ibis.literal(part) if isinstance(part, str) else part
        if value.type().is_boolean():
            value = ibis.ifelse(value, 1, 0)
        text = text + ("|" if i else "") + value.cast("string")
    return text


def _counted(table: ir.Table, *parts: str | ir.Value, n: ir.Value | None = None) -> ir.Table:
    keyed = table.select(key=_key(*parts), n=ibis.literal(1, "int64") if n is None else n.cast("int64"))
    return keyed.group_by("key").aggregate(n=keyed.n.sum().cast("int64"))


def _rows(material: Material) -> Iterator[ir.Table]:
    for split, requests, c in (
        ("train", material.requests, material.candidates),
        ("test", material.test_requests, material.test_candidates),
    ):
        yield _counted(c, "candidates", split, c.stage, c.exposed, *(c[name] for name in _LABELS))
        yield _counted(requests, "requests", split, requests.origin, requests.query_level)


def _fates(material: Material) -> Iterator[ir.Table]:
    if (f := material.fates) is not None:
        yield _counted(f, "fates", f.kind, f.domain, f.fate)


def _pseudo(logs: Logs, material: Material) -> Iterator[ir.Table]:
    """Steps of searchification; whether queries name the item's category, and what lower levels say where the user spoke."""
    for name, table in material.steps.items():
        yield _counted(table, "steps", name, table.domain)
    if not material.steps:
        return
    made = material.steps["made"]
    items = logs.items.select(of_item="item_id", is_of="category_3")
    queries = logs.queries.select(of_query="query_id", asks_for="category_3")
    made = made.left_join(items, made.item_id == items.of_item).left_join(queries, made.query_id == queries.of_query)
    known = made.filter(made.is_of.notnull() & made.asks_for.notnull())
    yield _counted(known, "category", known.query_level, known.is_of == known.asks_for)
    for level, name in ((2, "common_query"), (3, "near_query")):
        both = made.filter(made.own_query.notnull() & made[name].notnull())
        yield _counted(both, "agreement", str(level), both.own_query == both[name])


def _truth(session: Session, logs: Logs, material: Material) -> Iterator[ir.Table]:
    """The oracle's probabilities under labelled and unlabelled candidates, and the true causes of outside purchases."""
    o = logs.oracle.rename(true_request="request_id", true_item="item_id")
    pool = material.pool.filter(~material.pool.test).select("request_id", "item_id", "exposed")
    pool = pool.inner_join(o, [pool.request_id == o.true_request, pool.item_id == o.true_item])
    pool = session.save("true_pool", pool.drop("true_request", "true_item"))
    c = material.candidates.filter(material.candidates.stage < SEARCHIFIED).select("request_id", "item_id", *_LABELS)
    labelled = c.filter((c.click_level > 0) | (c.purchase_level > 0))
    labelled = session.save("true_labels", labelled.inner_join(pool, ["request_id", "item_id"]))
    yield _counted(pool, "pool", pool.exposed)
    for task, column in _TASKS.items():
        millionths = [(t[column].cast("float64") * MILLIONTHS).round() for t in (pool, labelled)]
        yield _counted(pool, "pool_p", task, pool.exposed, n=millionths[0])
        some = labelled.mutate(p=millionths[1]).filter(labelled[f"{task}_level"] > 0)
        level, origin = some[f"{task}_level"], some[f"{task}_origin"]
        yield _counted(some, "true_n", task, level, origin, some.exposed)
        yield _counted(some, "true_p", task, level, origin, some.exposed, n=some.p)
    if logs.causes is None or material.labels is None:
        return
    r = logs.requests.filter((logs.requests.domain == TARGET) & ~logs.requests.test).select(cause="request_id")
    causes = logs.causes.inner_join(r, logs.causes.request_id == r.cause).drop("request_id")
    keys = ["user_id", "item_id", "ts", "kind", "domain"]
    events = outside_events(logs)
    events = events.filter(events.ts < logs.test_start).select(*keys)
    caused = session.save("true_causes", events.inner_join(causes, keys))
    yield _counted(caused, "caused", caused.kind, caused.domain)
    said = material.labels.rename(domain="origin").select(*keys, "request_id", "level")
    right = said.inner_join(caused, keys)
    right = right.filter(right.request_id == right.cause)
    yield _counted(right, "right", right.kind, right.domain, right.level)


def _kinds() -> list[tuple[int, str]]:
    return [(KINDS.index(kind), kind) for kind in _TASKS]


def _volumes(stats: Counter[tuple[str, ...]], split: str, stage: int) -> dict[str, int]:
    found = dict.fromkeys(("requests", "samples", "clicks", "purchases"), 0)
    for key, n in stats.items():
        if key[:2] == ("requests", split):
            found["requests"] += n * (key[2] == "logged" or stage >= SEARCHIFIED)
        if key[:2] == ("candidates", split) and int(key[2]) <= stage:
            click, purchase = int(key[4]), int(key[6])
            found["samples"] += n
            found["clicks"] += n * (0 < click <= _deepest(stage))
            found["purchases"] += n * (0 < purchase <= _deepest(stage))
    return found


def _deepest(stage: int) -> int:
    """The last label level a composition holds: below `attributed`, labels of the page alone."""
    return 1 if stage < ATTRIBUTED else 127


def _labels(stats: Counter[tuple[str, ...]], domains: Sequence[str], stage: int) -> dict[str, dict[str, int]]:
    """Positive train labels by level and by the domain of their event."""
    found: dict[str, Counter[tuple[int, int]]] = {"click": Counter(), "purchase": Counter()}
    for key, n in stats.items():
        if key[:2] == ("candidates", "train") and int(key[2]) <= stage:
            for kind, at in (("click", 4), ("purchase", 6)):
                if 0 < int(key[at]) <= _deepest(stage):
                    found[kind][int(key[at]), int(key[at + 1])] += n
    return {
        kind: {f"level {level}, {domains[origin]}": n for (level, origin), n in sorted(of.items())}
        for kind, of in found.items()
    }


def _fates_of(stats: Counter[tuple[str, ...]], kind: int, domain: int | None = None) -> dict[str, int]:
    fates = dict.fromkeys(("events", *REASONS), 0)
    for key, n in stats.items():
        if key[:2] == ("fates", str(kind)) and domain in (None, int(key[2])):
            fates[key[3]] += n
            fates["events"] += n
    return fates


def _searchification(stats: Counter[tuple[str, ...]]) -> dict[str, Any]:
    left = {step: sum(n for key, n in stats.items() if key[:2] == ("steps", step)) for step in STEPS}
    report: dict[str, Any] = {"clicks": left["all"], "searchified": left["made"]}
    report |= {reason: left[before] - left[after] for reason, (before, after) in _DROPS.items()}
    report["query_level"] = {}
    for level, name in _SAID.items():
        n = sum(m for key, m in stats.items() if key == ("requests", "train", "searchified", str(level)))
        about = {"requests": n, "share": round(n / max(1, left["made"]), 4)}
        # Right of all that could be told: the query's category is the item's; the level would have said the user's own query.
        for section in ("category", "agreement"):
            yes, no = (stats[section, str(level), says] for says in ("1", "0"))
            if yes + no:
                about |= {f"{section}_known": yes + no, f"{section}_same": round(yes / (yes + no), 4)}
        report["query_level"][name] = about
    if not left["made"]:
        report["note"] = "no click of another domain could become a pseudo request; see the drops"
    return report


def _accuracy(stats: Counter[tuple[str, ...]], domains: Sequence[str], stage: int, task: str) -> dict[str, Any]:
    """Accuracy of labels by level and origin against the oracle.

    `mean_probability` is the oracle's, over the labelled candidates. Where an event's true cause is known (purchases),
    `precision` is the share of labels on the request that caused the event, `recall` the share of the caused events of that
    origin. Nothing causes a click but the interest, so its `precision` compares means: 0 if the labelled are as likely as
    unlabelled candidates of that exposure, 1 if as likely as those the page's own clicks fell on; `recall` is the labelled
    share of all expected clicks of that exposure.
    """
    code = str(KINDS.index(task))
    n: Counter[tuple[int, int, int]] = Counter()
    p: Counter[tuple[int, int, int]] = Counter()
    for key, value in stats.items():
        if key[0] in ("true_n", "true_p") and key[1] == task and int(key[2]) <= _deepest(stage):
            (n if key[0] == "true_n" else p)[int(key[2]), int(key[3]), int(key[4])] += value
    own = _mean(sum(v for k, v in p.items() if k[0] == 1), sum(v for k, v in n.items() if k[0] == 1))
    expected = [stats["pool_p", task, str(shown)] for shown in (0, 1)]
    rest = [
        _mean(
            expected[shown] - sum(v for k, v in p.items() if k[2] == shown),
            stats["pool", str(shown)] - sum(v for k, v in n.items() if k[2] == shown),
        )
        for shown in (0, 1)
    ]
    report: dict[str, Any] = {
        "unlabelled": {name: {"mean_probability": rest[shown]} for shown, name in ((1, "exposed"), (0, "unexposed"))}
    }
    known = any(key[:2] == ("caused", code) for key in stats)
    for level, origin in sorted({k[:2] for k in n}):
        labels = sum(n[level, origin, shown] for shown in (0, 1))
        mean = _mean(sum(p[level, origin, shown] for shown in (0, 1)), labels)
        row: dict[str, Any] = {"labels": labels, "mean_probability": mean}
        if level > 1 and known:
            right, caused = stats["right", code, str(origin), str(level)], stats["caused", code, str(origin)]
            row |= {"right": right, "precision": _share(right, labels), "caused": caused, "recall": _share(right, caused)}
        elif level > 1 and task == "click":
            shown = int(n[level, origin, 1] > 0)
            if None not in (mean, own, rest[shown]) and own != rest[shown]:
                row["precision"] = round((mean - rest[shown]) / (own - rest[shown]), 4)
            row["recall"] = _share(p[level, origin, shown], expected[shown])
        report[f"level {level}, {domains[origin]}"] = row
    return report


def _mean(millionths: int, n: int) -> float | None:
    return round(millionths / MILLIONTHS / n, 6) if n else None


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
