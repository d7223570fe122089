"""Compare cells of the grid: gain per size and composition, interaction and synergy."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.laws import LEVEL, LOSSES
from analysis.study import StudyResult
from unisc.errors import InputError
from unisc.scaling import Cells, Contrast, additive_test, contrast, slope_difference, synergy

BASE = "exposed"
# Expected over the oracle's click probabilities, the metric has no label noise, which seeds alone would not show.
GAINS = ("eval/exposed/auc_roc_expected", "eval/exposed/auc_roc")
POINTS = 100.0  # AUC-ROC differences are reported in points, hundredths of the metric, as papers do.


def gain_metric(result: StudyResult) -> str:
    """Return the AUC-ROC to compare: the first of `GAINS` that every run at full data has, else the last."""
    runs = result.matched().runs
    return next((name for name in GAINS if name in runs and np.isfinite(runs[name]).all()), GAINS[-1])


@dataclass(frozen=True, slots=True)
class Gain:
    """Hold one composition's gain over the smallest model on base data: per size (Z,), and per run (Z, seeds)."""

    composition: str
    params: np.ndarray
    contrasts: list[Contrast]
    by_seed: np.ndarray


def cells_of(result: StudyResult, metric: str, scale: float) -> Cells:
    """Arrange the matched-data runs as (size, composition) cells, keeping the sizes that every composition has.

    Sizes with a single shared seed are left out where at least two others have more: they would cost every interval.
    """
    runs = result.matched().runs
    if metric not in runs:
        raise InputError(f"no run recorded {metric}; nothing to compare")
    base = {name: np.median(runs["num_params_dense"][runs["size"] == name]) for name in np.unique(runs["size"])}
    compositions = result.matched().compositions
    shared: dict[str, int] = {}
    for name in base:
        seeds = [set(runs["seed"][(runs["size"] == name) & (runs["composition"] == c)].tolist()) for c in compositions]
        shared[name] = len(set.intersection(*seeds))
    several = [name for name, count in shared.items() if count > 1]
    sizes = several if len(several) > 1 else [name for name, count in shared.items() if count]
    keep = np.isin(runs["size"], sizes) & np.isfinite(runs[metric])
    order = np.argsort([compositions.index(name) for name in runs["composition"][keep]], kind="stable")
    size = np.array([base[name] for name in runs["size"][keep]])
    columns = (size, runs["composition"][keep], runs["seed"][keep], runs[metric][keep])
    return Cells.of(*(column[order] for column in columns), scale=scale)


def gains(cells: Cells) -> list[Gain]:
    """Return each composition's gain over the smallest size of the base composition."""
    base = cells.column(BASE)
    out = []
    for column, name in enumerate(cells.compositions):
        contrasts = []
        for row in range(len(cells.sizes)):
            weights = np.zeros(cells.means.shape)
            weights[row, column] += 1
            weights[0, base] -= 1
            contrasts.append(contrast(cells, f"{name} at {cells.sizes[row]:g}", weights, level=LEVEL))
        by_seed = (cells.values[:, column] - cells.values[0, base]) * cells.scale
        out.append(Gain(name, cells.sizes, contrasts, by_seed))
    return out


def baseline(result: StudyResult, reference: float) -> Gain | None:
    """Return the baseline model's gain over the same reference, the base data's smallest size (dense parameters) of the grid.

    Its cells join those of the base composition for the pooled error. None where no baseline was run.
    """
    metric, matched = gain_metric(result), result.matched().runs
    if metric not in result.runs or not (result.runs["study"] == "baseline").any():
        return None
    base = (matched["composition"] == BASE) & (matched["num_params_dense"] == reference)
    name = matched["size"][base][0] if base.any() else ""
    at_reference = (result.runs["study"] == "grid") & (result.runs["composition"] == BASE) & (result.runs["size"] == name)
    at_reference &= result.runs["fraction"] >= result.runs["fraction"].max() - 1e-9
    keep = (at_reference | (result.runs["study"] == "baseline")) & np.isfinite(result.runs[metric])
    label = np.where(at_reference, "reference", result.runs["size"])[keep]
    if "reference" not in label:
        return None
    cells = Cells.of(np.ones(len(label)), label, result.runs["seed"][keep], result.runs[metric][keep], scale=POINTS)
    sizes = {
        s: float(np.median(result.runs["num_params_dense"][keep][label == s])) for s in cells.compositions if s != "reference"
    }
    contrasts, rows = [], []
    for size in sorted(sizes, key=sizes.__getitem__):
        weights = np.zeros(cells.means.shape)
        weights[0, cells.column(size)] += 1
        weights[0, cells.column("reference")] -= 1
        contrasts.append(contrast(cells, size, weights, level=LEVEL))
        rows.append((cells.values[0, cells.column(size)] - cells.values[0, cells.column("reference")]) * POINTS)
    return Gain("DLRM-MLP, exposed data", np.array(sorted(sizes.values())), contrasts, np.array(rows))


def interactions(result: StudyResult) -> dict[str, Any]:
    """Return the interaction and synergy sections of `summary.json`, or `{"reason": ...}` where there is none.

    Headline keys are those of `gain_metric` under the last composition; `by_metric` holds every metric and composition.
    """
    headline = gain_metric(result)
    present = [name for name in (*GAINS, *LOSSES) if name == headline or name in result.runs]
    sections: dict[str, Any] = {"interaction": {"by_metric": {}}, "synergy": {"by_metric": {}}}
    for metric in present:
        name, scale = metric.rsplit("/", 1)[-1], POINTS if metric in GAINS else -1.0
        try:
            cells = cells_of(result, metric, scale)
            others = [c for c in cells.compositions if c != BASE]
            if BASE not in cells.compositions or not others:
                raise InputError(f"the grid needs the composition {BASE!r} and at least one other at matched data")
            slopes = {c: slope_difference(cells, c, BASE, level=LEVEL).to_json() for c in others}
            joint = {c: synergy(cells, c, BASE, level=LEVEL).to_json() for c in others}
        except InputError as error:
            if metric == headline:
                return {"interaction": {"reason": str(error)}, "synergy": {"reason": str(error)}}
            continue
        sections["interaction"]["by_metric"][name] = {"by_composition": slopes, "additive": additive_test(cells).to_json()}
        sections["synergy"]["by_metric"][name] = joint
        if metric == headline:
            unit = "AUC-ROC points per decade of dense parameters"
            sections["interaction"] |= slopes[others[-1]] | {"composition": others[-1], "base": BASE, "unit": unit}
            sections["interaction"]["num_sizes"] = len(cells.sizes)
            sections["interaction"]["additive"] = additive_test(cells).to_json()
            sections["synergy"] |= joint[others[-1]] | {"unit": "AUC-ROC points", "metric": name}
    return sections


FULL = {"oracle_clicks": "eval/full/oracle_clicks@5", "hr": "eval/full/hr@5"}


def full_lists(result: StudyResult) -> dict[str, Any]:
    """Return each composition's gain over base data when all candidates are ranked, at every size, in percentage points.

    Raises:
      InputError: no full-list metric was recorded, or the base composition, or any other, was not run.
    """
    section: dict[str, Any] = {"unit": "percentage points", "by_metric": {}}
    for name, metric in FULL.items():
        cells = cells_of(result, metric, POINTS)
        if BASE not in cells.compositions:
            raise InputError(f"the grid has no composition {BASE!r} to compare with")
        if len(cells.compositions) == 1:
            raise InputError(f"the grid has no composition beside {BASE!r}")
        base, table = cells.column(BASE), {}
        for column, composition in enumerate(cells.compositions):
            if column == base:
                continue
            rows = []
            for row, size in enumerate(cells.sizes):
                weights = np.zeros(cells.means.shape)
                weights[row, column], weights[row, base] = 1, -1
                found = contrast(cells, f"{composition} at {size:g}", weights, level=LEVEL)
                rows.append({"num_params_dense": float(size)} | found.to_json())
            table[composition] = rows
        section["by_metric"][name] = table
    return section
