"""What a build did, in numbers: volumes by stage, fates of events, rows set aside, and the checks that stop a build."""

from typing import Any

import ibis.expr.types as ir

from data_gen.es3.compose import ATTRIBUTED, SEARCHIFIED, Material, view
from data_gen.es3.session import Session
from data_gen.es3.tables import Logs
from unisc.data.schema import COMPOSITIONS


def measure(session, logs, shared, material, stage):
    import json

    import pyarrow as pa

    return pa.table({"x": [json.dumps(_measure(session, logs, material, s)) for s in range(stage + 1)]})


def merge(tables):
    return tables[0]


def summarise(stats, *, header, config, quarantine, shared):
    import json
    from collections import Counter

    r = json.loads(stats["x"][config.stage].as_py())
    r["quarantine"] = dict(
        sorted(Counter(f"{a}: {b}" for a, b in zip(quarantine["table"].to_pylist(), quarantine["reason"].to_pylist())).items())
    )
    r["counts"]["quarantined"] = len(quarantine)
    return r


def _measure(session: Session, logs: Logs, material: Material, stage: int) -> dict[str, Any]:
    """Return `counts` (flat) and the quality sections of the manifest, for a composition and all before it."""
    volumes = {COMPOSITIONS[s]: _volumes(session, view(material, s)[1]) for s in range(stage + 1)}
    first = volumes[COMPOSITIONS[0]]
    test = _volumes(session, material.test_candidates)
    report: dict[str, Any] = {
        "volumes": volumes,
        "volume_ratios": {
            name: {key: round(n / first[key], 4) if first[key] else None for key, n in row.items()}
            for name, row in volumes.items()
        },
        "test": test,
        "labels": _labels(session, logs, view(material, stage)[1]),
    }
    if stage >= ATTRIBUTED:
        report["attribution"] = material.attribution
    if stage >= SEARCHIFIED:
        report["searchification"] = {**material.searchification, "query_level": _query_levels(session, material)}
        if not material.searchification["searchified"]:
            report["searchification"]["note"] = "no click of another domain could become a pseudo request; see the drops"
    train = volumes[COMPOSITIONS[stage]]
    report["counts"] = {
        **{f"train_{key}": n for key, n in train.items()},
        **{f"test_{key}": n for key, n in test.items()},
    }
    return report


def _volumes(session: Session, candidates: ir.Table) -> dict[str, int]:
    row = session.first(
        candidates.aggregate(
            requests=candidates.request_id.nunique(),
            samples=candidates.count(),
            clicks=(candidates.click_level > 0).sum(),
            purchases=(candidates.purchase_level > 0).sum(),
        )
    )
    return {key: int(n or 0) for key, n in row.items()}


def _labels(session: Session, logs: Logs, candidates: ir.Table) -> dict[str, dict[str, int]]:
    """Positive train labels by level and by the domain of their event."""
    found: dict[str, dict[str, int]] = {}
    for kind in ("click", "purchase"):
        labels = candidates.select(level=candidates[f"{kind}_level"], origin=candidates[f"{kind}_origin"])
        labels = labels.group_by("level", "origin").aggregate(n=labels.count())
        rows = session.fetch(labels.filter(labels.level > 0).order_by("level", "origin")).to_pylist()
        found[kind] = {f"level {r['level']}, {logs.domains[r['origin']]}": r["n"] for r in rows}
    return found


def _query_levels(session: Session, material: Material) -> dict[str, dict[str, float]]:
    pseudo = material.requests.filter(material.requests.origin == "searchified")
    rows = session.fetch(pseudo.group_by("query_level").aggregate(n=pseudo.count())).to_pylist()
    counts = {r["query_level"]: r["n"] for r in rows}
    total = max(1, sum(counts.values()))
    names = {1: "own past query", 2: "co-occurring query", 3: "nearest query"}
    return {
        name: {"requests": counts.get(level, 0), "share": round(counts.get(level, 0) / total, 4)}
        for level, name in names.items()
    }
