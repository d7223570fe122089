"""Results on what samples are worth: the composition law, its interaction with size, and volume told from diversity."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis import prose
from unisc.report.numbers import short
from unisc.report.page import Page

Summary = Mapping[str, Any]
Figures = Mapping[str, Path]


def composition_law(page: Page, summary: Summary, figures: Figures) -> None:
    """Write exchange rates, their change with the model, and the tests against additivity."""
    section = summary["composition_law"]
    page.heading("What a sample is worth")
    if "reason" in section:
        page.text(f"No composition law: {section['reason']}.")
        return
    page.text(
        "L = E + A / parameters^alpha + B / D^beta, where D counts the samples of each kind at a rate of exchange: the number "
        "of exposed samples that one of them stands for. One law for all compositions, by least squares of log residuals on "
        "the means of (size, composition, data) cells. Full lists: L is what the true clicks lack to the best possible five."
    )
    page.table(
        ["metric", "isolation", "kind", "worth", "seeds alone", "verdict", "change per e-fold of parameters"],
        [_rate_row(law, kind, rate) for law in section["laws"] for kind, rate in law["rates"].items()],
        text=range(7),
        caption=f"Rates of exchange in exposed samples, {summary['level']:.0%} intervals: profiles, as wide as the bootstrap "
        "over "
        "cells; beside them the interval over training seeds alone. " + _samples_of(section),
    )
    if "exchange" in figures:
        page.figure(
            figures["exchange"],
            f"Rates of exchange and how they change with the model, {summary['level']:.0%} intervals; dotted: worth nothing, "
            "line: worth an exposed sample.",
        )
    page.heading("Does the worth of a kind change with the model?", 3)
    page.items(prose.exchange_interaction(law) for law in section["laws"])
    if "reason" not in summary["interaction"]:
        page.text("Of the AUC-ROC at full data, cell by cell: " + prose.interaction_sentence(summary["interaction"]))
    tests = {name: test for name, test in section["size_by_volume"].items() if "reason" not in test}
    if tests:
        page.heading("Does volume of one kind interact with the model?", 3)
        page.text(
            "Within a composition, the loss by size and data size: one effect for each size and each data size, and the "
            "product of their logarithms, which additive effects leave at zero. Additivity is one of the loss itself, as in "
            "the laws; effects that add up there do not in AUC-ROC or in the logarithm. A published study of one domain finds "
            "size and volume additive."
        )
        page.table(
            ["composition", "F", "degrees", "p", "cells", "verdict"],
            [_test_row(name, test) for name, test in tests.items()],
            text=(0, 5),
            caption="Size by volume against additivity, on means of (size, data) cells.",
        )


def _rate_row(law: Summary, kind: str, rate: Summary) -> list[str]:
    change = prose.interval(rate["change_per_e"], 2, True)
    about = [prose.law_metric(law["metric"]), law["isolation"], kind]
    return [*about, prose.interval(rate, 3), _ends(rate["seeds"]), rate["verdict"], change]


def _test_row(name: str, test: Summary) -> list[str]:
    degrees = f"{test['degrees'][0]}, {test['degrees'][1]}"
    numbers = [prose.number(test["f_statistic"], 3), degrees, prose.number(test["p_value"], 2)]
    return [name, *numbers, str(test["num_points"]), test["verdict"]]


def _samples_of(section: Mapping[str, Any]) -> str:
    law = section["laws"][0]
    seeds = f"{law['num_seeds']} seed{'s' if law['num_seeds'] != 1 else ''}"
    return f"The first law is of {law['num_cells']} cells, {law['num_runs']} runs, {seeds}."


def _ends(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "fewer than 3 seeds"
    return f"[{prose.number(entry['low'], 2)}, {prose.number(entry['high'], 2)}]"


def equal_counts(page: Page, summary: Summary, figures: Figures) -> None:
    """Write what new kinds bring at a fixed count, and what their volume brings beyond that."""
    section = summary["equal_counts"]
    if "reason" in section:
        return
    page.heading("Volume and diversity")
    page.text(
        f"Every composition cut to the {section['num_examples']:,.0f} samples of exposed data (off by at most "
        f"{section['largest_gap']:.1%}), so that steps are equal, too. Diversity is what the new kinds bring at that count, "
        "volume what the rest of the composition adds to it; the two sum to the whole gain over exposed data."
    )
    names = {"auc_roc": "AUC-ROC, shown lists", "full_clicks": "true clicks, all candidates", "full_hr": "HR@5, all candidates"}
    rows = []
    for metric, table in section["by_metric"].items():
        for name, parts in table.items():
            by_size = parts["by_size"] if metric != "full_hr" else []
            for row in [*by_size, {"num_params_dense": None} | parts["mean"]]:
                size = "mean of sizes" if row["num_params_dense"] is None else short(row["num_params_dense"])
                cells = [prose.points(row[part]) for part in ("diversity", "volume", "total")]
                rows.append([names[metric], name, size, *cells, row["diversity"]["verdict"]])
    one = next(iter(next(iter(section["by_metric"].values())).values()))["mean"]["diversity"]
    page.table(
        ["metric", "composition", "dense parameters", "diversity", "volume", "whole", "diversity is"],
        rows,
        text=range(7),
        caption=f"Gain over exposed data in points, taken apart; {summary['level']:.0%} intervals ({prose.sample(one)}).",
    )
    if "equal_counts" in figures:
        page.figure(figures["equal_counts"], f"Diversity and volume by composition and size, {summary['level']:.0%} intervals.")
