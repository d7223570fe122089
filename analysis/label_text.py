"""The section on label quality: its sentences and tables, made from the numbers of `analysis.label_quality`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.prose import interval, number, sample
from unisc.report.page import Page

FAMILIES = {"wrong": "Wrong labels", "window": "Attribution windows", "relevance": "The relevance rule"}
_GAINED = {"wrong": "", "window": " gained this way", "relevance": " gained this way"}


def write(page: Page, summary: Mapping[str, Any], figure: Path) -> None:
    """Add the section: what a point of precision is worth, the figure, and every sample set."""
    page.heading("What a right label is worth")
    page.answer(worth_sentence(summary, family) for family in FAMILIES if _has(summary, family))
    metrics = summary["metrics"]
    page.figure(
        figure,
        f"Oracle-expected metrics against the precision of attributed click labels, {summary['num_params_dense']:,.0f} dense "
        f"parameters; small points are {summary['num_seeds']} seeds, bars {summary['level']:.0%} intervals of the precision, "
        "lines the fits, a dotted parabola beside a line that does not fit. Level lines, dashed: the clean set's data law at a "
        "share of its samples; dotted: the same requests without attributed labels.",
    )
    page.items(
        worth_sentence(summary, family, key) for key in list(metrics)[1:] for family in FAMILIES if _has(summary, family, key)
    )
    page.text(
        "A label's precision is 0 for a random candidate that the page got no click for, and 1 for one as likely to be clicked "
        "as the page's own clicks; recall is the labelled share of all expected clicks. Of purchases both go by the request "
        f"that led to them. Brackets are {summary['level']:.0%} intervals: of labels a jackknife over users, of metrics the "
        "error of training seeds, pooled over all sets, with seeds as blocks. They cover neither another shop, another test "
        "day, nor another draw of the labels that move. Samples are by the clean set's data law, around all of its samples.",
        kind="note",
    )
    _labels(page, summary)
    for key in metrics:
        _changes(page, summary, key)


def _has(summary: Mapping[str, Any], family: str, key: str | None = None) -> bool:
    metrics = summary["metrics"]
    return family in metrics[key or next(iter(metrics))]["families"]


def worth_sentence(summary: Mapping[str, Any], family: str, key: str | None = None) -> str:
    """Say what one point of label precision is worth in a metric, and in samples where a data law was fitted."""
    metric = summary["metrics"][key or next(iter(summary["metrics"]))]
    entry, where = metric["families"][family], metric["name"].split(", ", 1)[-1]
    worth, samples, unit = entry["worth"], entry.get("samples"), entry["worth"]["unit"]
    amount = f"{interval(worth, 2, True)} {unit}"
    if samples is not None:
        amount += f" and {interval(samples, 2, True)} % of samples"
    span = f"{number(entry['precision_from'], 2)} to {number(entry['precision_to'], 2)} points"
    basis = f"line through {entry['num_sets']} sets, precision {span}; {sample(worth)}"
    point = f"one point of precision{_GAINED[family]}"
    if worth["low"] is None:
        text = f"{FAMILIES[family]}: {point}, {amount} over {where}, has no interval with one seed ({basis})"
    elif worth["verdict"] == "unresolved":
        text = f"{FAMILIES[family]}: not resolved over {where}; {point} is worth {amount} ({basis})"
    else:
        text = f"{FAMILIES[family]}: over {where} {point} is worth {amount} ({basis})"
        if worth["verdict"] == "resolved negative":
            text += "; the more precise labels came with the worse model"
    if entry["line_rejected"]:
        text += f"; no line fits (p = {number(entry['lack_of_fit'], 2)}), so this is a mean over the span"
    if "at_clean" in entry:
        at = entry["at_clean"]
        sure = ", not resolved" if at["verdict"].startswith("unresolved") else ""
        text += f", and at the clean set a parabola gives {interval(at, 2, True)} {unit}{sure}"
    return f"{text}; {_alone(summary, family)}." if key is None else f"{text}."


def _alone(summary: Mapping[str, Any], family: str) -> str:
    """Say what else a family moves with precision."""
    sets = summary["degradations"].values()
    counts = sorted(one["click"]["labels"] for one in sets if one["family"] in (family, "clean") and "click" in one)
    if family == "wrong":
        return f"wrong labels move precision alone, their number being {counts[0]:,} throughout"
    return f"the number of labels moves with it, {counts[0]:,} to {counts[-1]:,}, so this is the worth of both together"


def _labels(page: Page, summary: Mapping[str, Any]) -> None:
    rows = []
    for one in summary["degradations"].values():
        if "click" not in one:
            rows.append([one["title"], "0", "", "", "0", "", ""])
            continue
        cells = [one["title"]]
        for kind in ("click", "purchase"):
            cells += [f"{one[kind]['labels']:,}", *(interval(one[kind][name], 3) for name in ("precision", "recall"))]
        rows.append(cells)
    page.text("Attributed labels of each sample set, by the shop's truth:")
    header = ["sample set", "clicks", "precision", "recall", "purchases", "precision", "recall"]
    page.table(header, rows, text=(0, 2, 3, 5, 6))


def _changes(page: Page, summary: Mapping[str, Any], key: str) -> None:
    """Show what every set changes, beside what its precision alone would by the slope of the wrong labels."""
    metric = summary["metrics"][key]
    wrong = metric["families"].get("wrong")
    sets, changes = summary["degradations"], metric["changes"]
    clean = sets["clean"].get("click", {}).get("precision", {}).get("value")
    sign = -1 if metric["unit"] == "log loss" else 1
    rows = []
    for name, change in changes.items():
        of = sets[name].get("click", {}).get("precision", {}).get("value")
        alone = ""
        if wrong is not None and of is not None and clean is not None:
            alone = number(sign * wrong["worth"]["value"] * 100 * (of - clean), 2, True)
        row = [sets[name]["title"], interval(change, 2, True), change["verdict"], alone]
        if metric["data_law"] is not None:
            ratio = change.get("equivalent")
            row.append("" if ratio is None else interval(ratio, 2))
        rows.append(row)
    header = ["sample set", "change", "verdict", "by precision alone"]
    header += ["worth of clean samples, ×"] if metric["data_law"] is not None else []
    page.text(f"Change of {metric['name']}, in {metric['unit']}, against labels as intended ({number(metric['clean'], 4)}):")
    page.table(header, rows, text=range(len(header)))
    law = metric["data_law"]
    fitted = "" if law is None else (
        f"Data law of the clean set: {law['num_runs']} runs at {law['num_sizes']} data sizes, E = "
        f"{number(law['parameters']['E'], 3)}, alpha = {number(law['parameters']['alpha'], 3)}. "
    )  # fmt: skip
    seeds = summary["num_seeds"]
    page.text(
        f"{fitted}{seeds} seed{'s' if seeds != 1 else ''} a set, {summary['level']:.0%} intervals; by precision alone: the "
        "mean slope of the wrong labels times the set's change of precision.",
        kind="note",
    )
