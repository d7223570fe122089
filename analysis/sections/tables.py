"""The paper's tables beside ours: isolation, and the peers at equal FLOPs and at equal parameters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis import prose
from analysis.peers import BUDGETS
from unisc.report.numbers import short
from unisc.report.page import Page

Summary = Mapping[str, Any]
Figures = Mapping[str, Path]
MODULES = {"none": "HHFI only", "dref": "DREF", "dapga": "DAPGA", "both": "DREF, DAPGA"}


def isolation(page: Page, summary: Summary, figures: Figures) -> None:
    """Write the ablation: the sign flip, the figure, and the paper's table sign by sign."""
    section = summary["ablation"]
    page.heading("Isolation")
    if "reason" in section:
        page.text(f"No ablation: {section['reason']}.")
        return
    page.text(prose.ablation_sentence(section))
    if len(section["flips"]) > 1:
        page.items(
            f"{name}: {flip['verdict']}; without {prose.points(flip['without'])}, "
            f"with {prose.points(flip['with'])} {section['unit']} ({prose.sample(flip['difference'])})."
            for name, flip in section["flips"].items()
        )
    if "ablation" in figures:
        page.figure(
            figures["ablation"],
            f"Composition and isolation at {section['num_params_dense']:,.0f} dense parameters, {summary['level']:.0%} "
            f"intervals over {section['num_seeds']} seeds; right, the paper's values.",
        )
    if len(section["by_size"]) > 1:
        _by_size(page, summary)
    signs = summary["signs"]["ablation"]
    if "reason" in signs:
        page.text(f"The paper's table is not compared: {signs['reason']}.")
        return
    several, at = signs["rows"][0]["num_sizes"] > 1, short(signs["rows"][0]["num_params_dense"])
    page.table(
        [
            "samples",
            "modules",
            "metric",
            "paper, %",
            f"ours at {at}, points",
            "verdict",
            *(["mean of sizes", "verdict"] * several),
        ],
        [_sign_row(row, several) for row in signs["rows"]],
        text=range(8),
        caption="The paper's module ablation sign by sign, over exposed samples with HHFI only; "
        f"{summary['level']:.0%} intervals ({prose.sample(signs['rows'][0]['ours'])}). The paper's −4.76 is out of scale with "
        "its neighbours; HR@5 of all candidates stands beside its HR@5.",
    )
    page.text(prose.sign_count("Of the table's entries", signs["count"]))


def _by_size(page: Page, summary: Summary) -> None:
    section = summary["ablation"]
    rows = []
    for composition in section["flips"]:
        for one in section["by_size"]:
            flip = one["flips"].get(composition)
            if flip:
                cells = [prose.points(flip[key]) for key in ("without", "with", "difference")]
                rows.append([composition, short(one["num_params_dense"]), *cells, flip["verdict"]])
        flip = section["mean"]["flips"][composition]
        cells = [prose.points(flip[key]) for key in ("without", "with", "difference")]
        rows.append([composition, "mean of sizes", *cells, flip["verdict"]])
    one = section["mean"]["flips"][composition]["difference"]
    base, reference = section["reference"].split("/")
    page.table(
        ["samples", "dense parameters", "no isolation", "DREF and DAPGA", "difference", "verdict"],
        rows,
        text=range(6),
        caption=f"What foreign samples do with and without isolation, in AUC-ROC points over {base} samples "
        f"({MODULES[reference]}); {summary['level']:.0%} intervals ({prose.sample(one)}).",
    )


def peers(page: Page, summary: Summary) -> None:
    """Write the zoo over the baseline, at each budget, with the rates that were tuned."""
    section = summary["peers"]
    if "reason" in section:
        return
    page.heading("The zoo at equal FLOPs and at equal parameters")
    for key, said in BUDGETS.items():
        table = section["budgets"][key]
        if "reason" in table:
            page.text(f"At {said}: {table['reason']}.")
            continue
        metrics = [name for name in _PEER_METRICS if any(name in row for row in table["rows"])]
        page.table(
            [*_PEER_COLUMNS, *(_PEER_METRICS[name] for name in metrics), "paper AUC", "sign"],
            [_peer_row(row, metrics) for row in table["rows"]],
            text=range(15),
            caption=f"Rankers at {said}, in points over DLRM-MLP on exposed samples matched alike; {summary['level']:.0%} "
            f"intervals, {table['num_seeds']} seeds; FLOPs are of training, a sample. "
            "HR@5 is of all candidates, the others of shown lists. The paper's models are neither at equal FLOPs nor at equal "
            "parameters.",
        )
        page.text(prose.sign_count(f"Of the paper's signs of AUC and GAUC, at {said}", table["count"]))
    if section["rates"]:
        page.table(
            ["ranker", "best rate", "used", "at the edge of the grid", "calibrated log loss by rate"],
            [_rate_row(one) for one in section["rates"]],
            text=range(5),
            caption=f"Learning rates tried on exposed samples at seed {section['rates'][0]['seed']}, one run a rate.",
        )


_PEER_COLUMNS = ("ranker, samples", "dense", "FLOPs")
_PEER_METRICS = {
    "auc_roc": "AUC-ROC, shown",
    "gauc": "GAUC, shown",
    "full_hr": "HR@5, all",
}


def _sign_row(row: Summary, several: bool) -> list[str]:
    about = [row["composition"], MODULES[row["isolation"]], row["metric"], prose.point(row["paper"])]
    mean = [prose.points(row["mean"]), row["mean_verdict"]] if several else []
    return [*about, prose.points(row["ours"]), row["verdict"], *mean]


def _peer_row(row: Summary, metrics: list[str]) -> list[str]:
    about = [f"{row['name']}, {row['composition']}", short(row["num_params_dense"]), short(row["train_flops_per_example"])]
    over = [prose.points(row[name]) if row[name] else "reference" for name in metrics]
    published = prose.point(row["paper"]["auc_roc"]) if row["paper"] else ""
    return [*about, *over, published, row.get("verdict", {}).get("auc_roc", "")]


def _rate_row(one: Summary) -> list[str]:
    tried = sorted(one["tried"], key=lambda run: run["learning_rate"])
    losses = ", ".join(f"{run['learning_rate']:g}: {run['loss']:.4f}" for run in tried)
    used = f"{one['used']:g}" if one["used"] else "n/a"
    return [one["size"], f"{one['best']:g}", used, "yes" if one["at_edge"] else "no", losses]
