"""Lay out the report: which sections there are, in what order, and what each says when its part is missing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from analysis import prose, real_logs
from analysis.study import NUMBERS, TEXT, StudyResult
from unisc.report.numbers import short
from unisc.report.page import Page

_LEVEL_NOTE = (
    "Intervals over runs pool the error of training seeds over all cells, with seeds as blocks; they do not cover another "
    "world or another test day. Laws are bootstrapped by (size, data) cell, whose seeds share the law's lack of fit."
)


def write(study: StudyResult, summary: Mapping[str, Any], figures: Mapping[str, Path]) -> Page:
    """Return the page of a study from its summary and the paths of its SVG figures."""
    on_real = summary["real"] is not None
    page = Page("UniScale on real request logs" if on_real else "Does data scale with the model? The UniScale study")
    page.text(_facts(summary), kind="facts")
    if on_real:
        page.answer([prose.real_sentence(summary["real"])])
        _real(page, summary["real"])
    if not on_real or "reason" not in summary["synergy"]:
        page.answer(prose.headline(summary))
        page.text(_LEVEL_NOTE, kind="note")
    _gain(page, summary, figures)
    _full_lists(page, summary)
    _loss(page, summary, figures)
    _held_out(page, summary, figures)
    _ablation(page, summary, figures)
    if summary.get("real_ablation"):
        real_logs.write(page, summary["real_ablation"], figures)
    _volumes(page, summary, figures)
    _runs(page, study)
    return page


def _facts(summary: Mapping[str, Any]) -> str:
    parts = [
        f"Preset {summary['preset']}" if summary["preset"] else "",
        f"source {summary['source']}" if summary["source"] else "",
    ]
    seeds, sizes = summary["num_seeds"], summary["num_sizes"]
    parts.append(f"{summary['num_runs']} runs, {sizes} model sizes, {seeds} seed{'s' if seeds != 1 else ''}")
    if summary["wall_seconds"]:
        stages = ", ".join(
            f"{name} {_time(value)}" for name, value in summary["stages"].items() if isinstance(value, int | float)
        )
        parts.append(f"{_time(summary['wall_seconds'])} in all" + (f" ({stages})" if stages else ""))
    machine = summary["machine"]
    if machine:
        parts.append(", ".join(f"{k} {v}" for k, v in machine.items()) if isinstance(machine, Mapping) else str(machine))
    if summary["versions"]:
        parts.append(", ".join(f"{name} {version}" for name, version in summary["versions"].items()))
    return "; ".join(part for part in parts if part) + "."


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.3g} s"


def _gain(page: Page, summary: Mapping[str, Any], figures: Mapping[str, Path]) -> None:
    page.heading("Gain against parameters")
    if "gain" not in figures:
        page.text(f"Not drawn: {summary['gain'].get('reason', 'no gain was measured')}.")
        return
    joint = summary["synergy"]
    if "reason" not in joint:
        page.items(_composition_gain(name, one) for name, one in joint["by_metric"][joint["metric"]].items())
    page.figure(
        figures["gain"],
        f"Gain of {summary['metrics']['gain']} on the shown test lists over the smallest model on exposed data, at full data; "
        f"small points are seeds, bars {summary['level']:.0%} intervals. Right: the paper's Figure 4, whose 1x is about 75 M "
        "parameters.",
    )


def _composition_gain(name: str, one: Mapping[str, Any]) -> str:
    large, small = (prose.interval(one[key], 3, True) for key in ("joint_over_model", "data"))
    together = f"synergy {prose.interval(one['synergy'], 3, True)} AUC-ROC points, {one['synergy']['verdict']}"
    return (
        f"{name}: over {one['base']} data at the largest model {large}, at the smallest {small}; "
        f"{together} ({prose.sample(one['synergy'])})."
    )


_FULL_NAMES = {
    "oracle_clicks": "true clicks in the top five, as a share of the best possible five",
    "hr": "requests whose clicked item is in the top five",
}


def _full_lists(page: Page, summary: Mapping[str, Any]) -> None:
    """Say what a composition is worth where it aims: on all candidates, not on the shown ones alone."""
    section = summary["full_lists"]
    if "reason" in section:
        return
    page.heading("Ranking all candidates")
    page.text("Gain over exposed data when the whole candidate list is ranked, no position given, at full data.", kind="note")
    for name, table in section["by_metric"].items():
        page.text(f"In percentage points of {_FULL_NAMES[name]}:")
        sizes = [short(row["num_params_dense"]) for row in next(iter(table.values()))]
        rows = [[composition, *(prose.interval(row, 2, True) for row in one)] for composition, one in table.items()]
        page.table(["composition", *sizes], rows, text=range(1 + len(sizes)))
    one = next(iter(next(iter(section["by_metric"].values())).values()))[0]
    page.text(f"Brackets are {summary['level']:.0%} intervals ({prose.sample(one)}).", kind="note")


def _loss(page: Page, summary: Mapping[str, Any], figures: Mapping[str, Path]) -> None:
    page.heading("Laws of loss")
    fits = {name: entry for name, entry in summary["fit"].items() if "reason" not in entry}
    kind, metric = summary["oracle"]["kind"], summary["metrics"]["loss"]
    for name, entry in summary["fit"].items():
        if "reason" in entry:
            page.text(f"{name}: no law, {entry['reason']}.")
    if not fits:
        return
    page.text(
        f"Fitted to {metric}, sum of Huber ({next(iter(fits.values()))['contract']['huber_delta']:g}) of log residuals: "
        "L = E + A / parameters^alpha + B / examples^beta."
    )
    if kind == "lower bound":
        page.text(
            "In this world tastes drift and users tire, which no model input shows in full: the oracle's loss is a lower "
            "bound, not the floor a model could reach."
        )
    names = ("E", "A", "B", "alpha", "beta")
    page.table(
        ["composition", *names, "at 10× both", "starts agreeing", "bounds hit", "runs"],
        [
            [
                name,
                *[prose.interval(entry[n], 3) if entry[n]["value"] is not None else "not fitted" for n in names],
                prose.interval(entry["predictions"].get("10x_both", entry["predictions"]["10x_params"]), 4),
                f"{entry['certificate']['agreement']:.0%} of {entry['certificate']['num_starts']}",
                "; ".join(entry["certificate"]["bounds_hit"]) or "none",
                f"{entry['num_runs']} ({entry['num_cells']} cells, {entry['num_seeds']} seeds)",
            ]
            for name, entry in fits.items()
        ],
        text=range(10),
    )
    page.items(prose.floor_sentence(name, entry, kind or "") for name, entry in fits.items())
    if "loss" in figures:
        floor = f"; dashed: the oracle's loss ({kind})" if kind else ""
        page.figure(figures["loss"], f"Loss against training examples; lines are the fitted laws, one per model size{floor}.")


def _held_out(page: Page, summary: Mapping[str, Any], figures: Mapping[str, Path]) -> None:
    page.heading("Predicted against measured")
    if not summary["held_out"]:
        page.text("Nothing was held out: the grid is too small to fit a law without its largest runs.")
        return
    page.text("Laws fitted again without the runs of the largest model or the most data, then asked for those runs.")
    page.items(prose.held_out_sentence(name, entry) for name, entry in summary["held_out"].items())
    if "predicted" in figures:
        page.figure(
            figures["predicted"],
            f"Left: held-out runs, with {summary['level']:.0%} prediction intervals. Right: mean absolute error by method.",
        )


def _ablation(page: Page, summary: Mapping[str, Any], figures: Mapping[str, Path]) -> None:
    section = summary["ablation"]
    page.heading("Isolation")
    if "reason" in section:
        page.text(f"No ablation: {section['reason']}.")
        return
    page.text(prose.ablation_sentence(section))
    if len(section["flips"]) > 1:
        page.items(
            f"{name}: {flip['verdict']}; without {prose.interval(flip['without'], 3, True)}, "
            f"with {prose.interval(flip['with'], 3, True)} {section['unit']} ({prose.sample(flip['difference'])})."
            for name, flip in section["flips"].items()
        )
    if "ablation" in figures:
        page.figure(
            figures["ablation"],
            f"Composition and isolation at {section['num_params_dense']:,.0f} dense parameters, {summary['level']:.0%} "
            f"intervals over {section['num_seeds']} seeds; right, the paper's values.",
        )


def _volumes(page: Page, summary: Mapping[str, Any], figures: Mapping[str, Path]) -> None:
    section = summary["volumes"]
    page.heading("What each composition adds")
    if not section:
        page.text("Volumes were not recorded.")
        return
    kinds = [kind for kind in ("requests", "samples", "positives") if any(kind in entry for entry in section.values())]
    page.table(["composition", *kinds], [[name, *[_volume(entry, kind) for kind in kinds]] for name, entry in section.items()])
    page.text("In brackets: relative to exposed data, and the same of the paper's table.", kind="note")
    if "volumes" in figures:
        page.figure(figures["volumes"], "Volume of each composition relative to exposed data; lines mark the paper's table.")


def _volume(entry: Mapping[str, Any], kind: str) -> str:
    if kind not in entry:
        return "n/a"
    ours, theirs = entry["relative"].get(kind), entry["paper"].get(kind)
    ratios = [f"{ours:.2f}×" if ours is not None else "", f"paper {theirs:.1f}×" if theirs is not None else ""]
    inside = ", ".join(ratio for ratio in ratios if ratio)
    return f"{entry[kind]:,.0f}" + (f" ({inside})" if inside else "")


def _real(page: Page, section: Mapping[str, Any]) -> None:
    page.heading("Against rules that need no model")
    if section.get("num_requests"):
        page.text(f"{section['num_requests']:,.0f} test requests.", kind="note")

    def shown(value: float | None) -> str:
        return f"{value:.4f}" if value is not None else "n/a"

    rows = [
        [name.replace("_", " "), shown(floor.get("mrr")), "", shown(floor.get("ndcg")), ""]
        for name, floor in section["floor"].items()
    ]
    for name, entry in section["by_composition"].items():
        cells = [f"HHSFT, {name} data"]
        for metric in ("mrr", "ndcg"):
            one = entry.get(metric, {})
            low, high = one.get("low"), one.get("high")
            cells += [shown(one.get("value")), f"[{low:.4f}, {high:.4f}]" if low is not None else "no interval"]
        rows.append(cells)
    page.table(["ranking", "MRR", "interval", "NDCG", "interval"], rows)


def _runs(page: Page, study: StudyResult) -> None:
    page.heading("Every run")
    runs = study.runs
    text = [name for name in TEXT if name != "fingerprint"]
    numbers = [name for name in (*NUMBERS, *study.metrics) if name in runs and np.isfinite(runs[name]).any()]
    page.text(f"{study.num_runs} runs; the same table is runs.parquet. Click a column's head to sort by it.", kind="note")
    page.table(
        [*text, *[name.removeprefix("eval/") for name in numbers], "fingerprint"],
        [
            [
                *[str(runs[name][row]) for name in text],
                *[_number(name, float(runs[name][row])) for name in numbers],
                str(runs["fingerprint"][row])[:10],
            ]
            for row in range(study.num_runs)
        ],
        text=(*range(len(text)), len(text) + len(numbers)),
        sortable=True,
    )


def _number(name: str, value: float) -> tuple[str, float]:
    if not np.isfinite(value):
        return "", float("nan")
    if name.startswith("eval/"):
        return f"{value:.5f}", value
    return (f"{value:,.0f}" if value == round(value) and abs(value) < 1e12 else f"{value:.3g}"), value
