"""What the runs of a fit say about its parameters and predictions, to first order: no refits, so that plans can be compared.

An M-estimator's covariance is tau^2 (J' W J)^-1: J are the slopes of the predictions in the space of the residuals, and tau^2
the mean squared slope of the loss over the square of its mean bend at the residuals, which for squared loss is the residual
variance. The mean bend stands for every run: of Huber's knee most published residuals lie outside, where a single run's bend
is zero and its information is not. Where the noise differs between runs that is wrong by as much as the runs that matter are
noisier than the rest (on the digitised Chinchilla runs a factor of two): `robust_widths` lets each run speak for itself.

First order is short of a robust loss with few runs: with five a parameter and a knee at a fifth of the noise, squared errors
are 1.4 times the variance promised [1.2, 1.6], against 1.0 [0.9, 1.1] for squared loss (`benchmarks/planning.py --loss huber`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from unisc.errors import InputError
from unisc.scaling.fit import Fit

Targets = Sequence[Mapping[str, float] | Sequence[float]]
_FEW_INSIDE = 0.2
_WINDOW, _OWN_WINDOW = 0.35, 0.5  # shares of the residuals that their density at zero is read from, of all runs and by run
_SINGULAR = 1e-12  # share of the largest eigenvalue, each parameter in its own units
_TOUCHED = 1e-9  # share of a squared slope that lies where nothing is known


@dataclass(frozen=True, slots=True)
class Information:
    """Hold J' W J (P, P) of the free parameters, the noise tau^2 of a run, and the degrees of freedom it was estimated with."""

    matrix: np.ndarray
    noise: float
    degrees: int

    @classmethod
    def of(cls, fit: Fit) -> "Information":
        """Return a fit's information; raises `InputError` for as many parameters as runs, which leave no noise to judge by."""
        slopes, residual, mass, degrees = _runs(fit)
        slope, bend = _loss_slopes(fit, residual, _WINDOW)
        slope = slope * mass
        noise = float(slope @ slope) / degrees / max(float(bend.mean()) ** 2, 1e-300)
        return cls(slopes.T @ slopes, noise, degrees)

    def with_runs(self, slopes: np.ndarray, times: np.ndarray) -> "Information":
        """Return the information with more runs, of slopes (m, P) over their relative noise, each made so many times (m,)."""
        added = (slopes * times[:, None]).T @ slopes
        return Information(self.matrix + added, self.noise, self.degrees + int(times.sum()))

    def widths(self, slopes: np.ndarray, level: float) -> np.ndarray:
        """Return widths (K,) of Student t intervals of what has slopes (K, P); inf where the runs do not identify it."""
        return _width(self.noise * variances(self.matrix, slopes), self.degrees, level)


def robust_widths(fit: Fit, slopes: np.ndarray, level: float) -> np.ndarray:
    """Return widths (K,) as `Information.widths`, of the sandwich covariance: runs need not share one noise.

    A run pulls its own fit, so its residual is divided by one minus its leverage (HC3 of MacKinnon and White 1985); the bend of
    a loss with a knee is read off each run's own residual (Powell 1991).
    """
    rows, residual, mass, degrees = _runs(fit)
    left_out = residual / (1 - np.minimum(variances(rows.T @ rows, rows), 0.95))
    bend = _loss_slopes(fit, residual, _OWN_WINDOW)[1]
    own = (_loss_slopes(fit, left_out, _OWN_WINDOW)[0] * mass) ** 2
    outer, lost = _inverse((rows * bend[:, None]).T @ rows, slopes)
    whole, never = _inverse(rows.T @ rows * max(float(bend.mean()), 1e-300), slopes)
    if (lost & ~never).any():  # The runs inside the window are too few to speak for themselves.
        outer, lost = whole, never
    along = slopes @ outer
    variance = np.einsum("kp,pq,kq->k", along, (rows * own[:, None]).T @ rows, along)
    return _width(np.where(lost, np.inf, variance), degrees, level)


def _width(variance: np.ndarray, degrees: int, level: float) -> np.ndarray:
    return 2 * float(stdtrit(degrees, 0.5 + level / 2)) * np.sqrt(np.maximum(variance, 0.0))


def variances(matrix: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Return c' M^-1 c (K,) for slopes c (K, P); inf where c reaches into what M (P, P) says nothing of."""
    inverse, lost = _inverse(matrix, slopes)
    return np.where(lost, np.inf, np.einsum("kp,pq,kq->k", slopes, inverse, slopes))


def _inverse(matrix: np.ndarray, slopes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the inverse (P, P) over what a matrix knows, and which slopes (K,) reach beyond."""
    scale = np.sqrt(np.maximum(np.diagonal(matrix), 1e-300))
    values, vectors = np.linalg.eigh(matrix / np.outer(scale, scale))
    known = values > _SINGULAR * values[-1]
    along = ((slopes / scale) @ vectors) ** 2
    lost = along[:, ~known].sum(axis=1) > _TOUCHED * np.maximum(along.sum(axis=1), 1e-300)
    inverse = (vectors[:, known] / values[known]) @ vectors[:, known].T / np.outer(scale, scale)
    return inverse, lost


def loss_slopes(fit: Fit, axes: np.ndarray) -> np.ndarray:
    """Return the slopes (n, F) of the predicted loss in the free parameters at axes (X, n)."""
    return fit.law.value_and_gradient(fit.theta[None], axes)[1][0][:, fit.lower < fit.upper]


def link_slopes(fit: Fit, axes: np.ndarray) -> np.ndarray:
    """Return the slopes (n, F) of the predictions in the space of the residuals at axes (X, n)."""
    value = fit.law.predict(fit.theta[None], axes)[0]
    return fit.contract.link.derivatives(value)[0][:, None] * loss_slopes(fit, axes)


def target_points(fit: Fit, targets: Targets) -> np.ndarray:
    """Return targets, each its sizes by axis or in the order of the axes, as one array (X, T).

    Raises:
      InputError: no target, an axis too many or too few, or a size that is not one.
    """
    if isinstance(targets, Mapping) or not len(targets):
        raise InputError(f"targets: give at least one in a list, each with {', '.join(fit.labels)}")
    rows = []
    for target in targets:
        if isinstance(target, Mapping):
            if odd := sorted(set(target) ^ set(fit.labels)):
                wrong = "has no" if odd[0] in fit.labels else "has an unknown"
                raise InputError(f"target {dict(target)} {wrong} {odd[0]}; give {', '.join(fit.labels)}")
            row = [float(target[label]) for label in fit.labels]
        else:
            row = [float(value) for value in np.atleast_1d(np.asarray(target, float))]
        if len(row) != len(fit.labels):
            raise InputError(f"target {row} has {len(row)} sizes; give {', '.join(fit.labels)}")
        for place, (label, value) in enumerate(zip(fit.labels, row, strict=True)):
            if not np.isfinite(value) or value < 0 or (value == 0 and place < fit.law.num_positive):
                raise InputError(f"target: {label} is {value:g}; give a positive size")
        rows.append(row)
    return np.array(rows).T


def _runs(fit: Fit) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Return slopes (n, F), residuals (n,) and roots of the weights (n,) of the runs that count, and the degrees of freedom."""
    used = fit.weight > 0
    degrees = int(used.sum()) - fit.num_free
    if degrees < 1:
        raise InputError(f"{used.sum()} runs leave no degree of freedom for {fit.num_free} parameters; add runs")
    mass = np.sqrt(fit.weight[used] / fit.weight[used].mean())  # A weight is a precision: only their ratios tell anything.
    slopes = link_slopes(fit, fit.problem.axes[:, used]) * (mass / fit.problem.scale[used])[:, None]
    return slopes, fit.problem.residuals(fit.theta[None])[0][used], mass, degrees


def _loss_slopes(fit: Fit, residual: np.ndarray, window: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the slope (n,) of the loss at residuals and its bend (n,), which counts in its mean."""
    contract = fit.contract
    if contract.loss == "squared":
        return residual, np.ones_like(residual)
    knee = contract.huber_delta if contract.loss == "huber" else 0.0
    size = np.abs(residual)
    slope = np.clip(residual, -knee, knee) if knee else np.sign(residual)
    # A robust fit goes through some runs, as many as it has parameters at the most: those residuals are small by the fit alone.
    rest = np.sort(size)[min(fit.num_free, len(size) - 1) :]
    width = max(knee, 1e-150)
    if not knee or np.mean(rest <= knee) < _FEW_INSIDE:
        # Few runs lie inside the knee: the expected bend is knee times twice the density at zero, from a wider window.
        width = max(float(np.quantile(rest, window)), width)
    inside = size <= width
    return slope * (size > 1e-150), inside * ((knee or 1.0) / width) * (np.mean(rest <= width) / inside.mean())
