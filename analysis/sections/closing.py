"""What was not found, what the study cannot say, how to run it again, and every run."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from analysis import prose
from analysis.study import NUMBERS, TEXT, StudyResult
from unisc.report.page import Page

Summary = Mapping[str, Any]


def negative(page: Page, summary: Summary) -> None:
    """Gather what went against the paper or was not resolved."""
    page.heading("Negative and unresolved results")
    against, open_ = list(_rows(summary, "opposite sign")), list(_rows(summary, "unresolved"))
    for label, rows in (("Opposite to the paper", against), ("Not resolved", open_)):
        page.text(f"{label} ({len(rows)}):" if rows else f"{label}: nothing.")
        if rows:
            page.items(rows)
    behind = [name for name, entry in summary["held_out"].items() if not entry["beats_baselines"]]
    if behind:
        page.text(f"The law of loss did no better than a naive rule on the held-out runs of: {', '.join(behind)}.")
    for law in summary["composition_law"].get("laws", ()):
        test = law["backtest"]
        if test and min(test["additive"], test["interacting"]) >= test["carry_forward"]:
            page.text(
                f"{prose.law_metric(law['metric'])}, isolation {law['isolation']}: repeating the next smaller size predicted "
                f"the largest better than either composition law ({prose.number(test['carry_forward'], 2)} against "
                f"{prose.number(test['additive'], 2)} and {prose.number(test['interacting'], 2)} mean absolute error on "
                f"{test['num_held']} cells)."
            )


def _rows(summary: Summary, verdict: str) -> Iterator[str]:
    for row in summary["signs"]["scaling"].get("rows", ()):
        if row["verdict"] == verdict:
            yield (
                f"{row['claim']}: the paper {prose.point(row['paper'])}, here {prose.points(row['ours'])} "
                f"({prose.sample(row['ours'])})."
            )
    for row in summary["signs"]["ablation"].get("rows", ()):
        if row["verdict"] == verdict:
            yield (
                f"{row['metric']}, {row['composition']} samples, isolation {row['isolation']}: the paper "
                f"{prose.point(row['paper'])}, here {prose.points(row['ours'])} "
                f"({prose.sample(row['ours'])})."
            )
    for key, table in summary["peers"].get("budgets", {}).items():
        for row in table.get("rows", ()):
            if row.get("verdict", {}).get("auc_roc") == verdict:
                yield (
                    f"{row['name']} on {row['composition']} samples over DLRM-MLP at equal {key}: the paper "
                    f"{prose.point(row['paper']['auc_roc'])}, here {prose.points(row['auc_roc'])} "
                    f"({prose.sample(row['auc_roc'])})."
                )


def limits(page: Page, summary: Summary) -> None:
    """Say what the study does not cover."""
    page.heading("Limits")
    seeds = summary["num_seeds"]
    sentences = [
        "One generated shop, one test day. Its mechanisms are ours: an effect here is a possibility shown, not a fact about "
        "the paper's platform, and an effect missing here may be there.",
        f"Models are small, and so is the data: {summary['num_runs']} runs of {summary['num_sizes']} sizes, "
        f"{seeds} seed{'s' if seeds != 1 else ''}. The paper's smallest model has about 75 M parameters.",
        "Intervals hold the training seed and, for laws, their cells; not the shop, the day, or the choice of hyperparameters.",
        "Signs are compared with the paper's, amounts are not: its percentages are of other metrics on other traffic and come "
        "without intervals, and its figure was read off to ±0.01.",
        "The composition law takes one floor and one pair of exponents for all kinds of samples. Every composition mixes its "
        "kinds in fixed shares, so a rate is that of a kind in this mix.",
    ]
    missing = {
        "widths grown alone": summary["widths"],
        "equal counts": summary["equal_counts"],
        "the zoo at equal budgets": summary["peers"],
        "the isolation ablation": summary["ablation"],
    }
    sentences += [f"Not part of this study: {name} ({part['reason']})." for name, part in missing.items() if "reason" in part]
    page.items(sentences)


def reproduction(page: Page, summary: Summary) -> None:
    """Give the commands that make this page again."""
    page.heading("Reproduction")
    preset = summary["preset"]
    if preset:
        page.code(f"unisc study uniscale --preset {preset} --out report\npython -m analysis.report study/{preset} --out report")
    page.text(
        "The first line runs everything, and goes on where it was when typed again; the second makes the page again from the "
        "records. Every number of the page is in summary.json, its keys in summary.schema.md; laws.json holds the fits with "
        "contracts and certificates, runs.parquet a row a run, figures/ every figure as PNG, SVG and PDF."
    )


def runs(page: Page, study: StudyResult) -> None:
    """Add the table of all runs."""
    page.heading("Every run")
    columns = study.runs
    text = [name for name in TEXT if name != "fingerprint"]
    numbers = [name for name in (*NUMBERS, *study.metrics) if name in columns and np.isfinite(columns[name]).any()]
    page.text(f"{study.num_runs} runs; the same table is runs.parquet. Click a column's head to sort by it.", kind="note")
    page.table(
        [*text, *[name.removeprefix("eval/") for name in numbers], "fingerprint"],
        [
            [
                *[str(columns[name][row]) for name in text],
                *[_number(name, float(columns[name][row])) for name in numbers],
                str(columns["fingerprint"][row])[:10],
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
