"""Paired differences of a sweep on real logs: composition and isolation at every size, with intervals.

A difference is taken between runs of one seed on the same test lists; its 90 % interval covers training seeds and, for MRR, the
draw of test lists. It does not cover another log.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.laws import LEVEL
from analysis.study import ISOLATIONS, StudyResult, of_records
from unisc.data import manifest
from unisc.errors import InputError
from unisc.files import read_object
from unisc.scaling import Cells, contrast
from unisc.sweep.plan import run_folder
from unisc.sweep.record import read_records

FLOORS = "floors.npz"
POINTS = 100.0


@dataclass(frozen=True, slots=True)
class RealLogs:
    """Hold a sweep on real logs: its runs, each run's MRR list by list (by fingerprint), floors' MRR, samples' manifests."""

    source: str
    result: StudyResult
    mrr: Mapping[str, np.ndarray]
    floors: Mapping[str, np.ndarray]
    samples: Mapping[str, Mapping[str, Any]]


def load(root: Path) -> RealLogs:
    """Read a sweep on real logs; raises `InputError` where it is none, or no run has finished."""
    if not (root / FLOORS).is_file():
        raise InputError(f"{root}: no floors.npz, so no sweep on real logs; give the folder in which one was run")
    if not (records := read_records(root / "sweep")):
        raise InputError(f"{root / 'sweep'}: no finished run; run the sweep to its end first")
    logs = read_object(root / "logs" / manifest.NAME) or {}
    result = of_records(records, {})
    mrr = {}
    for fingerprint in result.runs["fingerprint"].tolist():
        with np.load(run_folder(root / "sweep", fingerprint) / "work" / "eval.npz") as arrays:
            mrr[fingerprint] = arrays["exposed/mrr"]
    with np.load(root / FLOORS) as arrays:
        floors = {name.partition("/")[0]: arrays[name] for name in arrays.files if name.endswith("/mrr")}
    found = {name: manifest.read(root / "samples" / name, kind="samples") for name in result.compositions}
    return RealLogs(str(logs.get("config", {}).get("source", "unknown")), result, mrr, floors, found)


def summarise(found: RealLogs) -> dict[str, Any]:
    """Return every number of the section: cells, floors, and paired differences by metric, size and comparison.

    Raises:
      InputError: fewer than two sets of samples, or no seed that every cell has.
    """
    matched = _matched(found.result)
    if len(matched.compositions) < 2:
        raise InputError("the sweep has one composition, so nothing to compare; give one with two")
    names = [f"{c}/{i}" for c in matched.compositions for i in ISOLATIONS]
    label = np.char.add(np.char.add(matched.runs["composition"], "/"), matched.runs["isolation"])
    names = [name for name in names if name in label]
    params = {size: _dense(matched, size) for size in np.unique(matched.runs["size"]).tolist()}
    sizes = sorted((s for s in params if all(_rows(matched, label, s, n).any() for n in names)), key=params.__getitem__)
    if not sizes:
        raise InputError("no size has a run of every composition and isolation; run the sweep to its end first")
    shared = [set(matched.runs["seed"][_rows(matched, label, s, n)].tolist()) for s in sizes for n in names]
    if not (seeds := sorted(int(seed) for seed in set.intersection(*shared))):
        raise InputError("no seed was run in every cell; run the sweep to its end first")

    def cell(size: str, name: str, seed: int) -> int:
        return int(np.flatnonzero(_rows(matched, label, size, name) & (matched.runs["seed"] == seed))[0])

    index = np.array([[[cell(size, name, seed) for seed in seeds] for name in names] for size in sizes])
    lists = np.stack([found.mrr[name] for name in matched.runs["fingerprint"].tolist()])[index]
    floors = np.stack(list(found.floors.values()))
    kept = np.asarray(np.isfinite(lists).all(axis=(0, 1, 2)) & np.isfinite(floors).all(axis=0))
    values = {"mrr": lists[..., kept].mean(axis=-1), "auc_roc": matched.runs["eval/exposed/auc_roc"][index]}
    grid = np.array([params[size] for size in sizes])
    comparisons = _comparisons(names, matched.compositions)
    section: dict[str, Any] = {
        "source": found.source,
        "base": matched.compositions[0],
        "num_runs": int(index.size),
        "num_seeds": len(seeds),
        "num_requests": int(kept.sum()),
        "level": LEVEL,
        "sizes": [{"size": size, "num_params_dense": params[size]} for size in sizes],
        "floors": {rule: float(each[kept].mean()) for rule, each in found.floors.items()},
        "volumes": {name: dict(m["counts"]) for name, m in found.samples.items()},
        "found": _found(found.samples[matched.compositions[0]]),
        "cells": {},
        "differences": {},
        "over_floor": [],
    }
    for metric, of in values.items():
        cells = Cells(grid, tuple(names), tuple(seeds), of, scale=POINTS)
        requests = lists[..., kept] if metric == "mrr" else None
        section["cells"][metric] = {name: of[:, column].mean(axis=1).tolist() for column, name in enumerate(names)}
        section["differences"][metric] = {
            what: [_difference(cells, requests, row, weights) for row in range(len(sizes))]
            for what, weights in comparisons.items()
        }
    section["over_floor"] = _over_floor(section, found.floors, lists, kept, names)
    section["equal_volumes"] = _equal_volumes(found)
    unsure = [
        entry["verdict"].startswith("unresolved")
        for by in section["differences"].values()
        for of in by.values()
        for entry in of
    ]
    return section | {"num_intervals": len(unsure), "num_resolved": len(unsure) - sum(unsure)}


def _found(samples: Mapping[str, Any]) -> dict[str, float]:
    """Return which share of requests has a list that holds their item, by part, where lists are proposals."""
    told = samples.get("quality", {}).items()
    return {what: float(share) for what, share in told if what.endswith("lists with their item")}


def _matched(result: StudyResult) -> StudyResult:
    """Keep the grid and the ablation on all data."""
    runs = result.runs
    whole = np.isin(runs["study"], ["grid", "ablation"]) & (runs["fraction"] >= runs["fraction"].max() - 1e-9)
    return result.select(whole)


def _rows(result: StudyResult, label: np.ndarray, size: str, name: str) -> np.ndarray:
    return (result.runs["size"] == size) & (label == name)


def _dense(result: StudyResult, size: str) -> float:
    return float(np.median(result.runs["num_params_dense"][result.runs["size"] == size]))


def _comparisons(names: Sequence[str], compositions: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return what is compared, as weights on cells: data under an isolation, isolation on data, and how one moves the other."""
    found: dict[str, dict[str, float]] = {}
    base, have = compositions[0], set(names)
    for isolation in ISOLATIONS:
        for one in compositions[1:]:
            if {f"{one}/{isolation}", f"{base}/{isolation}"} <= have:
                found[f"{one} − {base}, {isolation}"] = {f"{one}/{isolation}": 1.0, f"{base}/{isolation}": -1.0}
    for composition in compositions:
        for isolation in ISOLATIONS[1:]:
            pair = (f"{composition}/{isolation}", f"{composition}/none")
            if set(pair) <= have:
                found[f"{isolation} − none, {composition}"] = {pair[0]: 1.0, pair[1]: -1.0}
    for composition in compositions[1:]:
        four = [f"{c}/{i}" for c in (composition, base) for i in ("both", "none")]
        if set(four) <= have:
            signs = dict(zip(four, (1.0, -1.0, -1.0, 1.0), strict=True))
            found[f"({composition} − {base}), both − none"] = signs
    return found


def _difference(cells: Cells, requests: np.ndarray | None, row: int, signs: Mapping[str, float]) -> dict[str, Any]:
    weights = np.zeros(cells.means.shape)
    for name, sign in signs.items():
        weights[row, cells.column(name)] = sign
    return contrast(cells, "", weights, level=LEVEL, requests=requests).to_json() | {"num_runs": len(signs) * len(cells.seeds)}


def _over_floor(
    section: Mapping[str, Any], floors: Mapping[str, np.ndarray], lists: np.ndarray, kept: np.ndarray, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return each composition's MRR, with both modules where they were run, less the best rule's, at the largest size."""
    rule = max(section["floors"], key=section["floors"].__getitem__)
    out = []
    for composition in dict.fromkeys(name.partition("/")[0] for name in names):
        name = next(n for n in (f"{composition}/both", *names) if n in names and n.startswith(f"{composition}/"))
        column = names.index(name)
        # The rule joins as a cell without seed error, so that the difference is over the same lists.
        both = np.stack([lists[-1, column][:, kept], np.broadcast_to(floors[rule][kept], lists[-1, column][:, kept].shape)])
        cells = Cells(np.ones(1), (name, rule), tuple(range(both.shape[1])), both.mean(axis=2)[None], scale=POINTS)
        found = contrast(cells, rule, np.array([[1.0, -1.0]]), level=LEVEL, requests=both[None])
        out.append(found.to_json() | {"cell": name, "rule": rule, "num_runs": both.shape[1]})
    return out


def _equal_volumes(found: RealLogs) -> list[dict[str, Any]]:
    """Return, by composition and size, MRR on as many samples as the base has, less that of the base, both modules on."""
    runs, base = found.result.runs, found.result.compositions[0]
    whole = (runs["study"] == "grid") & (runs["fraction"] >= runs["fraction"].max() - 1e-9)
    out = []
    for composition in found.result.compositions[1:]:
        cut = (runs["study"] == "volume") & (runs["composition"] == composition)
        for size in sorted(np.unique(runs["size"][cut]).tolist(), key=lambda s: _dense(found.result, s)):
            of = [cut & (runs["size"] == size), whole & (runs["composition"] == base) & (runs["size"] == size)]
            by_seed = [dict(zip(runs["seed"][o].tolist(), runs["fingerprint"][o].tolist(), strict=True)) for o in of]
            seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
            if not seeds:
                continue
            lists = np.stack([np.stack([found.mrr[one[seed]] for seed in seeds]) for one in by_seed])
            lists = lists[..., np.isfinite(lists).all(axis=(0, 1))]
            cells = Cells(np.ones(1), (composition, base), tuple(map(int, seeds)), lists.mean(axis=2)[None], scale=POINTS)
            entry = contrast(cells, "", np.array([[1.0, -1.0]]), level=LEVEL, requests=lists[None]).to_json()
            out.append(entry | {"composition": composition, "size": size, "num_params_dense": _dense(found.result, size)})
    return out
