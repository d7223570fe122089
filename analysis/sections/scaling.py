"""Results of scaling: gain against parameters, which width, full lists, laws of loss, and what they predicted."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis import prose
from unisc.report.numbers import short
from unisc.report.page import Page

Summary = Mapping[str, Any]
Figures = Mapping[str, Path]


def gain(page: Page, summary: Summary, figures: Figures) -> None:
    """Write the gain against parameters, and the signs of the paper's Figure 4 beside ours."""
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
    widths = summary["widths"]
    if "widths" in figures:
        reach = [short(row["num_params_dense"]) for rows in widths["curves"].values() for row in (rows[0], rows[-1])]
        page.figure(
            figures["widths"],
            f"Gain over {short(widths['num_params_dense'])} dense parameters on exposed data as one width or both are grown, "
            f"{summary['level']:.0%} intervals; right, the paper's Figure 4. Curves reach from {reach[0]} to {reach[1]}.",
        )
    signs = summary["signs"]["scaling"]
    if "reason" not in signs:
        page.table(
            ["claim", "paper, AUC %", "ours, AUC-ROC points", "runs, seeds", "verdict"],
            [
                [row["claim"], prose.point(row["paper"]), prose.points(row["ours"]), _size(row["ours"]),
                 row["verdict"]]
                for row in signs["rows"]
            ],
            text=range(5),
            caption="The paper's Figure 4 sign by sign (read off the figure to ±0.01, over 1x to 4x). Sizes and units differ, "
            "so signs are compared and not amounts.",
        )  # fmt: skip
        page.text(prose.sign_count("Of the figure's claims", signs["count"]))


def _size(entry: Mapping[str, Any]) -> str:
    return f"{entry['num_runs']}, {entry['num_seeds']}"


def _composition_gain(name: str, one: Mapping[str, Any]) -> str:
    large, small = (prose.points(one[key]) for key in ("joint_over_model", "data"))
    together = f"synergy {prose.points(one['synergy'])} AUC-ROC points, {one['synergy']['verdict']}"
    return (
        f"{name}: over {one['base']} data at the largest model {large}, at the smallest {small}; "
        f"{together} ({prose.sample(one['synergy'])})."
    )


_FULL_NAMES = {
    "oracle_clicks": "true clicks in the top five, as a share of the best possible five",
    "hr": "requests whose clicked item is in the top five",
}


def full_lists(page: Page, summary: Summary) -> None:
    """Say what a composition is worth where it aims: on all candidates, not on the shown ones alone."""
    section = summary["full_lists"]
    if "reason" in section:
        return
    page.heading("Ranking all candidates")
    page.text("Gain over exposed data when the whole candidate list is ranked, no position given, at full data.")
    for name, table in section["by_metric"].items():
        rows = [
            [short(row[0]["num_params_dense"]), *(prose.points(one) for one in row)]
            for row in zip(*table.values(), strict=True)
        ]
        one = next(iter(table.values()))[0]
        caption = f"Percentage points of {_FULL_NAMES[name]}; {summary['level']:.0%} intervals ({prose.sample(one)})."
        page.table(["dense parameters", *table], rows, text=range(1 + len(table)), caption=caption)


def loss(page: Page, summary: Summary, figures: Figures) -> None:
    """Write the laws of loss."""
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
        caption=f"A law for each composition, {summary['level']:.0%} intervals.",
    )
    page.items(prose.floor_sentence(name, entry, kind or "") for name, entry in fits.items())
    if "loss" in figures:
        floor = f"; dashed: the oracle's loss ({kind})" if kind else ""
        page.figure(figures["loss"], f"Loss against training examples; lines are the fitted laws, one per model size{floor}.")


def held_out(page: Page, summary: Summary, figures: Figures) -> None:
    """Write what the laws predicted of runs that they had not seen."""
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
