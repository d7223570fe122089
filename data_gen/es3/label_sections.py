"""The sections on labels: where they come from, fates of events, queries of pseudo requests, and labels against the truth."""

from collections.abc import Mapping
from typing import Any

from data_gen.es3 import figures
from data_gen.es3.sql import wilson
from unisc.report.numbers import duration, number, percent
from unisc.report.page import Page

QUERY_LEVELS = ("own past query", "co-occurring query", "nearest query")
"""What the levels of the query fallback are called in the build's counts, from level 1 on."""


def labels(page: Page, about: Mapping[str, Any], measured: Mapping[str, Any], build: Mapping[str, Any]) -> None:
    """Show train labels by level and origin with their lags, the fates of outside events, and confidence weights."""
    page.heading("Labels and where they come from")
    rows = []
    for row in (r for r in measured["lags"] if r["n"]):
        near = wilson(row["within_1h"] * row["n"], row["n"])
        share = f"{percent(row['within_1h'])} [{percent(near[0])}, {percent(near[1])}]"
        rows.append(
            [row["made"], row["kind"], row["level"], row["origin"], row["n"], duration(row["median"]), share,
             percent(row["within_24h"]), duration(row["longest"])]
        )  # fmt: skip
    header = ["request", "kind", "level", "event in", "labels", "median lag", "within 1 h", "within 24 h", "longest"]
    page.text(
        "Train labels. Level 1: on the request's own page. From level 2 on: written onto it for an event elsewhere, in the "
        "order of preference of the attribution rule. The lag runs from the request to the event."
    )
    page.table(header, rows, text=(0, 1, 3))
    windows = {kind: about["config"][f"{kind}_window"] for kind in ("click", "purchase")}
    elsewhere = [row for row in measured["lags"] if row["made"] == "logged" and row["level"] > 1]
    if (fig := figures.lags(elsewhere, windows)) is not None:
        page.figure(fig, "Lag of labels from elsewhere on logged requests: share within a time. The stroke is the window.")
    _fates(page, build)
    weighted = [row for row in measured["weights"] if row["least"] is not None and row["least"] < 1]
    if weighted:
        page.text("Confidence weights of labels:")
        header = ["kind", "level", "labels", "of full weight", "mean weight", "least"]
        page.table(header, [[row[name] for name in ("kind", "level", "n", "full", "mean", "least")] for row in weighted])


def _fates(page: Page, build: Mapping[str, Any]) -> None:
    if not (fates := build.get("attribution")):
        return
    if ended := {kind: {f: n for f, n in row.items() if f != "events"} for kind, row in fates.items() if row["events"]}:
        caption = "What became of clicks and purchases that happened elsewhere: the first reason that fits."
        page.figure(figures.fates(ended), caption)
    of = {(kind, "all"): row for kind, row in fates.items()}
    for kind, rows in build.get("attribution_by_domain", {}).items():
        of |= {(kind, domain): row for domain, row in rows.items() if row["events"]}
    names = list(dict.fromkeys(name for row in of.values() for name in row))
    table = [[*key, *(row.get(name, 0) for name in names)] for key, row in of.items()]
    page.table(["kind", "event in", *(name.replace("_", " ") for name in names)], table, text=(0, 1))


def searchification(page: Page, build: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
    """Show the fates of other domains' clicks and the queries given to those that became pseudo requests."""
    if not (about := build.get("searchification")):
        return
    page.heading("Searchification")
    levels = about.get("query_level", {})
    if about.get("clicks"):
        ends = {name: n for name, n in about.items() if name != "clicks" and isinstance(n, int)}
        page.figure(figures.fates({"clicks": ends}), "What became of clicks in other domains: the first reason that fits.")
    if not sum(row["requests"] for row in levels.values()):
        note = about.get("note", "No pseudo request was made")
        page.text(f"{note[:1].upper()}{note[1:]}.")
        return
    total = sum(row["requests"] for row in levels.values())
    rows = []
    for name, row in levels.items():
        low, high = wilson(row["requests"], total)
        cells = [name, row["requests"], f"{percent(row['requests'] / total)} [{percent(low)}, {percent(high)}]"]
        for section in ("category", "agreement"):
            n = row.get(f"{section}_known")
            cells.append(f"{percent(row[f'{section}_same'])} of {n:,}" if n else "n/a")
        rows.append(cells)
    page.text(
        "Each level serves where those above it found nothing. Same category: of queries and items that name one. Same as the "
        "user's own: where a past query of the user is known, how often this level alone would have found it."
    )
    page.table(["query by", "pseudo requests", "share, 95% interval", "same category", "same as the user's own"], rows)
    by_domain: dict[str, dict[int, int]] = {}
    for row in (r for r in measured["query_levels"] if r["made"] == "searchified"):
        by_domain.setdefault(row["domain"], {})[row["level"]] = row["n"]
    page.table(
        ["domain", *QUERY_LEVELS],
        [[name, *(of.get(level, 0) for level in range(1, len(QUERY_LEVELS) + 1))] for name, of in by_domain.items()],
    )


def truth(page: Page, oracle: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Show precision and recall by level and origin, where the logs came with true probabilities."""
    known = {kind: rows for kind, rows in oracle.items() if any(name != "unlabelled" for name in rows)}
    if not known:
        return
    page.heading("Labels against the truth")
    page.text(
        "This shop's true probabilities are known. Where the logs tell an event's cause as well (of purchases), "
        "precision is the share of labels on the request that caused it, with its 95% interval, and recall the share of caused "
        "events of that domain that reached it. A click elsewhere has no cause but interest: its precision says where the "
        "labelled candidates lie between unlabelled ones (0) and those the page's own clicks fell on (1), and its recall is "
        "the labelled share of all expected clicks of that exposure. Labels of the page itself (level 1) need no judging. In "
        "the synthetic shop a purchase is always led to by a click, so a label on an unclicked candidate tells of interest and "
        "never of the cause: its precision is 0 there."
    )
    rows = []
    for kind, by_level in known.items():
        for name, row in by_level.items():
            if name == "unlabelled":
                rows += [[kind, f"unlabelled, {k}", "", number(v.get("mean_probability")), "", ""] for k, v in row.items()]
                continue
            precision, recall = ("" if row.get(name) is None else number(row[name]) for name in ("precision", "recall"))
            if "right" in row and row["labels"]:
                low, high = wilson(row["right"], row["labels"])
                precision += f" [{low:.2f}, {high:.2f}]"
            cells = [number(row.get("mean_probability")), precision, recall]
            rows.append([kind, name, f"{row.get('labels', 0):,}", *cells])
    page.table(["kind", "label", "labels", "mean true probability", "precision", "recall"], rows, text=(0, 1))
    page.figure(
        figures.truth(known), "Mean true probability of labelled candidates, labels in brackets, beside unlabelled ones."
    )
