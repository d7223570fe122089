"""The paper's tables beside ours, sign by sign: same sign, opposite sign, or unresolved."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis import paper
from analysis.effects import BASE, POINTS, gain_metric
from analysis.isolation import isolation_cells
from analysis.laws import LEVEL
from analysis.study import StudyResult
from unisc.errors import InputError
from unisc.scaling import Cells, contrast

Section = Mapping[str, Any]
ABLATION_METRICS = {"GAUC": "eval/exposed/gauc", "HR@5": "eval/exposed/hr@5", "HR@5, all": "eval/full/hr@5"}
_COLUMN = {"AUC": 0, "GAUC": 1, "HR@5": 2, "HR@5, all": 2}


def verdict(entry: Section, published: float | None) -> str:
    """Compare a contrast's sign with a published number's; without an interval off zero nothing is resolved."""
    low, high = entry.get("low"), entry.get("high")
    if published is None or published == 0:
        return "no published sign"
    if low is None or high is None or low <= 0 <= high:
        return "unresolved"
    return "same sign" if (low > 0) == (published > 0) else "opposite sign"


def ablation(study: StudyResult) -> dict[str, Any]:
    """Return the paper's module ablation row by row: published, ours at the headline size and over all sizes, verdicts.

    Raises:
      InputError: no ablation was run, or it has no cell of exposed samples without isolation, the paper's reference.
    """
    rows = []
    reference = f"{BASE}/none"
    for name, metric in ({"AUC": gain_metric(study)} | ABLATION_METRICS).items():
        if metric not in study.runs:
            continue
        cells, at = isolation_cells(study, metric)
        if reference not in cells.compositions:
            raise InputError(f"the ablation has no run on {BASE} samples without isolation, the paper's reference")
        for (composition, isolation), published in paper.ABLATION.items():
            label = f"{composition}/{isolation}"
            if label not in cells.compositions:
                continue
            here = _difference(cells, label, reference, np.eye(len(cells.sizes))[at])
            mean = _difference(cells, label, reference, np.full(len(cells.sizes), 1 / len(cells.sizes)))
            number = published[_COLUMN[name]]
            row = {"composition": composition, "isolation": isolation, "metric": name, "key": metric, "paper": number}
            row |= {"ours": here, "verdict": verdict(here, number), "mean": mean, "mean_verdict": verdict(mean, number)}
            rows.append(row | {"num_params_dense": float(cells.sizes[at]), "num_sizes": len(cells.sizes)})
    if not rows:
        raise InputError("no cell of the paper's ablation was run")
    return {"rows": rows, "count": count(row["verdict"] for row in rows), "level": LEVEL}


def _difference(cells: Cells, more: str, less: str, by_size: np.ndarray) -> dict[str, Any]:
    weights = np.zeros(cells.means.shape)
    weights[:, cells.column(more)] += by_size
    weights[:, cells.column(less)] -= by_size
    return contrast(cells, f"{more} - {less}", weights, level=LEVEL).to_json()


def scaling(synergy: Section, widths: Section) -> dict[str, Any]:
    """Return what the paper's Figure 4 claims, one row a sign, with our contrast; rows that were not measured are left out."""
    es3, search = paper.SCALING["HHSFT + ES3"], paper.SCALING["HHSFT, search data"]
    gfa, hfa = paper.WIDTHS["only d_G, search"], paper.WIDTHS["only d_H, search"]
    rows: list[tuple[str, float, Any]] = []
    if "reason" not in synergy:
        rows += [
            ("model alone, largest over smallest, exposed data", search[-1] - search[0], synergy["model"]),
            (f"{synergy['composition']} over exposed data, smallest model", es3[0] - search[0], synergy["data"]),
            (f"{synergy['composition']} over exposed data, largest model", es3[-1] - search[-1], synergy["joint_over_model"]),
            ("that gap, largest less smallest model", es3[-1] - search[-1] - es3[0] + search[0], synergy["synergy"]),
        ]
    claims = widths.get("claims", {})
    if "gfa_over_hfa" in claims:
        rows.append(("width of GFA over width of HFA, equal parameters", gfa[-1] - hfa[-1], claims["gfa_over_hfa"]))
    if "both_over_gfa" in claims:
        rows.append(("both widths over that of GFA alone, equal parameters", search[-1] - gfa[-1], claims["both_over_gfa"]))
    if "both_over_hfa" in claims:
        rows.append(("both widths over that of HFA alone, equal parameters", search[-1] - hfa[-1], claims["both_over_hfa"]))
    made = [
        {"claim": claim, "paper": round(published, 2), "ours": ours, "verdict": verdict(ours, round(published, 2))}
        for claim, published, ours in rows
    ]
    return {"rows": made, "count": count(row["verdict"] for row in made)} if made else {"reason": "no gain was measured"}


def count(verdicts) -> dict[str, int]:
    """Count the verdicts by name."""
    found = list(verdicts)
    return {name: found.count(name) for name in ("same sign", "opposite sign", "unresolved")}


def points(study: StudyResult, mask: np.ndarray, label: np.ndarray, metric: str) -> Cells:
    """Return the masked runs (n,) as cells of one size by label (n,), in points."""
    keep = mask & np.isfinite(study.runs[metric])
    runs = study.runs
    return Cells.of(np.ones(int(keep.sum())), label[keep], runs["seed"][keep], runs[metric][keep], scale=POINTS)
