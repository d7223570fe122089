"""Which next runs shrink the interval of a prediction most, for what there is to spend.

A run far out pins the law near the target, a cheap one pins an exponent; which is worth more follows from the fit's own
information (see `information`), to first order and under the fitted law with the noise that its runs show. What a plan cannot
buy is a law that holds: intervals are those of the law's mean, and backtests say how far it is to be trusted out there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from unisc.errors import InputError
from unisc.scaling.candidates import Budget, Candidates
from unisc.scaling.design import Choice, choose
from unisc.scaling.fit import Fit
from unisc.scaling.information import Information, Targets, link_slopes, loss_slopes, robust_widths, target_points

MIN_GAIN = 1e-3
"""A run that takes less than this share off the variance is not worth its place in a plan."""
NOISIER = 1.3
"""A sandwich interval wider than a plan's own by this factor is said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRun:
    """Hold a run's sizes by axis, how often it is made, the FLOPs of one, and the plan's width without it over with it."""

    at: Mapping[str, float]
    repeats: int
    cost: float
    without: float | None

    def to_json(self) -> dict[str, Any]:
        """Return `at`, `repeats`, `cost` (FLOPs of one) and `without`, null where the target is lost without the run."""
        return {"at": dict(self.at), "repeats": self.repeats, "cost": self.cost, "without": self.without}


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """Hold a way to spend the budget: its runs, FLOPs, expected widths (T,) in units of the metric, and their ratio to before.

    A width is infinite, and the ratio None, where the runs leave a target unidentified; the ratio is None also where the table
    did. Over several targets it is the geometric mean.
    """

    runs: tuple[PlannedRun, ...]
    cost: float
    widths: np.ndarray
    ratio: float | None

    @property
    def num_runs(self) -> int:
        return sum(run.repeats for run in self.runs)

    def to_json(self) -> dict[str, Any]:
        """Return `num_runs`, `cost`, `widths` (null: infinite), `ratio` and `runs`."""
        widths = [float(width) if np.isfinite(width) else None for width in self.widths]
        runs = [run.to_json() for run in self.runs]
        return {"num_runs": self.num_runs, "cost": self.cost, "widths": widths, "ratio": self.ratio, "runs": runs}


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Hold the chosen runs beside other ways to spend the same budget.

    `targets` (X, T) are sizes, `predictions` (T,) and `before` (T,) the metric there and the width of its interval now;
    `robust` (T,) is that width where runs need not share one noise (new runs are taken to be as noisy as the rest). `others`
    has `largest` (the affordable run of the best predicted metric, alone) and `repeats` (the one run of the table whose
    repetition helps most; missing where none is affordable, or costs were given as a column).
    """

    fit: Fit
    budget: Budget
    targets: np.ndarray
    level: float
    predictions: np.ndarray
    before: np.ndarray
    robust: np.ndarray
    chosen: Option
    others: Mapping[str, Option]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return `law`, `level`, `budget`, `targets`, `plan`, `others` and `notes`.

        A target is `at`, `value`, and the widths `before`, `before_robust`, `after`; null is infinite.
        """
        budget = {"amount": self.budget.amount, "unit": self.budget.unit, "flops": self.budget.flops}
        widths = {"before": self.before, "before_robust": self.robust, "after": self.chosen.widths}
        targets = [
            {"at": dict(zip(self.fit.labels, map(float, at), strict=True)), "value": float(self.predictions[place])}
            | {name: float(values[place]) if np.isfinite(values[place]) else None for name, values in widths.items()}
            for place, at in enumerate(self.targets.T)
        ]
        return {
            "law": self.fit.law.name,
            "level": self.level,
            "budget": budget,
            "targets": targets,
            "plan": self.chosen.to_json() | {"amount": self.chosen.cost / self.budget.flops_per_unit},
            "others": {name: option.to_json() for name, option in self.others.items()},
            "notes": list(self.notes),
        }


def plan(
    fit: Fit,
    *,
    targets: Targets,
    budget: Budget | float,
    candidates: Candidates | None = None,
    level: float = 0.90,
    max_runs: int = 16,
    max_repeats: int = 3,
    min_gain: float = MIN_GAIN,
) -> Plan:
    """Choose the next runs whose expected interval at the targets is shortest, within a budget (a number is FLOPs).

    `max_runs` bounds their number, `max_repeats` how often one is repeated: seeds average their own noise, not the
    law's lack of fit, of which this plan knows nothing.

    Raises:
      InputError: no target, no affordable candidate, or as many parameters as runs.
    """
    budget = budget if isinstance(budget, Budget) else Budget(amount=float(budget))
    for name, value in (("max_runs", max_runs), ("max_repeats", max_repeats)):
        if value < 1:
            raise InputError(f"{name} is {value}; a plan has at least 1 run")
    if not 0 < level < 1:
        raise InputError(f"level is {level}; give one between 0 and 1, such as 0.9")
    at = target_points(fit, targets)
    candidates = Candidates.grid(fit) if candidates is None else candidates
    known, aims = Information.of(fit), loss_slopes(fit, at)
    before = known.widths(aims, level)
    near = candidates.cost <= budget.flops
    if not near.any():
        least = candidates.cost.min() / budget.flops_per_unit
        raise InputError(f"budget: {budget.amount:g} {budget.unit} pay for no run, the cheapest costs {least:.3g}; raise it")
    axes, cost = candidates.axes[:, near], candidates.cost[near]
    slopes = link_slopes(fit, axes) / candidates.noise[near, None]

    def widths_of(rows: np.ndarray, times: np.ndarray) -> np.ndarray:
        return known.with_runs(rows, times).widths(aims, level)

    def option(counts: np.ndarray, sizes: np.ndarray, price: np.ndarray, rows: np.ndarray) -> Option:
        used = np.flatnonzero(counts)
        after, runs = widths_of(rows[used], counts[used]), []
        for run in used:
            row = dict(zip(fit.labels, map(float, sizes[:, run]), strict=True))
            lost = _ratio(widths_of(rows[used], np.where(used == run, 0, counts[used])), after)
            runs.append(PlannedRun(at=row, repeats=int(counts[run]), cost=float(price[run]), without=lost))
        runs.sort(key=lambda run: -run.cost)
        return Option(runs=tuple(runs), cost=float(counts @ price), widths=after, ratio=_ratio(after, before))

    counts = choose(Choice(slopes, cost, budget.flops, max_runs, max_repeats, min_gain), known.matrix, aims)
    chosen = option(counts, axes, cost, slopes)
    best = int(np.argmin(fit.law.predict(fit.theta[None], axes)[0]))
    others = {"largest": option(np.eye(len(cost), dtype=int)[best], axes, cost, slopes)}
    if candidates.table_cost is not None and (paid := candidates.table_cost <= budget.flops).any():
        own, price = fit.problem.axes[:, paid], candidates.table_cost[paid]
        rows = link_slopes(fit, own) / fit.problem.scale[paid, None]
        times = np.minimum(budget.flops // np.maximum(price, 1e-300), max_runs).astype(int)
        tried = [np.log(widths_of(rows[run : run + 1], times[run : run + 1]) + 1e-300) for run in range(len(price))]
        best = int(np.argmin([widths.mean() for widths in tried]))
        others["repeats"] = option(np.where(np.arange(len(price)) == best, times, 0), own, price, rows)
    predictions = fit.contract.to_metric(fit.law.predict(fit.theta[None], at)[0])
    return Plan(
        fit=fit,
        budget=budget,
        targets=at,
        level=level,
        predictions=predictions,
        before=before,
        robust=(robust := robust_widths(fit, aims, level)),
        chosen=chosen,
        others=others,
        notes=_notes(fit, at, before, robust, chosen, max_runs),
    )


def _ratio(widths: np.ndarray, base: np.ndarray) -> float | None:
    """Return the geometric mean of widths over others; None where one is infinite, 1 where there is no noise at all."""
    if not (np.isfinite(widths).all() and np.isfinite(base).all()):
        return None
    return float(np.exp(np.mean(np.log(np.maximum(widths, 1e-300) / np.maximum(base, 1e-300)))))


def _notes(fit: Fit, at: np.ndarray, before: np.ndarray, robust: np.ndarray, chosen: Option, max_runs: int) -> tuple[str, ...]:
    notes = []
    spread = float(np.ptp(fit.contract.to_metric(fit.problem.loss)))
    for place, sizes in enumerate(at.T):
        where = ", ".join(f"{label}={size:g}" for label, size in zip(fit.labels, sizes, strict=True))
        if np.isinf(chosen.widths[place]):
            notes.append(f"{where}: not identified by this table, nor with the planned runs (infinite variance)")
        elif np.isinf(before[place]):
            notes.append(f"{where}: not identified by this table (infinite variance); the planned runs identify it")
        elif before[place] > spread:
            notes.append(f"{where}: the interval is wider than the table's whole range; its width is an order of magnitude")
        if np.isfinite(before[place]) and robust[place] > NOISIER * before[place]:
            notes.append(
                f"{where}: the runs that this prediction rests on scatter more than the rest, its interval is "
                f"{robust[place] / before[place]:.1f} times as wide as planned with; give runs' standard errors to weigh them"
            )
    if chosen.num_runs == max_runs:
        notes.append(f"the plan has all of its {max_runs} runs; more could do better, raise max_runs")
    notes += [f"{bound}: the plan trusts a fit that met it" for bound in fit.certificate.bounds_hit]
    return tuple(notes)
