"""Minimise many robust fits at once: damped Newton steps on S parameter vectors, inside a box.

One call polishes all starts of a fit, all resamples of a bootstrap, or all points of a profile: they differ only in their
weights (S, n), starts (S, P) and bounds. Second derivatives are exact, so the last steps converge quadratically where the
objective is smooth; the damping metric is the majoriser of iteratively reweighted least squares, which is safe where it is
not (Huber's knee at 1e-3 leaves most published residuals outside it).
"""

from dataclasses import dataclass

import numpy as np

from unisc.scaling.contract import Contract
from unisc.scaling.laws import Law

_MAX_BATCH_CELLS = 400_000  # S x n x P at once: keeps the working set near the cache


@dataclass(frozen=True, slots=True)
class Problem:
    """Hold one table: the law, its axes (X, n), losses (n,), contract, and a residual scale (n,) from standard errors."""

    law: Law
    axes: np.ndarray
    loss: np.ndarray
    contract: Contract
    scale: np.ndarray

    @property
    def target(self) -> np.ndarray:
        return self.contract.link(self.loss)

    def residuals(self, theta: np.ndarray) -> np.ndarray:
        """Return scaled residuals (S, n), prediction minus target in the contract's space; inf where undefined."""
        return (self.contract.link(self.law.predict(theta, self.axes)) - self.target) / self.scale

    def objective(self, theta: np.ndarray, weight: np.ndarray, delta: float | None) -> np.ndarray:
        """Return the weighted sum (S,) of the contract's loss; delta replaces the knee while it is being narrowed."""
        return _sum(weight, _rho(self.residuals(theta), self.contract, delta))

    def derivatives(self, theta: np.ndarray, weight: np.ndarray, delta: float | None):
        """Return objective (S,), gradient (S, P), Hessian (S, P, P) and the damping metric (S, P, P)."""
        evaluated = self.law.evaluate(theta, self.axes)
        link = self.contract.link
        # Where the link is not defined (a log-linear law that crosses zero) no step is ever accepted: any finite number serves.
        residual = (np.nan_to_num(link(evaluated.value), posinf=1e6, nan=1e6) - self.target) / self.scale
        first, second = link.derivatives(evaluated.value)
        slope, bend, ratio = _psi(residual, self.contract, delta)
        pull = weight * slope / self.scale
        square = weight / self.scale**2 * first**2
        gradient = evaluated.gradient
        transposed = gradient.transpose(0, 2, 1)
        hessian = (transposed * (square * bend + pull * second)[:, None, :]) @ gradient + evaluated.curvature(pull * first)
        metric = (transposed * (square * ratio)[:, None, :]) @ gradient
        objective = _sum(weight, _rho(residual, self.contract, delta))
        return objective, (transposed @ (pull * first)[..., None])[..., 0], hessian, metric


def _sum(weight: np.ndarray, rho: np.ndarray) -> np.ndarray:
    return (weight * np.where(weight > 0, rho, 0.0)).sum(axis=-1)


def _rho(residual: np.ndarray, contract: Contract, delta: float | None) -> np.ndarray:
    size = np.abs(residual)
    with np.errstate(over="ignore", invalid="ignore"):
        if contract.loss == "squared":
            return 0.5 * residual**2
        if contract.loss == "absolute" and delta is None:
            return size
        knee = contract.huber_delta if contract.loss == "huber" else delta
        assert knee is not None
        rho = np.where(size <= knee, 0.5 * np.minimum(size, knee) ** 2, knee * (size - 0.5 * knee))
    # Divided by the knee, Huber becomes |r| as the knee narrows.
    return rho / knee if contract.loss == "absolute" else rho


def _psi(residual: np.ndarray, contract: Contract, delta: float | None):
    """Return the loss's slope, its derivative, and slope over residual (the reweighting of least squares)."""
    if contract.loss == "squared":
        return residual, np.ones_like(residual), np.ones_like(residual)
    knee = contract.huber_delta if contract.loss == "huber" else (delta or 1e-9)
    size = np.abs(residual)
    inside = size <= knee
    slope = np.clip(residual, -knee, knee)
    bend = inside.astype(float)
    ratio = np.where(inside, 1.0, knee / np.maximum(size, knee))
    over = knee if contract.loss == "absolute" else 1.0
    return slope / over, bend / over, ratio / over


@dataclass(frozen=True, slots=True)
class Solution:
    """Hold polished parameters (S, P), objectives (S,) and projected gradient norms (S,)."""

    theta: np.ndarray
    objective: np.ndarray
    gradient_norm: np.ndarray


def solve(
    problem: Problem, start: np.ndarray, lower: np.ndarray, upper: np.ndarray, weight: np.ndarray, steps: int = 120
) -> Solution:
    """Polish starts (S, P) inside bounds (P,) or (S, P) under weights (n,) or (S, n)."""
    count, params = start.shape
    weight = np.broadcast_to(weight, (count, len(problem.loss)))
    lower, upper = np.broadcast_to(lower, start.shape), np.broadcast_to(upper, start.shape)
    chunk = max(8, _MAX_BATCH_CELLS // (len(problem.loss) * params))
    parts = [
        _solve_chunk(problem, start[i : i + chunk], lower[i : i + chunk], upper[i : i + chunk], weight[i : i + chunk], steps)
        for i in range(0, count, chunk)
    ]
    return Solution(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("theta", "objective", "gradient_norm")))


def _solve_chunk(problem, start, lower, upper, weight, steps) -> Solution:
    theta = np.clip(start, lower, upper)
    knees: list[float | None] = [None]
    if problem.contract.loss == "absolute":
        # Least absolute deviations has no curvature: walk a narrowing Huber knee down to it, each warm from the last.
        size = float(np.nanmedian(np.abs(problem.residuals(theta[:1])))) or 1e-3
        knees = [size * 10.0**-power for power in range(7)]
    for knee in knees:
        theta = _newton(problem, theta, lower, upper, weight, knee, steps)
    objective = problem.objective(theta, weight, None)
    gradient = problem.derivatives(theta, weight, knees[-1])[1]
    return Solution(theta, objective, np.linalg.norm(_project(gradient, theta, lower, upper), axis=1))


def _project(gradient: np.ndarray, theta: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Drop the parts of a gradient that push a parameter out of the box."""
    out = (theta <= lower) & (gradient > 0) | (theta >= upper) & (gradient < 0)
    return np.where(out | (lower == upper), 0.0, gradient)


def _newton(problem, theta, lower, upper, weight, knee, steps) -> np.ndarray:
    theta = theta.copy()
    params = theta.shape[1]
    damping = np.ones(len(theta))
    live = np.arange(len(theta))
    eye = np.eye(params)
    stalled = np.zeros(len(theta), int)
    for _ in range(steps):
        point, low, high, mass = theta[live], lower[live], upper[live], weight[live]
        objective, gradient, hessian, metric = problem.derivatives(point, mass, knee)
        gradient = _project(gradient, point, low, high)
        free = gradient != 0
        ridge = 1e-12 * (np.trace(metric, axis1=1, axis2=2) + 1e-30)
        system = hessian + damping[live, None, None] * metric + ridge[:, None, None] * eye
        mask = free[:, :, None] & free[:, None, :]
        system = np.where(mask, system, eye * np.where(free, 0.0, 1.0)[:, :, None])
        step = np.clip(-_linear_solve(system, gradient), -3.0, 3.0)
        moved = np.clip(point + step, low, high)
        tried = problem.objective(moved, mass, knee)
        with np.errstate(invalid="ignore"):
            better = tried < objective
        theta[live[better]] = moved[better]
        drop = np.where(better, objective - tried, 0.0)
        damping[live] = np.where(better, np.maximum(damping[live] / 5, 1e-9), np.minimum(damping[live] * 6, 1e12))
        # Finished: no downhill direction left, or twice in a row nothing gained at working precision.
        quiet = np.where(better, drop <= 1e-13 * objective, damping[live] > 1e8)
        stalled[live] = np.where(quiet, stalled[live] + 1, 0)
        live = live[(stalled[live] < 2) & free.any(axis=1)]
        if not len(live):
            break
    return theta


def _linear_solve(system: np.ndarray, right: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.solve(system, right[..., None])[..., 0]
    except np.linalg.LinAlgError:  # One exactly singular member would lose the whole batch.
        return (np.linalg.pinv(system) @ right[..., None])[..., 0]
