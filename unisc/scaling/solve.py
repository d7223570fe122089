"""Minimise many robust fits at once: damped Newton steps on S parameter vectors, inside a box.

One call polishes all starts of a fit, all resamples of a bootstrap, or all points of a profile: they differ only in their
weights (S, n), losses (S, n), starts (S, P), bounds, and in what they are pulled to. Second derivatives are exact, so the last
steps converge quadratically where the objective is smooth; the damping metric is the majoriser of iteratively reweighted least
squares, which is safe where it is not (Huber's knee at 1e-3 leaves most published residuals outside it).
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from unisc.scaling.contract import Contract
from unisc.scaling.laws import Law

_BATCH_CELLS = 200_000  # S x n x P at once: keeps the working set near the cache
_THREADS = 4
_CURVATURE_EVERY = 4
"""Steps that share the second derivatives of a law that knows them only by differences: Gauss-Newton is there before that."""
_CONVERGED = 1e-14  # share of the objective that a step must promise for the search to go on


@dataclass(frozen=True, slots=True)
class Problem:
    """Hold one table: the law, its axes (X, n), losses (n,), contract, and a residual scale (n,) from standard errors.

    Losses may be (S, n), one table for each parameter vector: a residual bootstrap resamples them.
    """

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
        residual = self.residuals(theta)
        return _sum(weight, residual, _psi(residual, self.contract, delta)[0], self.contract, delta)

    def derivatives(self, theta: np.ndarray, weight: np.ndarray, delta: float | None):
        """Return objective (S,), gradient (S, P), Hessian (S, P, P) and the damping metric (S, P, P)."""
        objective, gradient, product, metric, curvature = self.parts(theta, weight, delta)
        return objective, gradient, product + curvature(), metric

    def parts(self, theta: np.ndarray, weight: np.ndarray, delta: float | None):
        """Return objective, gradient, the Hessian's part of first derivatives, the damping metric, and a call for the rest."""
        link = self.contract.link
        # Steps may try points where a law or a link overflows: there any numbers serve, for no such step is accepted.
        with np.errstate(all="ignore"):
            evaluated = self.law.evaluate(theta, self.axes)
            residual = (np.nan_to_num(link(evaluated.value), posinf=1e6, nan=1e6) - self.target) / self.scale
            slope, bend, ratio = _psi(residual, self.contract, delta)
            objective = _sum(weight, residual, slope, self.contract, delta)
            first, second = link.derivatives(evaluated.value)
            pull = weight * slope / self.scale
            square = weight / self.scale**2 * first**2
            along = pull * first
            gradient = evaluated.gradient
            transposed = gradient.transpose(0, 2, 1)
            metric = (transposed * (square * ratio)[:, None, :]) @ gradient
            plain = self.contract.loss == "squared" and self.contract.space == "loss"
            product = metric if plain else (transposed * (square * bend + pull * second)[:, None, :]) @ gradient
            downhill = (transposed @ along[..., None])[..., 0]
        return objective, downhill, product, metric, lambda: evaluated.curvature(along)


def _sum(weight: np.ndarray, residual: np.ndarray, slope: np.ndarray, contract: Contract, delta: float | None) -> np.ndarray:
    """Return the weighted sum (S,) of the loss, which is slope x (residual - knee-free part / 2) for every Huber loss."""
    with np.errstate(over="ignore", invalid="ignore"):
        if contract.loss == "absolute":
            rho = np.abs(residual) if delta is None else slope * (residual - 0.5 * delta * slope)
        else:
            rho = slope * (residual - 0.5 * slope)
        total = (weight * rho).sum(axis=-1)
    if np.isfinite(total).all():
        return total
    return (weight * np.where(weight > 0, rho, 0.0)).sum(axis=-1)  # an infinite loss of a run without weight counts nothing


def _psi(residual: np.ndarray, contract: Contract, delta: float | None):
    """Return the loss's slope, its derivative, and slope over residual (the reweighting of least squares)."""
    if contract.loss == "squared":
        return residual, 1.0, 1.0
    knee = contract.huber_delta if contract.loss == "huber" else (delta or 1e-9)
    slope = np.clip(residual, -knee, knee)
    inside = slope == residual
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(inside, 1.0, slope / residual)
    if contract.loss == "absolute":
        return slope / knee, inside / knee, ratio / knee
    return slope, inside, ratio


class Pull(Protocol):
    """What is added to the objective of each parameter vector: how a profile holds a quantity near an aim."""

    def at(self, rows: np.ndarray) -> "Pull":
        """Return the pulls of some of the parameter vectors."""
        ...

    def derivatives(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return value (S,), gradient (S, P) and Hessian (S, P, P), of which only the positive part need be exact."""
        ...


@dataclass(frozen=True, slots=True)
class Solution:
    """Hold polished parameters (S, P), objectives (S,) and projected gradient norms (S,)."""

    theta: np.ndarray
    objective: np.ndarray
    gradient_norm: np.ndarray


def solve(
    problem: Problem,
    start: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    weight: np.ndarray,
    steps: int = 120,
    pull: Pull | None = None,
    damping: float = 1.0,
    gain: float = _CONVERGED,
) -> Solution:
    """Polish starts (S, P) inside bounds (P,) or (S, P) under weights (n,) or (S, n).

    The objectives returned leave out the `pull`. Starts near their optimum need little `damping`; a search ends where less than
    a share `gain` of its objective is left to gain. Chunks of the starts run on threads of their own: NumPy lets go of the
    interpreter while it works.
    """
    count, params = start.shape
    runs = problem.loss.shape[-1]
    weight = np.broadcast_to(weight, (count, runs))
    lower, upper = np.broadcast_to(lower, start.shape), np.broadcast_to(upper, start.shape)
    chunk = max(8, _BATCH_CELLS // (runs * params))

    def part(first: int) -> Solution:
        rows = np.arange(first, min(first + chunk, count))
        tables = problem if problem.loss.ndim == 1 else replace(problem, loss=problem.loss[rows])
        pulled = None if pull is None else pull.at(rows)
        return _Chunk(tables, weight[rows], lower[rows], upper[rows], pulled).solve(start[rows], steps, damping, gain)

    firsts = range(0, count, chunk)
    if len(firsts) == 1:
        parts = [part(0)]
    else:
        with ThreadPoolExecutor(_THREADS) as pool:
            parts = list(pool.map(part, firsts))
    return Solution(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("theta", "objective", "gradient_norm")))


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Some rows of a batch: their tables, weights (S, n), bounds (S, P) and pull."""

    problem: Problem
    weight: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    pull: Pull | None

    def at(self, rows: np.ndarray) -> "_Chunk":
        problem = self.problem if self.problem.loss.ndim == 1 else replace(self.problem, loss=self.problem.loss[rows])
        pull = None if self.pull is None else self.pull.at(rows)
        return _Chunk(problem, self.weight[rows], self.lower[rows], self.upper[rows], pull)

    def evaluate(self, theta: np.ndarray, knee: float | None, bent: np.ndarray | None):
        """Return objective, gradient, Hessian, metric and the Hessian's part of second derivatives, given or anew."""
        objective, gradient, product, metric, curvature = self.problem.parts(theta, self.weight, knee)
        with np.errstate(all="ignore"):
            bent = curvature() if bent is None else bent
        if self.pull is not None:
            pulled, slope, stiff = self.pull.derivatives(theta)
            objective, gradient, product, metric = objective + pulled, gradient + slope, product + stiff, metric + stiff
        return objective, gradient, product + bent, metric, bent

    def solve(self, start: np.ndarray, steps: int, damping: float, gain: float) -> Solution:
        theta = np.clip(start, self.lower, self.upper)
        knees: list[float | None] = [None]
        if self.problem.contract.loss == "absolute":
            # Least absolute deviations has no curvature: walk a narrowing Huber knee down to it, each warm from the last.
            size = float(np.nanmedian(np.abs(self.at(np.arange(1)).problem.residuals(theta[:1])))) or 1e-3
            knees = [size * 10.0**-power for power in range(7)]
        gradient = objective = theta
        for knee in knees:
            theta, objective, gradient = self.newton(theta, knee, steps, damping, gain)
        if knees[-1] is not None or self.pull is not None:
            objective = self.problem.objective(theta, self.weight, None)
        return Solution(theta, objective, np.linalg.norm(_project(gradient, theta, self.lower, self.upper), axis=1))

    def newton(self, theta: np.ndarray, knee: float | None, steps: int, first_damping: float, gain: float):
        """Return parameters, objectives and gradients once no step gains anything at working precision."""
        theta = theta.copy()
        count, params = theta.shape
        eye = np.eye(params)
        every = _CURVATURE_EVERY if type(self.problem.law).evaluate is Law.evaluate else 1
        state = list(self.evaluate(theta, knee, None if every == 1 else np.zeros((count, params, params))))
        damping = np.full(count, first_damping)
        stalled = np.zeros(count, int)
        live, now = np.arange(count), self
        for step_number in range(1, steps + 1):
            objective, gradient, hessian, metric, bent = (values[live] for values in state)
            point, low, high = theta[live], now.lower, now.upper
            gradient = _project(gradient, point, low, high)
            free = gradient != 0
            ridge = 1e-12 * (np.trace(metric, axis1=1, axis2=2) + 1e-30)
            system = hessian + damping[live, None, None] * metric + ridge[:, None, None] * eye
            mask = free[:, :, None] & free[:, None, :]
            system = np.where(mask, system, eye * np.where(free, 0.0, 1.0)[:, :, None])
            step = np.clip(-_linear_solve(system, gradient), -3.0, 3.0)
            promised = -(gradient * step).sum(axis=1) * (1 + damping[live])
            moved = np.clip(point + step, low, high)
            tried = now.evaluate(moved, knee, None if step_number % every == 0 else bent)
            with np.errstate(invalid="ignore"):
                better = tried[0] < objective
            rows = live[better]
            theta[rows] = moved[better]
            for values, new in zip(state, tried, strict=True):
                values[rows] = new[better]
            drop = np.where(better, objective - np.where(better, tried[0], 0.0), 0.0)
            damping[live] = np.where(better, np.maximum(damping[live] / 8, 1e-12), np.minimum(damping[live] * 6, 1e12))
            # Finished: no downhill direction, next to nothing to gain by the quadratic model, or twice in a row nothing gained.
            quiet = np.where(better, drop <= 10 * gain * objective, damping[live] > 1e8)
            stalled[live] = np.where(quiet, stalled[live] + 1, 0)
            nothing_left = (promised >= 0) & (promised <= gain * objective)
            keep = (stalled[live] < 2) & free.any(axis=1) & ~nothing_left
            if not keep.all():
                live = live[keep]
                if not len(live):
                    break
                now = self.at(live)
        return theta, state[0], state[1]


def _project(gradient: np.ndarray, theta: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Drop the parts of a gradient that push a parameter out of the box."""
    out = (theta <= lower) & (gradient > 0) | (theta >= upper) & (gradient < 0)
    return np.where(out | (lower == upper), 0.0, gradient)


def _linear_solve(system: np.ndarray, right: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.solve(system, right[..., None])[..., 0]
    except np.linalg.LinAlgError:  # One exactly singular member would lose the whole batch.
        return (np.linalg.pinv(system) @ right[..., None])[..., 0]
