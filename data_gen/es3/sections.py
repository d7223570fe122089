"""The sections of the report page, each from one part of its numbers; what a build has not, a section says or leaves out."""

from collections.abc import Mapping
from typing import Any

from data_gen.es3 import figures
from data_gen.es3.curves import MAX_POSITION
from data_gen.es3.label_sections import QUERY_LEVELS, labels, searchification, truth
from data_gen.es3.verdicts import FACT, LOOK
from unisc.report.numbers import duration, flatten, percent
from unisc.report.page import Page


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
    labels(page, about, measured, build)
    searchification(page, build, measured)
    truth(page, build.get("oracle", {}))
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
