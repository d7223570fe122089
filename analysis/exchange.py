"""The composition law of a study: what a sample of each kind is worth in exposed ones, and how that changes with size.

The samples of a composition are split into kinds by its shares at full data. Exposed candidates are the currency. Candidates
that were not shown are of the kind `unexposed` where they are plain negatives and `attributed` where events from elsewhere
label them; pseudo requests are `searchified`. Every composition mixes its kinds in fixed shares, whatever the data size, so a
rate is that of the kind in this mix; a law of diminishing worth within one kind could not be told from it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import ndtri, stdtrit

from analysis.laws import LEVEL, loss_metric
from analysis.study import StudyResult
from unisc.errors import InputError
from unisc.scaling import Bootstrap, Contract, Fit, Interval, bootstrap, fit, leave_largest_out
from unisc.scaling.nested import cell_means, nested_test, product_test
from unisc.scaling.profile import profiles
from unisc.scaling.solve import solve

KINDS = ("exposed", "unexposed", "attributed", "searchified")
FULL = "eval/full/oracle_clicks@5"
ISOLATIONS = ("both", "none")


@dataclass(frozen=True, slots=True)
class Rates:
    """Hold the fitted laws of one metric and isolation: additive and interacting, on the means of (size, data) cells."""

    metric: str
    isolation: str
    additive: Fit
    interacting: Fit
    boot: Bootstrap
    slopes: Mapping[str, Interval]
    num_runs: int
    num_seeds: int


def shares(study: StudyResult) -> dict[str, np.ndarray]:
    """Return each composition's share (4,) of every kind of `KINDS`, by the study's volumes, else by its runs.

    Raises:
      InputError: a composition is unknown, or the base was not run.
    """
    volumes = study.facts.get("volumes") or {}
    runs = study.matched().runs
    counts = {}
    for name in study.grid().compositions:
        if name not in KINDS:
            raise InputError(f"composition {name!r} is no mix of {', '.join(KINDS)}")
        known = volumes.get(name, {}).get("samples")
        mine = runs["composition"] == name
        if known or mine.any():
            counts[name] = float(known or np.median(runs["num_examples"][mine]))
    if "exposed" not in counts or len(counts) < 2:
        raise InputError("rates of exchange need runs on exposed samples and on at least one other composition at full data")
    exposed, whole = counts["exposed"], {}
    for name, count in counts.items():
        added = np.zeros(len(KINDS))
        added[0] = exposed
        if name == "searchified":
            # What searchification adds is above the composition that it is built on.
            before = counts.get("attributed", counts.get("unexposed", exposed))
            added[2], added[3] = before - exposed, count - before
        elif name != "exposed":
            added[KINDS.index(name)] = count - exposed
        whole[name] = np.maximum(added, 0.0) / added.sum()
    return whole


def fit_rates(study: StudyResult, draws: int = 300) -> tuple[list[Rates], dict[str, str]]:
    """Fit both laws to the calibrated loss on shown lists and to the true clicks on full ones; return reasons where not."""
    found: list[Rates] = []
    reasons: dict[str, str] = {}
    for metric in (loss_metric(study), FULL):
        for isolation in ISOLATIONS:
            try:
                found.append(_rates(study, metric, isolation, draws))
            except InputError as error:
                reasons[f"{name_of(metric)}, {isolation}"] = str(error)
    return found, reasons


def name_of(metric: str | None) -> str:
    """Return a metric's name without its place."""
    return "no loss" if metric is None else metric.rsplit("/", 1)[-1]


def _rows(study: StudyResult, isolation: str) -> Mapping[str, np.ndarray]:
    """Return the runs of the law: the grid and equal volumes with isolation on, the ablation and the grid's with another.

    A size that only one seed has trained is left out where others have more: it is there for the low end of other laws.
    """
    runs = study.runs
    keep = np.isin(runs["study"], ["grid", "volume", "ablation"]) & (runs["isolation"] == isolation)
    seeds = {name: len(np.unique(runs["seed"][keep & (runs["size"] == name)])) for name in np.unique(runs["size"][keep])}
    if sum(count > 1 for count in seeds.values()) > 1:
        keep &= np.isin(runs["size"], [name for name, count in seeds.items() if count > 1])
    return {name: column[keep] for name, column in runs.items()}


def _rates(study: StudyResult, metric: str | None, isolation: str, draws: int) -> Rates:
    runs = _rows(study, isolation)
    if metric is None or metric not in runs:
        raise InputError(f"no run recorded {name_of(metric)}")
    runs = {name: column[np.isfinite(runs[metric])] for name, column in runs.items()}
    mix = shares(study)
    if not len(runs["size"]) or not set(mix) <= set(runs["composition"].tolist()):
        raise InputError(f"with isolation {isolation!r} not every composition was run")
    if len(np.unique(runs["num_examples"][runs["composition"] == "exposed"])) < 2 or len(np.unique(runs["size"])) < 2:
        raise InputError(
            f"with isolation {isolation!r} there are not two data sizes and two model sizes; run shares of the data"
        )
    counts = np.array([mix[name] * count for name, count in zip(runs["composition"], runs["num_examples"], strict=True)]).T
    present = [index for index in range(len(KINDS)) if counts[index].any()]
    labels = ["N", *(KINDS[index] for index in present)]
    cell = np.char.add(np.char.add(runs["size"], runs["composition"]), runs["num_examples"].astype(int).astype(str))
    columns = cell_means(runs["num_params_dense"], *counts[present], runs[metric], by=cell)
    contract = Contract(loss="squared", metric=name_of(metric), data_counted=", ".join(labels[1:]))
    if metric == FULL:
        contract = replace(contract, better="higher", lower=0.0, upper=1.0)
    options: dict[str, Any] = {"contract": contract, "labels": labels}
    additive = fit("composition", *columns, **options)
    start = np.concatenate([list(additive.params.values()), np.zeros(len(present) - 1)])
    interacting = fit("composition_by_size", *columns, starts=start, **options)
    boot = bootstrap(additive, draws=draws)
    slopes = [f"k_{label}" for label in labels[2:]]
    traced = {name: found.interval for name, found in zip(slopes, profiles(interacting, slopes, level=LEVEL), strict=True)}
    return Rates(metric, isolation, additive, interacting, boot, traced, len(runs["size"]), len(np.unique(runs["seed"])))


def summarise(study: StudyResult, found: list[Rates], reasons: Mapping[str, str]) -> dict[str, Any]:
    """Return the `composition_law` section of `summary.json`."""
    if not found:
        return {"reason": next(iter(reasons.values()), "no composition was run")}
    section: dict[str, Any] = {"currency": "exposed", "level": LEVEL, "not_fitted": dict(reasons), "laws": []}
    for one in found:
        section["laws"].append(_entry(study, one))
    return section | {"size_by_volume": _size_by_volume(study)}


def _entry(study: StudyResult, one: Rates) -> dict[str, Any]:
    kinds = one.additive.labels[2:]
    seeds = _seed_intervals(study, one)
    sizes = one.additive.problem.axes[0]
    rates = {}
    for index, kind in enumerate(kinds):
        rate = one.boot.interval(f"w_{kind}", LEVEL)
        rates[kind] = rate.to_json() | {
            "profile": one.boot.profile(f"w_{kind}", LEVEL).to_json(),
            "seeds": seeds[index].to_json() if seeds else None,
            "verdict": worth(rate),
            "change_per_e": one.slopes[f"k_{kind}"].to_json(),
        }
    return {
        "metric": name_of(one.metric),
        "isolation": one.isolation,
        "rates": rates,
        "parameters": one.additive.params,
        "sizes": [float(sizes.min()), float(sizes.max())],
        "interaction": nested_test(one.additive, one.interacting).to_json(),
        "backtest": _backtest(one),
        "starts_agreeing": one.additive.certificate.agreement,
        "bounds_hit": list(one.additive.certificate.bounds_hit),
        "num_runs": one.num_runs,
        "num_cells": one.additive.num_runs,
        "num_seeds": one.num_seeds,
        "contract": one.additive.contract.to_json(),
    }


def worth(rate: Interval) -> str:
    """Say in words what an interval of an exchange rate resolves, against zero and against one exposed sample."""
    low = -np.inf if rate.low is None else rate.low
    high = np.inf if rate.high is None else rate.high
    if high < 0:
        return "harms"
    if low > 1:
        return "worth more than an exposed sample"
    if low > 0:
        return (
            "helps, worth less than an exposed sample" if high < 1 else "helps; whether as much as an exposed one, unresolved"
        )
    return "worth less than an exposed sample; whether it helps, unresolved" if high < 1 else "unresolved"


def _seed_intervals(study: StudyResult, one: Rates) -> list[Interval] | None:
    """Return the rates' intervals over training seeds alone: cells of several seeds are averaged over seeds drawn again."""
    runs, additive = _rows(study, one.isolation), one.additive
    keep = np.isfinite(runs[one.metric])
    seed, value = runs["seed"][keep], runs[one.metric][keep]
    names = [np.char.add(runs["size"][keep], runs["composition"][keep]), runs["num_examples"][keep].astype(int).astype(str)]
    cell = np.unique(np.char.add(*names), return_inverse=True)[1]
    several = np.unique(seed)[[len(np.unique(cell[seed == s])) > 1 for s in np.unique(seed)]]
    if len(several) < 3:
        return None
    draws, groups = 300, len(several)
    times = np.random.default_rng(0).multinomial(groups, np.full(groups, 1 / groups), size=draws)
    weight = times[:, np.searchsorted(several, np.where(np.isin(seed, several), seed, several[0]))].astype(float)
    onto = np.eye(additive.num_runs)[cell]
    total = weight @ onto
    # A cell none of whose seeds was drawn keeps its own mean: what it lacks is a repetition, not a value.
    means = np.where(total > 0, (weight * value) @ onto / np.maximum(total, 1), value @ onto / onto.sum(axis=0))
    problem = type(additive.problem)(
        additive.law, additive.problem.axes, additive.contract.to_loss(means), additive.contract, additive.problem.scale
    )
    start = np.tile(additive.theta, (draws, 1))
    solved = solve(problem, start, additive.lower, additive.upper, additive.weight, damping=1e-3)
    natural, tail = additive.law.natural(solved.theta), 0.5 + LEVEL / 2
    # From few seeds an estimate is Student's, and resampling them shows less of its spread than there is.
    wider = float(stdtrit(groups - 1, tail) * np.sqrt(groups / (groups - 1)))
    found = []
    for kind in additive.labels[2:]:
        here = additive.params[f"w_{kind}"]
        drawn = natural[:, additive.law.names.index(f"w_{kind}")]
        half = wider * float(np.subtract(*np.quantile(drawn, [tail, 1 - tail]))) / (2 * float(ndtri(tail)))
        method = f"seeds drawn again ({groups}), Student t"
        found.append(Interval(value=here, low=here - half, high=here + half, level=LEVEL, method=method))
    return found


def _backtest(one: Rates) -> dict[str, Any] | None:
    """Predict the largest size by both laws fitted without it; None where a law cannot, or predicts no finite loss."""
    errors: dict[str, Any] = {}
    for name, law in (("additive", one.additive), ("interacting", one.interacting)):
        columns = [*law.problem.axes, law.contract.to_metric(law.problem.loss)]
        try:
            test = leave_largest_out(law.law.name, *columns, contract=law.contract, labels=law.labels, holdout="size", draws=0)
        except InputError:
            return None
        errors[name] = test.scores[law.law.name].mean_absolute
        errors |= {"carry_forward": test.scores["carry_forward"].mean_absolute, "num_train": test.fit.num_runs}
        errors["num_held"] = len(test.measured)
    return errors if all(math.isfinite(error) for error in errors.values()) else None


def _size_by_volume(study: StudyResult) -> dict[str, Any]:
    """Return, by composition, the test of size x data size against additivity, on cell means of the loss.

    On the loss itself, where the laws are additive: what is additive there is not in its logarithm.
    """
    metric, grid, out = loss_metric(study), _rows(study, "both"), {}
    for name in study.grid().compositions if metric else ():
        mine = (grid["composition"] == name) & (grid["study"] == "grid")
        size, data, value = (grid[column][mine] for column in ("num_params_dense", "num_examples", str(metric)))
        cell = np.char.add(np.char.add(grid["size"][mine], "@"), data.astype(int).astype(str))
        try:
            out[name] = product_test(*cell_means(size, data, value, by=cell)).to_json()
        except InputError as error:
            out[name] = {"reason": str(error)}
    return out
