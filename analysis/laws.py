"""Fit the loss of each composition's runs, and test each fit on the largest runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.study import StudyResult
from unisc.errors import InputError
from unisc.scaling import Backtest, Bootstrap, Contract, Fit, Interval, bootstrap, fit, leave_largest_out, summarise

LEVEL = 0.90
# The expected loss, under the oracle's probabilities, has no label noise; realised loss is what real logs allow.
LOSSES = ("eval/exposed/log_loss_expected", "eval/exposed/log_loss")


@dataclass(frozen=True, slots=True)
class Curve:
    """Hold one composition's law: runs (n,), fit, intervals and backtest; parts that could not be made are None."""

    composition: str
    metric: str
    params: np.ndarray
    examples: np.ndarray
    loss: np.ndarray
    fit: Fit
    boot: Bootstrap | None
    backtest: Backtest | None
    num_seeds: int
    num_cells: int

    @property
    def floor(self) -> Interval | None:
        """The profile interval of E alone."""
        return self.boot.profile("E", LEVEL) if self.boot else None

    @property
    def two_axes(self) -> bool:
        return self.fit.law.num_axes == 2

    def predict(self, params, examples) -> np.ndarray:
        """Return the law's loss (n,) at sizes (n,)."""
        return self.fit.predict(params, examples) if self.two_axes else self.fit.predict(params)

    def point(self, params: float, examples: float) -> tuple[float, ...]:
        """Return a size in the law's axes."""
        return (params, examples) if self.two_axes else (params,)


def loss_metric(result: StudyResult) -> str | None:
    """Return the loss to fit: the first of `LOSSES` that every run of the grid has."""
    runs = result.grid().runs
    for name in LOSSES:
        if name in runs and len(runs[name]) and np.isfinite(runs[name]).all():
            return name
    return None


def fit_curves(result: StudyResult, draws: int = 500) -> tuple[dict[str, Curve], dict[str, str]]:
    """Fit every composition of the grid; return curves by composition, and the reason where there is none."""
    metric = loss_metric(result)
    curves, reasons = {}, {}
    for name in result.compositions:
        if metric is None:
            reasons[name] = f"no loss ({' or '.join(LOSSES)}) was recorded for every run of the grid"
            continue
        try:
            curves[name] = _curve(result, name, metric, draws)
        except InputError as error:
            reasons[name] = str(error)
    return curves, reasons


def _curve(result: StudyResult, composition: str, metric: str, draws: int) -> Curve:
    grid = result.grid()
    grid = grid.select(grid.runs["composition"] == composition)
    law = "chinchilla"
    if len(np.unique(grid.runs["num_examples"])) < 2 or len(_cells(grid.runs)) < 5:
        # One data size, or a handful of cells: a law in model size alone, at the largest data.
        law, grid = "power_floor", grid.matched()
    runs = grid.runs
    params, examples, loss = runs["num_params_dense"], runs["num_examples"], runs[metric]
    if law == "power_floor" and (sizes := len(np.unique(params))) < 3:
        raise InputError(f"{sizes} model sizes at full data cannot show a floor, an amplitude and an exponent; run at least 3")
    contract = Contract(metric=metric)
    cells = np.unique(np.stack([params, examples]), axis=1, return_inverse=True)[1].ravel()
    num_cells = int(cells.max()) + 1
    two_axes = law == "chinchilla"
    columns = (params, examples, loss) if two_axes else (params, loss)
    found = fit(law, *columns, contract=contract)
    spare = num_cells > len(found.law.names)
    boot = bootstrap(found, clusters=cells, draws=draws) if spare else None
    backtest = None
    if spare:
        try:
            holdout = "either" if two_axes else "size"
            backtest = leave_largest_out(law, *columns, contract=contract, holdout=holdout, clusters=cells, draws=draws)
        except InputError:
            backtest = None  # Too small a table: the page says so where the held-out section would be.
    return Curve(
        composition=composition,
        metric=metric,
        params=params,
        examples=examples,
        loss=loss,
        fit=found,
        boot=boot,
        backtest=backtest,
        num_seeds=len(np.unique(runs["seed"])),
        num_cells=num_cells,
    )


def unfitted(reason: str) -> dict[str, Any]:
    """Return empty parameter entries of a composition without a law, so that the keys of `summary.json` always exist."""
    missing = {"value": None, "low": None, "high": None, "level": LEVEL, "method": "none", "note": f"not fitted: {reason}"}
    return {name: dict(missing) for name in ("E", "A", "B", "alpha", "beta")}


def _cells(runs) -> np.ndarray:
    return np.unique(np.stack([runs["num_params_dense"], runs["num_examples"]]), axis=1).T


def describe(curve: Curve, floor: float | None) -> dict[str, Any]:
    """Return a fit's entry in `summary.json`; `floor` is the oracle's loss, tested against the interval of E."""
    top = (float(curve.params.max()), float(curve.examples.max()))
    targets = {
        "largest": curve.point(*top),
        "10x_params": curve.point(top[0] * 10, top[1]),
        "10x_examples": curve.point(top[0], top[1] * 10),
        "10x_both": curve.point(top[0] * 10, top[1] * 10),
    }
    if not curve.two_axes:
        targets = {name: targets[name] for name in ("largest", "10x_params")}
    columns = list(zip(*targets.values(), strict=True))
    found = curve.boot.predictions(*columns, level=LEVEL) if curve.boot else None
    values = [one.to_json() for one in found] if found else [{"value": float(v)} for v in curve.fit.predict(*columns)]
    entry: dict[str, Any] = dict(summarise(curve.fit, curve.boot, LEVEL))
    for name in ("B", "beta"):
        entry.setdefault(name, {"value": None, "low": None, "high": None, "note": "not fitted: one data size"})
    entry |= curve.fit.to_json() | {"num_cells": curve.num_cells, "num_seeds": curve.num_seeds}
    entry["predictions"] = dict(zip(targets, values, strict=True))
    entry["floor"] = _floor(curve, floor)
    return entry


def _floor(curve: Curve, oracle: float | None) -> dict[str, Any]:
    held: Mapping[str, Any] = {}
    intervals = {"profile": curve.floor, "bootstrap": curve.boot.interval("E", LEVEL) if curve.boot else None}
    if oracle is not None:
        held = {f"{name}_holds_oracle": interval.holds(oracle) for name, interval in intervals.items() if interval}
    return {"profile": curve.floor.to_json() if curve.floor else None, "oracle": oracle, **held}
