"""Judge a law by what it predicts: fit without the largest runs, then predict them beside naive baselines."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from unisc.errors import InputError
from unisc.scaling.bootstrap import bootstrap
from unisc.scaling.contract import Contract
from unisc.scaling.fit import Fit, fit, law_named
from unisc.scaling.table import check_table

Holdout = Literal["size", "data", "either", "both", "compute"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Hold signed and absolute errors of one method on the held-out runs, in loss units (prediction minus measurement)."""

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


def held_out(axes: np.ndarray, holdout: Holdout) -> np.ndarray:
    """Mark (n,) the runs of the largest size, the largest data, either, both, or the largest product of the axes (X, n)."""
    largest = axes >= axes.max(axis=1, keepdims=True) * (1 - 1e-9)
    if holdout == "compute":
        product = np.log(axes).sum(axis=0)
        return product >= product.max() - 1e-9
    if holdout in ("size", "data"):
        index = 0 if holdout == "size" else 1
        if index >= len(axes):
            raise InputError("this table has one axis; hold out its largest with holdout='size'")
        return largest[index]
    if holdout not in ("either", "both"):
        raise InputError(f"holdout {holdout!r} is unknown; choose size, data, either, both or compute")
    return np.any(largest, axis=0) if holdout == "either" else np.all(largest, axis=0)


def leave_largest_out(
    law: str,
    *columns,
    contract: Contract | None = None,
    holdout: Holdout = "either",
    held=None,
    clusters=None,
    draws: int = 500,
    level: float = 0.90,
    seed: int = 0,
) -> Backtest:
    """Fit a law without the largest runs and predict them; columns as in `fit`, `held` (n,) overrides the choice of runs.

    Baselines: `carry_forward` (the loss of the training run whose sizes are nearest below in compute), `log_linear` and `mean`.
    The prediction interval adds resampled training residuals to the bootstrap of the mean, so it is for one new run.
    """
    contract = contract or Contract()
    form = law_named(law)
    labels_of_axes = (
        form.axes if len(form.axes) == len(columns) - 1 else tuple(f"axis {i + 1}" for i in range(len(columns) - 1))
    )
    axes, _ = check_table(form, columns, labels_of_axes, contract)
    loss = np.asarray(columns[-1], float)
    mask = held_out(axes, holdout) if held is None else np.asarray(held, bool)
    if not mask.any() or mask.all():
        raise InputError(f"holding out {int(mask.sum())} of {len(loss)} runs leaves nothing to test; choose another holdout")
    train, test = axes[:, ~mask], axes[:, mask]
    fitted = fit(law, *train, loss[~mask], contract=contract)
    plain = dataclasses.replace(contract, space="loss", loss="squared")
    linear = fit("log_linear", *train, loss[~mask], contract=plain)
    predictions = {
        law: fitted.predict(*test),
        "carry_forward": _carry_forward(train, loss[~mask], test),
        "log_linear": linear.predict(*test),
        "mean": np.full(int(mask.sum()), loss[~mask].mean()),
    }
    measured = loss[mask]
    scores = {name: _score(values, measured) for name, values in predictions.items()}
    low = high = coverage = None
    labels = None if clusters is None else np.asarray(clusters)[~mask]
    enough = fitted.num_runs > fitted.num_free and (labels is None or len(np.unique(labels)) >= 3)
    if draws and enough:
        low, high = _interval(fitted, test, labels, draws, level, seed)
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


def _carry_forward(train: np.ndarray, loss: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Repeat, for each test point, the mean loss of the largest training sizes not above it on any axis."""
    below = np.all(train[:, :, None] <= test[:, None, :] * (1 + 1e-9), axis=0)
    compute = np.log(train).sum(axis=0)
    out = np.empty(test.shape[1])
    for point in range(test.shape[1]):
        usable = below[:, point] if below[:, point].any() else np.ones(len(loss), bool)
        top = compute[usable].max()
        out[point] = loss[usable & (compute >= top - 1e-9)].mean()
    return out


def _score(predicted: np.ndarray, measured: np.ndarray) -> Score:
    error = predicted - measured
    return Score(
        bias=float(error.mean()), mean_absolute=float(np.abs(error).mean()), relative=float(np.abs(error / measured).mean())
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
