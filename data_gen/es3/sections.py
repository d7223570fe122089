"""The sections of the report page, each from one part of its numbers; what a build has not, a section says or leaves out."""

from collections.abc import Mapping
from typing import Any

from data_gen.es3 import figures
from data_gen.es3.curves import MAX_POSITION
from data_gen.es3.verdicts import FACT, LOOK
from data_gen.page import Page, duration, flatten, number, percent
from data_gen.sql import wilson


def compose(about: Mapping[str, Any], numbers: Mapping[str, Any]) -> Page:
    """Return the page of a samples directory, from its manifest and the numbers of its report."""
    page = Page(f"Samples of composition {about['composition']}")
    counts, measured, build = about["counts"], numbers["measured"], numbers["build"]
    sizes = [
        f"{split.capitalize()}: {counts[f'{split}_requests']:,} requests, {counts[f'{split}_samples']:,} candidates, "
        f"{counts[f'{split}_clicks']:,} click and {counts[f'{split}_purchases']:,} purchase labels."
        for split in ("train", "test")
    ]
    page.text(
        f"Fingerprint {about['fingerprint']}, made from logs {about.get('logs', 'n/a')} with {about.get('engine', 'n/a')}. "
        f"{' '.join(sizes)} Domains: {', '.join(about['domains'])}; the first is the target.",
        kind="facts",
    )
    _verdicts(page, numbers)
    _absences(page, about, numbers)
    _volumes(page, build)
    _labels(page, about, measured, build)
    _searchification(page, build, measured)
    _truth(page, build.get("oracle", {}))
    _places(page, measured)
    _features(page, measured)
    _faults(page, numbers["faults"], build.get("quarantine", {}))
    _rest(page, build)
    page.heading("Configuration")
    rows = [
        (name, f"{value} s ({duration(value)})" if name in _SECONDS and value else str(value))
        for name, value in sorted(about["config"].items())
    ]
    page.table(["setting", "value"], rows, text=(0, 1))
    return page


_SECONDS = ("click_window", "purchase_window", "history_max_age", "label_half_life")
_SHOWN = {
    "volumes", "volume_ratios", "test", "labels", "attribution", "attribution_by_domain", "searchification", "oracle",
    "quarantine",
}  # fmt: skip
"""What other sections show of the build's counts."""


def _verdicts(page: Page, numbers: Mapping[str, Any]) -> None:
    rows = numbers["verdicts"]
    look = sum(row["verdict"] == LOOK for row in rows)
    judged = sum(row["verdict"] != FACT for row in rows)
    page.heading("Checks")
    page.text(f"{judged - look} of {judged} rules hold; {look} to look at. Facts have a number but no rule.")
    page.table(["check", "number", "rule", ""], [list(row.values()) for row in rows], text=(0, 2, 3))


def _absences(page: Page, about: Mapping[str, Any], numbers: Mapping[str, Any]) -> None:
    """Say what these samples have none of, so that a missing section is not taken for a missing check."""
    rows = numbers["measured"]["volumes"]
    train = [row for row in rows if row["split"] == "train"]
    build, said = numbers["build"], []
    if not any(row["purchases"] for row in rows):
        said.append("No candidate has a purchase label.")
    if all(row["samples"] == row["exposed"] for row in train):
        said.append("Train has no unexposed candidate: the logs hold none, or the composition leaves them out.")
    if not any(row["clicks_from_elsewhere"] + row["purchases_from_elsewhere"] for row in rows):
        said.append("No label comes from elsewhere: the composition leaves them out, or no event found a target.")
    if not any(row["made"] == "searchified" for row in rows):
        note = build.get("searchification", {}).get("note")
        said.append(f"No pseudo request: {note}." if note else "No pseudo request: the composition leaves them out.")
    if not build.get("oracle"):
        said.append("No true probabilities: nothing here says how right the labels are.")
    if "logs" not in numbers["faults"]:
        said.append("The logs were not given: labels and features were checked among themselves, not looked up.")
    if said:
        page.heading("What is not here")
        page.text(*said)


def _volumes(page: Page, build: Mapping[str, Any]) -> None:
    if not (volumes := build.get("volumes")):
        return
    page.heading("Volumes by stage")
    kinds = ("requests", "samples", "clicks", "purchases")
    ratios = build.get("volume_ratios", {})
    rows = []
    for name, row in volumes.items():
        paper = "/".join(str(figures.PAPER[kind][name]) for kind in ("requests", "samples", "clicks"))
        ours = "/".join("n/a" if (r := ratios.get(name, {}).get(kind)) is None else f"{r:.2f}" for kind in kinds[:3])
        rows.append([name, *(row.get(kind) for kind in kinds), ours, paper])
    page.table(["stage, cumulative", *kinds, "relative", "the paper's"], rows)
    if len(ratios) > 1 and any(any(row.values()) for row in ratios.values()):
        page.figure(
            figures.volumes(ratios),
            "Train volumes relative to the exposed stage (bars), and those reported for UniScale (strokes), which is another "
            "shop: for comparison, not to be reached. Clicks and purchases are candidates with a label.",
        )


def _labels(page: Page, about: Mapping[str, Any], measured: Mapping[str, Any], build: Mapping[str, Any]) -> None:
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
    of = {(kind, "all domains"): row for kind, row in fates.items()}
    for kind, rows in build.get("attribution_by_domain", {}).items():
        of |= {(kind, domain): row for domain, row in rows.items() if row["events"]}
    names = list(dict.fromkeys(name for row in of.values() for name in row))
    table = [[*key, *(row.get(name, 0) for name in names)] for key, row in of.items()]
    page.table(["kind", "event in", *(name.replace("_", " ") for name in names)], table, text=(0, 1))


def _searchification(page: Page, build: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
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


def _truth(page: Page, oracle: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    known = {kind: rows for kind, rows in oracle.items() if any(name != "unlabelled" for name in rows)}
    if not known:
        return
    page.heading("Labels against the truth")
    page.text(
        "This shop's true probabilities are known. Where the cause of an event is known as well (purchases of newer shops), "
        "precision is the share of labels on the request that caused it, with its 95% interval, and recall the share of caused "
        "events of that domain that reached it. A click elsewhere has no cause but interest: its precision says where the "
        "labelled candidates lie between unlabelled ones (0) and those the page's own clicks fell on (1), and its recall is "
        "the labelled share of all expected clicks of that exposure. Labels of the page itself (level 1) need no judging."
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


def _places(page: Page, measured: Mapping[str, Any]) -> None:
    page.heading("Position and pre-rank")
    late = [row["position"] == MAX_POSITION for row in measured["positions"]]
    if measured["positions"]:
        page.figure(
            figures.positions(measured["positions"]),
            "Click rate of exposed candidates of logged requests by shown slot, 95% Wilson intervals."
            + (f" Slot {MAX_POSITION} stands for all from there on." if any(late) else ""),
        )
    if (fig := figures.ranks(measured["ranks"])) is not None:
        page.figure(
            fig,
            "Rate of labels on logged requests by pre-rank. Each candidate counts 1 / probability, 95% intervals by the "
            "effective number. Test has only labels of the page, so none on unexposed candidates.",
        )


def _features(page: Page, measured: Mapping[str, Any]) -> None:
    page.heading("Lists, histories and draws")
    page.figure(figures.draws(measured["list_lengths"], measured["probabilities"]), "Candidates a request, and draws.")
    page.figure(
        figures.histories(measured["history_lengths"], measured["history_ages"]),
        "Events in a request's history, and how old they are at the request, by the domain they happened in.",
    )
    if (fig := figures.prices(measured["prices"])) is not None:
        page.figure(fig, "Price of train candidates.")
    unknown, total = (sum(r["n"] for r in measured["prices"] if every or r["bin"] is None) for every in (False, True))
    stated = sum(r["with_propensity"] for r in measured["probabilities"])
    page.text(
        f"Price unknown: {percent(unknown / max(1, total))} of {total:,} candidates. Logging propensity stated: "
        f"{percent(stated / max(1, total))}."
    )
    rows = [
        [r["split"], r["domain"], r["made"], _LEVELS.get(r["level"], str(r["level"])), r["n"]] for r in measured["query_levels"]
    ]
    page.table(["split", "domain", "request", "query", "requests"], rows, text=(0, 1, 2, 3))


QUERY_LEVELS = ("own past query", "co-occurring query", "nearest query")
"""What the levels of the query fallback are called in the build's counts, from level 1 on."""
_LEVELS = {-1: "none", 0: "the user's words", **dict(enumerate(QUERY_LEVELS, start=1))}


def _faults(page: Page, faults: Mapping[str, Any], quarantine: Mapping[str, int]) -> None:
    page.heading("Faults, one by one")
    page.text("Counts over train and test; all but the last group should be 0.")
    groups = {
        "repeats": faults["repeats"],
        "conflicts": faults["conflicts"],
        "leaks": faults["requests"] | faults["leaks"],
        "features": {n: v for n, v in faults["features"].items() if "disagree" in n or "missing" in n},
        "set aside": quarantine,
    }
    rows = [[group, name.replace("_", " "), n] for group, counts in groups.items() for name, n in counts.items()]
    page.table(["group", "what", "count"], rows, text=(0, 1))
    features = faults["features"]
    page.text(
        f"Touches were held against the histories of {features['candidates']:,} candidates; {features['in the history']:,} "
        "are in the history of their request.",
        kind="facts",
    )


def _rest(page: Page, build: Mapping[str, Any]) -> None:
    """Show whatever else the build counted, by its own names."""
    rows = list(flatten({name: value for name, value in build.items() if name not in _SHOWN}))
    if rows:
        page.heading("Other counts of the build")
        page.table(["what", "value"], rows, text=(0,))
