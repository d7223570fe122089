"""Judge a law by what it predicts: fit without the largest runs, then predict them beside naive baselines."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from unisc.errors import InputError
from unisc.fit_options import Holdout
from unisc.scaling.bootstrap import bootstrap
from unisc.scaling.contract import Contract
from unisc.scaling.fit import Fit, axis_labels, fit, law_named
from unisc.scaling.laws import Law
from unisc.scaling.table import check_table

HOLDOUTS: tuple[Holdout, ...] = get_args(Holdout)


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Hold signed and absolute errors of one method on the held-out runs, in units of the metric (prediction minus run)."""

    bias: float
    mean_absolute: float
    relative: float

    def to_json(self) -> dict[str, float]:
        """Return bias, mean absolute error and mean relative error."""
        return {"bias": self.bias, "mean_absolute": self.mean_absolute, "relative": self.relative}


@dataclass(frozen=True, kw_only=True, slots=True)
class Backtest:
    """Hold the held-out runs (h,), each method's predictions (h,), scores, and the prediction interval's coverage.

    `held` (n,) marks the held-out runs in the table; `low` and `high` are the law's prediction interval for a single new run.
    `coverage` is None where too few training runs allow an interval.
    """

    fit: Fit
    held: np.ndarray
    measured: np.ndarray
    predictions: Mapping[str, np.ndarray]
    scores: Mapping[str, Score]
    low: np.ndarray | None
    high: np.ndarray | None
    level: float
    coverage: float | None
    holdout: str

    @property
    def beats_baselines(self) -> bool:
        """Whether the law's mean absolute error is below every baseline's."""
        law, *others = self.scores.values()
        return all(law.mean_absolute < other.mean_absolute for other in others)

    def to_json(self) -> dict[str, Any]:
        """Return counts, scores by method, coverage and the law fitted without the held-out runs."""
        return {
            "holdout": self.holdout,
            "num_train": self.fit.num_runs,
            "num_held": len(self.measured),
            "scores": {name: score.to_json() for name, score in self.scores.items()},
            "beats_baselines": self.beats_baselines,
            "coverage": self.coverage,
            "level": self.level,
            "fit": self.fit.params,
        }


def held_out(axes: np.ndarray, holdout: Holdout, *, count: int = 1, law: type[Law] = Law) -> np.ndarray:
    """Mark (n,) the runs of the `count` largest sizes, data sizes, either, both, or budgets (products of size and data)."""
    if holdout not in HOLDOUTS:
        raise InputError(f"holdout {holdout!r} is unknown; choose {', '.join(HOLDOUTS)}")
    size, data = law.size_and_data(axes)
    if holdout == "data" and len(axes) < 2:
        raise InputError("this table has one axis; hold out its largest with holdout='size'")
    if holdout in ("either", "both"):
        largest = [_largest(axis, count) for axis in ((size, data) if len(axes) > 1 else (size,))]
        return np.any(largest, axis=0) if holdout == "either" else np.all(largest, axis=0)
    return _largest({"size": size, "data": data, "compute": size * data}[holdout], count)


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    levels = np.log(values)
    ordered = np.sort(levels)[::-1]
    distinct = ordered[np.append(True, ordered[:-1] - ordered[1:] > 1e-9)]
    return levels >= distinct[min(count, len(distinct)) - 1] - 1e-9


def leave_largest_out(
    law: str,
    *columns,
    contract: Contract | None = None,
    holdout: Holdout = "either",
    count: int = 1,
    held=None,
    clusters=None,
    weights=None,
    se=None,
    fixed: Mapping[str, float] | None = None,
    labels: Sequence[str] | None = None,
    draws: int = 500,
    level: float = 0.90,
    seed: int = 0,
) -> Backtest:
    """Fit a law without the largest runs and predict them; columns as in `fit`, `held` (n,) overrides the choice of runs.

    Baselines: `carry_forward` (the metric of the training run whose sizes are nearest below in compute), `log_linear` and
    `mean`. The prediction interval adds resampled training residuals to the bootstrap of the mean: it is for one new run.
    """
    contract = contract or Contract()
    form = law_named(law)
    labels = axis_labels(form, len(columns) - 1, labels)
    axes, _ = check_table(form, columns, labels, contract)
    metric = np.asarray(columns[-1], float)
    mask = held_out(axes, holdout, count=count, law=form) if held is None else np.asarray(held, bool)
    if not mask.any() or mask.all():
        raise InputError(f"holding out {int(mask.sum())} of {len(metric)} runs leaves nothing to test; choose another holdout")
    keep = ~mask
    train, test = axes[:, keep], axes[:, mask]
    weights, se = (None if of is None else np.asarray(of, float)[keep] for of in (weights, se))
    fitted = fit(law, *train, metric[keep], contract=contract, weights=weights, se=se, labels=labels, fixed=fixed)
    predictions = {
        law: fitted.predict(*test),
        "carry_forward": _carry_forward(form, train, metric[keep], test),
        "log_linear": _log_linear(train, metric[keep], test, contract),
        "mean": np.full(int(mask.sum()), metric[keep].mean()),
    }
    measured = metric[mask]
    scores = {name: _score(values, measured) for name, values in predictions.items()}
    low = high = coverage = None
    of_train = None if clusters is None else np.asarray(clusters)[keep]
    enough = fitted.num_runs > fitted.num_free and (of_train is None or len(np.unique(of_train)) >= 3)
    if draws and enough:
        low, high = _interval(fitted, test, of_train, draws, level, seed)
        coverage = float(np.mean((low <= measured) & (measured <= high)))
    return Backtest(
        fit=fitted,
        held=mask,
        measured=measured,
        predictions=predictions,
        scores=scores,
        low=low,
        high=high,
        level=level,
        coverage=coverage,
        holdout=holdout if held is None else "given",
    )


def _log_linear(train: np.ndarray, metric: np.ndarray, test: np.ndarray, contract: Contract) -> np.ndarray:
    # An origin without examples has no logarithm; there the line is in the others.
    usable = (train > 0).all(axis=1) & (test > 0).all(axis=1) & (np.ptp(train, axis=1) > 0)
    if not usable.any():
        return np.full(test.shape[1], metric.mean())
    plain = dataclasses.replace(contract, space="loss", loss="squared")
    labels = tuple(f"axis {i}" for i in np.flatnonzero(usable))
    return fit("log_linear", *train[usable], metric, contract=plain, labels=labels).predict(*test[usable])


def _carry_forward(law: type[Law], train: np.ndarray, metric: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Repeat, for each test point, the mean metric of the largest training sizes not above it on any axis."""
    below = np.all(train[:, :, None] <= test[:, None, :] * (1 + 1e-9), axis=0)
    size, data = law.size_and_data(train)
    compute = np.log(size * data)
    out = np.empty(test.shape[1])
    for point in range(test.shape[1]):
        usable = below[:, point] if below[:, point].any() else np.ones(len(metric), bool)
        top = compute[usable].max()
        out[point] = metric[usable & (compute >= top - 1e-9)].mean()
    return out


def _score(predicted: np.ndarray, measured: np.ndarray) -> Score:
    error = predicted - measured
    size = np.maximum(np.abs(measured), 1e-300)
    return Score(
        bias=float(error.mean()), mean_absolute=float(np.abs(error).mean()), relative=float((np.abs(error) / size).mean())
    )


def _interval(fitted: Fit, test: np.ndarray, clusters, draws: int, level: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    boot = bootstrap(fitted, clusters=clusters, draws=draws, seed=seed)
    link = fitted.contract.link
    means = fitted.law.predict(boot.draws, test)
    low, high = boot.band(*test, level=level)
    residual = -fitted.problem.residuals(fitted.theta[None])[0] * fitted.problem.scale
    # Residuals of a fit are smaller than errors of a new run by the parameters it spent.
    residual = residual * np.sqrt(fitted.num_runs / max(fitted.num_runs - fitted.num_free, 1))
    noise = np.random.default_rng(seed + 1).choice(residual, size=means.shape)
    new = fitted.contract.to_metric(link.inverse(link(means) + noise))
    ends = np.quantile(new, [(1 - level) / 2, (1 + level) / 2], axis=0)
    # The band is wider only where the training runs leave the law open.
    return np.minimum(ends[0], low), np.maximum(ends[1], high)
