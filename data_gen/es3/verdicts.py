"""The table at the top of the report: each check with its number, its rule, and whether the rule holds."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from data_gen.es3.figures import PAPER
from data_gen.es3.sql import wilson
from unisc.report.numbers import percent

HOLDS, LOOK, FACT = "holds", "look", "fact"
QUARANTINE, NEAREST, PRECISION, MIN_LABELS = 0.01, 0.5, 0.5, 30
"""Where "look" begins: share of rows set aside, share of queries found by text alone, precision of a level of at least
`MIN_LABELS` labels. Conventions, chosen to draw the eye, not thresholds of the paper."""

_PER_KIND = {"click": "clicks", "purchase": "purchases"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One check; `verdict` is "holds", "look", or "fact" where there is a number but no rule."""

    check: str
    number: str
    rule: str
    verdict: str


def judge(about: Mapping[str, Any], measured: Mapping[str, Any], faults: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the checks of a samples directory, as dicts of Verdict's fields.

    `about` is the manifest, `measured` from `curves.measure`, `faults` from `faults.measure`, with its key `logs` from
    `faults.measure_against` if the logs were given.
    """
    quality = about.get("quality", {})
    found = [*_conservation(quality), *_agreement(about, measured), *_faults(faults)]
    found += [*_against(faults.get("logs"), quality), *_quarantine(faults.get("logs"), quality), *_expansions(quality)]
    found += [*_accuracy(quality.get("oracle", {})), *_overlap(measured["overlap"])]
    return [asdict(v) for v in found]


def _zero(check: str, count: int, n: int | None = None, rule: str = "none") -> Verdict:
    of = f" of {n:,}" if n is not None else ""
    return Verdict(check=check, number=f"{count:,}{of}", rule=rule, verdict=LOOK if count else HOLDS)


def _equal(check: str, left: int, right: int, rule: str) -> Verdict:
    return Verdict(check=check, number=f"{left:,} and {right:,}", rule=rule, verdict=HOLDS if left == right else LOOK)


def _fact(check: str, number: str, rule: str = "no rule") -> Verdict:
    return Verdict(check=check, number=number, rule=rule, verdict=FACT)


def _conservation(quality: Mapping[str, Any]) -> Iterator[Verdict]:
    for kind, fates in quality.get("attribution", {}).items():
        ends = sum(n for fate, n in fates.items() if fate != "events")
        yield _equal(f"{kind} events from elsewhere, and their fates", fates["events"], ends, "every event has one fate")
    if pseudo := quality.get("searchification"):
        ends = sum(n for fate, n in pseudo.items() if fate != "clicks" and isinstance(n, int))
        yield _equal("clicks of other domains, and their fates", pseudo["clicks"], ends, "every click has one fate")


def _agreement(about: Mapping[str, Any], measured: Mapping[str, Any]) -> Iterator[Verdict]:
    pairs = {}
    for split in ("train", "test"):
        pairs[f"{split}_requests"] = sum(row["n"] for row in measured["query_levels"] if row["split"] == split)
        for name in ("samples", "clicks", "purchases"):
            pairs[f"{split}_{name}"] = sum(row[name] for row in measured["volumes"] if row["split"] == split)
    other = [f"{name} {n:,}, not {about['counts'][name]:,}" for name, n in pairs.items() if n != about["counts"][name]]
    yield Verdict(
        check="requests, samples, clicks, purchases of train and test in the files, as the build counted them",
        number="; ".join(other) or f"{len(pairs)} of {len(pairs)} equal",
        rule="all equal",
        verdict=LOOK if other else HOLDS,
    )
    for kind, fates in about.get("quality", {}).get("attribution", {}).items():
        made = sum(r[f"{_PER_KIND[kind]}_from_elsewhere"] for r in measured["volumes"] if r["made"] == "logged")
        rule = "one label for each event attributed"
        yield _equal(f"{kind} labels from elsewhere in the files, events attributed", made, fates["attributed"], rule)


def _faults(faults: Mapping[str, Any]) -> Iterator[Verdict]:
    n, repeats = faults["features"]["candidates"], faults["repeats"]
    yield _zero("request ids met twice, train and test together", repeats["request_ids"])
    yield _zero("items met twice in one request", repeats["items"], n)
    yield _zero("requests with lists of unequal length, or empty", repeats["lists_of_unequal_length"] + repeats["empty_lists"])
    yield _zero("labels, levels, times, origins or exposure that contradict each other", sum(faults["conflicts"].values()), n)
    future = faults["requests"] | faults["leaks"]
    yield _zero("leaks: requests, labels or features on the wrong side of a time", sum(future.values()), n)
    apart = sum(count for name, count in faults["features"].items() if "disagree" in name or "missing" in name)
    yield _zero("touches that the history contradicts", apart, n)


def _against(logs: Mapping[str, Any] | None, quality: Mapping[str, Any]) -> Iterator[Verdict]:
    if not logs:
        return
    note = ", but for events set aside" if quality.get("quarantine") else ""
    yield _zero("labels without their event in the logs", logs["labels"]["missing"], logs["labels"]["labels"])
    touches = logs["touches"]
    check = "touches counted anew from the logs that differ"
    yield _zero(check, touches["different"], touches["candidates"], f"none in a sample of users{note}")


def _quarantine(logs: Mapping[str, Any] | None, quality: Mapping[str, Any]) -> Iterator[Verdict]:
    aside = quality.get("quarantine", {})
    total = sum(aside.values())
    if logs and aside:
        tables: dict[str, int] = {}
        for reason, n in aside.items():
            table = reason.split(":")[0]
            tables[table] = tables.get(table, 0) + n
        shares = {table: n / max(1, logs["rows"].get(table, 0)) for table, n in tables.items()}
        table, share = max(shares.items(), key=lambda pair: pair[1])
        verdict = LOOK if share > QUARANTINE else HOLDS
        number = f"{total:,}; most in {table}, {percent(share)}"
        yield Verdict(check="rows set aside", number=number, rule=f"at most {QUARANTINE:.0%} of any table", verdict=verdict)
    else:
        yield _zero("rows set aside", total, rule="none, else read the reasons below")


def _expansions(quality: Mapping[str, Any]) -> Iterator[Verdict]:
    ratios = quality.get("volume_ratios", {})
    for kind, paper in PAPER.items():
        ours = "/".join("n/a" if (r := row.get(kind)) is None else f"{r:.2f}" for row in ratios.values())
        if ours:
            yield _fact(
                f"{kind} by stage, relative to exposed", ours, f"the paper's {'/'.join(str(n) for n in paper.values())}"
            )
    levels = quality.get("searchification", {}).get("query_level", {})
    total = sum(row["requests"] for row in levels.values())
    if total and "nearest query" in levels:
        n = levels["nearest query"]["requests"]
        low, high = wilson(n, total)
        yield Verdict(
            check="pseudo requests whose query is only the nearest by text",
            number=f"{percent(n / total)} [{percent(low)}, {percent(high)}] of {total:,}",
            rule=f"at most {NEAREST:.0%}; the other levels rest on behaviour",
            verdict=LOOK if n / total > NEAREST else HOLDS,
        )
    if (recall := quality.get("nearest", {}).get("recall_at_1")) is not None:
        method = quality["nearest"].get("method", "")
        number = f"{percent(recall)} ({method})" if method else percent(recall)
        yield _fact("nearest queries found that an exact search finds", number)


def _accuracy(oracle: Mapping[str, Mapping[str, Any]]) -> Iterator[Verdict]:
    for kind, rows in oracle.items():
        judged = {n: r for n, r in rows.items() if r.get("precision") is not None and r.get("labels", 0) >= MIN_LABELS}
        if not judged:
            continue
        name, row = min(judged.items(), key=lambda pair: pair[1]["precision"])
        number = f"{row['precision']:.2f} at {name} (n = {row['labels']:,})"
        if "right" in row:
            low, high = wilson(row["right"], row["labels"])
            number = f"{row['precision']:.2f} [{low:.2f}, {high:.2f}] at {name} (n = {row['labels']:,})"
        rule = f"at least {PRECISION} at every level with {MIN_LABELS} labels"
        verdict = HOLDS if row["precision"] >= PRECISION else LOOK
        yield Verdict(check=f"lowest precision of {kind} labels from elsewhere", number=number, rule=rule, verdict=verdict)


def _overlap(overlap: Mapping[str, int]) -> Iterator[Verdict]:
    for name in ("users", "items"):
        n, shared = overlap[f"test_{name}"], overlap[f"shared_{name}"]
        yield _fact(f"test {name} that train holds too", f"{percent(shared / n) if n else 'n/a'} of {n:,}")
