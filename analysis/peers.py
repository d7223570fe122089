"""The zoo at equal FLOPs and at equal parameters, each ranker over DLRM-MLP matched alike, beside the paper's main table."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis import paper
from analysis.effects import BASE, FULL, gain_metric
from analysis.laws import LEVEL
from analysis.signs import count, points, verdict
from analysis.study import StudyResult
from unisc.errors import InputError
from unisc.scaling import Cells, contrast

BASELINE, OURS = "dlrm", "hhsft"
BUDGETS = {"flops": "equal FLOPs", "params": "equal parameters"}
TUNED_BY = "eval/exposed/log_loss_calibrated"


def compare(study: StudyResult) -> dict[str, Any]:
    """Return the peers by budget and metric, each a contrast with the baseline of that budget, and their learning rates.

    Raises:
      InputError: no peers were run, or not the baseline among them.
    """
    runs = study.runs
    chosen = runs["study"] == "peers"
    if not chosen.any():
        raise InputError("no peers were run")
    metrics = {
        "auc_roc": gain_metric(study), "gauc": "eval/exposed/gauc", "hr": "eval/exposed/hr@5", "full_hr": FULL["hr"],
        "full_clicks": FULL["oracle_clicks"],
    }  # fmt: skip
    name, budget = (np.array(part) for part in zip(*(_parse(size) for size in runs["size"]), strict=True))
    section: dict[str, Any] = {"unit": "points", "budgets": {}, "rates": rates(study), "reference": BASELINE}
    for key in BUDGETS:
        # The reference size is its own match, whatever is matched.
        mine = chosen & ((budget == key) | (name == OURS))
        if not (mine & (name == BASELINE)).any():
            section["budgets"][key] = {"reason": f"{BASELINE} was not run at {BUDGETS[key]}"}
            continue
        section["budgets"][key] = _table(study, mine, np.char.add(np.char.add(name, "/"), runs["composition"]), metrics)
    if all("reason" in one for one in section["budgets"].values()):
        raise InputError(f"the peers lack {BASELINE}, which published gains are over")
    return section


def _parse(size: str) -> tuple[str, str]:
    name, _, budget = size.partition("@")
    return name, budget.partition("-")[0]


def _table(study: StudyResult, mine: np.ndarray, label: np.ndarray, metrics: Mapping[str, str]) -> dict[str, Any]:
    runs, baseline = study.runs, f"{BASELINE}/{BASE}"
    cells = {key: points(study, mine, label, metric) for key, metric in metrics.items() if metric in runs}
    rows = []
    for one in next(iter(cells.values())).compositions:
        at, (name, composition) = mine & (label == one), one.split("/")
        work = runs["train_flops"][at] / runs["num_examples"][at]
        row: dict[str, Any] = {
            "name": name,
            "composition": composition,
            "num_params_dense": float(np.median(runs["num_params_dense"][at])),
            "train_flops_per_example": float(np.median(work)),
            "learning_rate": float(np.median(runs["learning_rate"][at])) if "learning_rate" in runs else None,
            "value": float(np.mean(runs[metrics["auc_roc"]][at])),
        }
        for key, table in cells.items():
            row[key] = _over(table, one, baseline) if one != baseline else None
        published = paper.MAIN.get((name, composition))
        signs = {"auc_roc": published[0], "gauc": published[1]} if published else None
        row["paper"] = signs
        if signs and one != baseline:
            row["verdict"] = {key: verdict(row[key], number) for key, number in signs.items() if key in cells}
        rows.append(row)
    rows.sort(key=lambda row: (row["composition"] != BASE, -row["value"]))
    signs = count(word for row in rows for word in row.get("verdict", {}).values())
    return {"rows": rows, "num_seeds": len(next(iter(cells.values())).seeds), "count": signs}


def _over(cells: Cells, name: str, baseline: str) -> dict[str, Any]:
    weights = np.zeros(cells.means.shape)
    weights[0, cells.column(name)] += 1
    weights[0, cells.column(baseline)] -= 1
    return contrast(cells, f"{name} - {baseline}", weights, level=LEVEL).to_json()


def rates(study: StudyResult) -> list[dict[str, Any]]:
    """Return each ranker's rates by how they did at the tuning seed, best first, and the rate that its runs were given."""
    runs = study.runs
    tried = runs["study"] == "rates"
    if not tried.any() or TUNED_BY not in runs or "learning_rate" not in runs:
        return []
    found = []
    for size in sorted(set(runs["size"][tried])):
        mine = tried & (runs["size"] == size) & np.isfinite(runs[TUNED_BY])
        order = np.flatnonzero(mine)[np.argsort(runs[TUNED_BY][mine], kind="stable")]
        if not len(order):
            continue
        grid = sorted(set(runs["learning_rate"][tried]))
        best = float(runs["learning_rate"][order[0]])
        given = runs["learning_rate"][(runs["study"] == "peers") & (runs["size"] == size)]
        found.append(
            {
                "size": size,
                "best": best,
                "used": float(np.median(given)) if len(given) else None,
                "at_edge": best in (grid[0], grid[-1]),
                "tried": [
                    {"learning_rate": float(runs["learning_rate"][row]), "loss": float(runs[TUNED_BY][row])} for row in order
                ],
                "seed": int(runs["seed"][order[0]]),
            }
        )
    return found
