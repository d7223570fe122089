"""The isolation ablation: composition x isolation x size at all data, and whether isolation turns a loss into a gain."""

from typing import Any

import numpy as np

from analysis.effects import BASE, POINTS, gain_metric
from analysis.laws import LEVEL
from analysis.study import ISOLATIONS, StudyResult
from unisc.errors import InputError
from unisc.scaling import Cells, contrast


def isolation_cells(result: StudyResult, metric: str) -> tuple[Cells, int]:
    """Arrange the ablation's runs, and the grid's own at its sizes, as (size, "composition/isolation") cells in points.

    Returns the cells and the index of the headline size: the one with most runs of the ablation, the largest of several.

    Raises:
      InputError: no ablation was run, or none of its sizes has all of its cells.
    """
    runs = result.runs
    chosen = runs["study"] == "ablation"
    if not chosen.any() or metric not in runs:
        raise InputError("no ablation was run")
    fraction = runs["fraction"][chosen].max()
    chosen &= runs["fraction"] >= fraction - 1e-9
    names = np.unique(runs["size"][chosen])
    keep = chosen | ((runs["study"] == "grid") & np.isin(runs["size"], names) & (runs["fraction"] >= fraction - 1e-9))
    keep &= np.isfinite(runs[metric])
    label = np.char.add(np.char.add(runs["composition"], "/"), runs["isolation"])
    # A cell of both studies holds the same run twice when seeds overlap: the first is kept.
    key = np.char.add(np.char.add(np.char.add(label, "#"), runs["seed"].astype(str)), np.char.add("#", runs["size"]))
    _, first = np.unique(key[keep], return_index=True)
    rows = np.flatnonzero(keep)[np.sort(first)]
    wanted = set(label[rows])
    names = [name for name in names if set(label[rows][runs["size"][rows] == name]) == wanted]
    if not names:
        raise InputError("no size of the ablation has every composition and isolation; complete it")
    rows = rows[np.isin(runs["size"][rows], names)]
    params = {name: float(np.median(runs["num_params_dense"][rows][runs["size"][rows] == name])) for name in names}
    size = np.array([params[name] for name in runs["size"][rows]])
    cells = Cells.of(size, label[rows], runs["seed"][rows], runs[metric][rows], scale=POINTS)
    counts = [(int((chosen & (runs["size"] == name)).sum()), params[name]) for name in names]
    return cells, int(np.searchsorted(cells.sizes, max(counts)[1]))


def ablation(result: StudyResult) -> dict[str, Any]:
    """Return composition x isolation, in AUC-ROC points over base data without isolation, and the tests of the sign flip.

    The reference is the base composition without isolation or, where that was not run, with both modules.

    Raises:
      InputError: there is no ablation to read.
    """
    cells, headline = isolation_cells(result, gain_metric(result))
    names = list(cells.compositions)
    reference = next((name for name in (f"{BASE}/none", f"{BASE}/both") if name in names), names[0])
    by_size = []
    for row in range(len(cells.sizes)):
        table = _table(result, cells, reference, np.eye(len(cells.sizes))[row])
        by_size.append({"num_params_dense": float(cells.sizes[row]), **table})
    runs = result.runs
    at = by_size[headline]
    near = np.abs(np.log(runs["num_params_dense"] / at["num_params_dense"])) < 0.02
    return {
        "size": str(runs["size"][near & (runs["study"] == "ablation")][0]),
        "num_params_dense": at["num_params_dense"],
        "num_runs": cells.values.size,
        "num_seeds": len(cells.seeds),
        "reference": reference,
        "unit": "AUC-ROC points",
        "cells": at["cells"],
        "flips": at["flips"],
        "flip": at["flip"],
        "by_size": by_size,
        "mean": _table(result, cells, reference, np.full(len(cells.sizes), 1 / len(cells.sizes))),
    }


def _table(result: StudyResult, cells: Cells, reference: str, by_size: np.ndarray) -> dict[str, Any]:
    names = list(cells.compositions)

    def against(one: str, other: str) -> dict[str, Any]:
        weights = np.zeros(cells.means.shape)
        weights[:, names.index(one)] += by_size
        weights[:, names.index(other)] -= by_size
        return contrast(cells, f"{one} - {other}", weights, level=LEVEL).to_json()

    table: dict[str, dict[str, Any]] = {}
    for composition in result.compositions:
        row = {i: against(f"{composition}/{i}", reference) for i in ISOLATIONS if f"{composition}/{i}" in names}
        if row:
            table[composition] = row
    flips = {}
    for composition, row in table.items():
        if composition != BASE and {"none", "both"} <= set(row):
            flips[composition] = _flip(row["none"], row["both"], against(f"{composition}/both", f"{composition}/none"))
    # Only compositions that carry other domains' samples can suffer from them; the last one carries most.
    last = list(flips)[-1] if flips else None
    return {"cells": table, "flips": flips, "flip": flips[last] | {"composition": last} if last else None}


def _flip(without: dict[str, Any], with_both: dict[str, Any], gap: dict[str, Any]) -> dict[str, Any]:
    """Say whether isolation turned a loss into a gain: both signs resolved, opposite ways."""
    lost, won = without["verdict"] == "resolved negative", with_both["verdict"] == "resolved positive"
    if without["low"] is None:
        verdict = "not tested (one seed)"
    elif lost and won:
        verdict = "isolation flipped the sign"
    elif gap["verdict"] == "resolved positive":
        verdict = "isolation helped but did not flip the sign"
    elif gap["verdict"] == "resolved negative":
        verdict = "isolation hurt"
    else:
        verdict = "isolation made no resolved difference"
    return {"without": without, "with": with_both, "difference": gap, "verdict": verdict}
