"""Numbers of a study on real request logs: ranking quality per composition beside rules that need no model."""

from typing import Any

import numpy as np

from analysis.effects import BASE
from analysis.laws import LEVEL
from analysis.study import StudyResult
from unisc.errors import InputError
from unisc.scaling import Cells, contrast

METRICS = {"mrr": "eval/exposed/mrr", "ndcg": "eval/exposed/ndcg"}


def summarise(result: StudyResult) -> dict[str, Any] | None:
    """Return the `real` section of `summary.json`, None for a generated study.

    The headline `mrr` and `ndcg` are those of the last composition at the largest model, fixed beforehand rather than picked;
    `beats_last_touched` compares its interval over seeds with that floor. Test-set error is not in the interval unless
    `real.se` {mrr, ndcg} gives it; where `real.paired` {composition: {value, low, high, num_requests, num_seeds}} holds the
    difference list by list, `beats_last_touched` is that one.
    """
    facts = result.facts.get("real")
    if not facts:
        return None
    runs = result.matched().runs if len(result.matched().runs["fraction"]) else result.runs
    top = runs["num_params_dense"] >= np.nanmax(runs["num_params_dense"]) * (1 - 1e-9)
    section: dict[str, Any] = {"floor": facts.get("floor", {}), "num_requests": facts.get("num_requests"), "by_composition": {}}
    for name, metric in (METRICS | dict(facts.get("metrics", {}))).items():
        if metric not in runs or not np.isfinite(runs[metric][top]).all():
            section[name] = None
            continue
        for composition, entry in _means(runs, top, metric, (facts.get("se") or {}).get(name)).items():
            section["by_composition"].setdefault(composition, {})[name] = entry
    last = [name for name in result.compositions if name in section["by_composition"]]
    if last:
        section |= {"composition": last[-1], "num_params_dense": float(np.nanmax(runs["num_params_dense"]))}
        for name in METRICS:
            entry = section["by_composition"][last[-1]].get(name)
            section[name] = entry["value"] if entry else None
            section[f"{name}_low"], section[f"{name}_high"] = (entry["low"], entry["high"]) if entry else (None, None)
        section["num_seeds"] = section["by_composition"][last[-1]].get("mrr", {}).get("num_seeds")
    rule = section["floor"].get("last_touched_first", {}).get("mrr")
    paired = (facts.get("paired") or {}).get(section.get("composition"))
    if paired is not None:
        # List by list on the same lists: their own difficulty, most of the error of either number, cancels.
        resolved = paired["low"] > 0 or paired["high"] < 0
        section["beats_last_touched"] = {"difference": paired["value"], "resolved": resolved, "base": BASE, **paired}
    elif rule is not None and section.get("mrr") is not None:
        low, high = section["mrr_low"], section["mrr_high"]
        resolved = low is not None and (low > rule or high < rule)
        section["beats_last_touched"] = {"difference": section["mrr"] - rule, "resolved": bool(resolved), "base": BASE}
    return section


def _means(runs, top, metric: str, test_error: float | None) -> dict[str, dict[str, Any]]:
    """Return each composition's mean with an interval whose run error is pooled over compositions."""
    names = runs["composition"][top]
    try:
        cells = Cells.of(np.ones(int(top.sum())), names, runs["seed"][top], runs[metric][top])
    except InputError:
        # Seeds that the compositions do not share: means alone, which is all such a table supports.
        means = {str(name): float(runs[metric][top & (runs["composition"] == name)].mean()) for name in np.unique(names)}
        return {name: {"value": value, "low": None, "high": None, "num_seeds": None} for name, value in means.items()}
    out = {}
    for column, name in enumerate(cells.compositions):
        weights = np.zeros(cells.means.shape)
        weights[0, column] = 1
        found = contrast(cells, name, weights, level=LEVEL)
        low, high = found.low, found.high
        if test_error is not None and found.standard_error:
            wider = float(np.hypot(found.standard_error, test_error)) / found.standard_error
            assert low is not None and high is not None
            low, high = found.value - (found.value - low) * wider, found.value + (high - found.value) * wider
        out[name] = {"value": found.value, "low": low, "high": high, "num_seeds": found.num_seeds}
    return out
