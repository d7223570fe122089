"""Refit a Chinchilla law with its floor pinned, many tables at once: what a comparison under one floor needs."""

import numpy as np

from unisc.errors import InputError
from unisc.scaling.contract import Contract

_STEPS = 200
_SETTLED = 1e-11  # Relative drop of the objective under which a refit has settled.


def refit_with_floor(size, data, loss, floor, contract: Contract, *, start, weight=None, scale=None) -> np.ndarray:
    """Return natural parameters (S, 5) that minimise the contract's objective with E held at `floor` (S,).

    `start` (S, 5) are natural parameters to begin from, `weight` (S, n) the runs' weights, `scale` (n,) divides residuals.
    Robust losses are minimised by iteratively reweighted, damped Gauss-Newton steps. Raises `InputError` for a floor that is
    not under the smallest loss.
    """
    size, data, loss = (np.asarray(column, float) for column in (size, data, loss))
    floor = np.atleast_1d(np.asarray(floor, float))
    if not np.all(np.isfinite(floor) & (floor >= 0)):
        raise InputError(f"the floor is {floor.min():g}; give a number of at least 0")
    if floor.max() >= loss.min():
        raise InputError(f"the floor {floor.max():.4g} is not under the smallest loss, {loss.min():.4g}; give a lower floor")
    scale = np.ones_like(loss) if scale is None else scale
    weight = np.ones((len(floor), len(loss))) if weight is None else weight
    x, y = np.log(size) - np.log(size).mean(), np.log(data) - np.log(data).mean()
    start = np.asarray(start, float)
    theta = np.stack(
        [
            np.log(start[:, 1]) - start[:, 3] * np.log(size).mean(),
            np.log(start[:, 2]) - start[:, 4] * np.log(data).mean(),
            start[:, 3],
            start[:, 4],
        ],
        axis=1,
    )
    theta = _minimise(theta, floor, x, y, loss, scale, weight, contract)
    amplitudes = np.exp(theta[:, :2] + theta[:, 2:] * np.array([np.log(size).mean(), np.log(data).mean()]))
    return np.column_stack([floor, amplitudes, theta[:, 2:]])


def _minimise(theta, floor, x, y, loss, scale, weight, contract: Contract) -> np.ndarray:
    target = np.log(loss) if contract.space == "log" else loss
    lower = np.array([-60.0, -60.0, 1e-6, 1e-6])
    upper = np.array([60.0, 60.0, 4.0, 4.0])

    def residuals(point, level):
        first = np.exp(point[:, :1] - point[:, 2:3] * x)
        second = np.exp(point[:, 1:2] - point[:, 3:] * y)
        value = level[:, None] + first + second
        slopes = np.stack([first, second, -first * x, -second * y], axis=2)
        if contract.space == "log":
            slopes, value = slopes / value[..., None], np.log(value)
        return (value - target) / scale, slopes / scale[:, None]

    def objective(residual, mass):
        return (mass * penalty(residual, contract)).sum(axis=1)

    theta = np.clip(theta, lower, upper)
    damping, live = np.full(len(theta), 1e-2), np.arange(len(theta))
    for _ in range(_STEPS):
        residual, slopes = residuals(theta[live], floor[live])
        now = objective(residual, weight[live])
        mass = weight[live] * _pull(residual, contract)
        normal = np.einsum("sn,snp,snq->spq", mass, slopes, slopes, optimize=True)
        gradient = np.einsum("sn,sn,snp->sp", mass, residual, slopes, optimize=True)
        diagonal = np.einsum("spp->sp", normal)
        system = normal + (damping[live, None] * (diagonal + 1e-12 * diagonal.max(axis=1, keepdims=True)))[:, :, None] * np.eye(
            4
        )
        step = np.linalg.solve(system, -gradient[..., None])[..., 0]
        moved = np.clip(theta[live] + np.clip(step, -2, 2), lower, upper)
        after = objective(residuals(moved, floor[live])[0], weight[live])
        better = after < now
        theta[live[better]] = moved[better]
        damping[live] = np.where(better, damping[live] / 4, damping[live] * 8)
        settled = np.where(better, now - after <= _SETTLED * now, damping[live] > 1e8)
        live = live[~settled]
        if not len(live):
            break
    return theta


def penalty(residual: np.ndarray, contract: Contract) -> np.ndarray:
    size = np.abs(residual)
    if contract.loss == "squared":
        return 0.5 * size**2
    if contract.loss == "absolute":
        return size
    knee = contract.huber_delta
    return np.where(size <= knee, 0.5 * size**2, knee * (size - 0.5 * knee))


def _pull(residual: np.ndarray, contract: Contract) -> np.ndarray:
    """Return the weight that makes a squared loss touch the contract's loss at a residual from above."""
    size = np.abs(residual)
    if contract.loss == "squared":
        return np.ones_like(size)
    if contract.loss == "absolute":
        return 1 / np.maximum(size, 1e-9)
    return np.minimum(1.0, contract.huber_delta / np.maximum(size, 1e-300))
