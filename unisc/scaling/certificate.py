"""How far an optimum is to be trusted: agreement of the starts, gradient, bounds, conditioning, and the next best basin."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from unisc.scaling.solve import Problem, Solution

SAME = 1.001
"""Objectives within this factor of the best have reached it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Basin:
    """A second place where starts ended: its parameters (by name), objective, share of the starts, and loss predictions.

    `furthest` is the largest relative difference of its predictions from the optimum's over the runs of the table.
    """

    parameters: dict[str, float]
    objective: float
    share: float
    furthest: float

    def to_json(self) -> dict[str, Any]:
        """Return the basin as JSON values."""
        return {name: getattr(self, name) for name in ("parameters", "objective", "share", "furthest")}


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """Say how far an optimum is to be trusted.

    `agreement` is the share of starts that end within 0.1 % of the best objective; `gradient_norm` is that of the projected
    gradient at the best point; `bounds_hit` names internal bounds the optimum sits on; `condition_number` is that of the
    curvature in centred coordinates, scaled to unit diagonal; `moved` is the smallest distance from any start to the optimum,
    near zero where a "fit" is but a starting point.
    """

    num_starts: int
    agreement: float
    gradient_norm: float
    bounds_hit: tuple[str, ...]
    condition_number: float
    moved: float
    second: Basin | None

    def to_json(self) -> dict[str, Any]:
        """Return the certificate as JSON values."""
        return {
            "num_starts": self.num_starts,
            "agreement": self.agreement,
            "gradient_norm": self.gradient_norm,
            "bounds_hit": list(self.bounds_hit),
            "condition_number": self.condition_number,
            "moved": self.moved,
            "second_basin": None if self.second is None else self.second.to_json(),
        }


def certify(
    problem: Problem, weight: np.ndarray, starts: np.ndarray, found: Solution, lower: np.ndarray, upper: np.ndarray
) -> Certificate:
    """Return the certificate of the best of the solutions (S, P) that were found from starts (S, P)."""
    best = int(np.argmin(found.objective))
    theta, objective = found.theta[best], float(found.objective[best])
    near = found.objective <= objective * SAME + 1e-300
    free = lower < upper
    hit = []
    for name, value, low, high in zip(problem.law.names, theta, lower, upper, strict=True):
        if low < high and (value <= low + 1e-9 or value >= high - 1e-9):
            hit.append(f"{name} at its {'lower' if value <= low + 1e-9 else 'upper'} bound")
    *_, metric = problem.derivatives(theta[None], weight[None], problem.contract.huber_delta)
    metric = metric[0][np.ix_(free, free)]
    diagonal = np.sqrt(np.maximum(np.diagonal(metric), 1e-300))
    condition = float(np.linalg.cond(metric / np.outer(diagonal, diagonal))) if free.any() else 1.0
    return Certificate(
        num_starts=len(starts),
        agreement=float(near.mean()),
        gradient_norm=float(found.gradient_norm[best]),
        bounds_hit=tuple(hit),
        condition_number=condition,
        moved=float(np.linalg.norm(starts - theta, axis=1).min()),
        second=_second(problem, found, best, near),
    )


def _second(problem: Problem, found: Solution, best: int, near: np.ndarray) -> Basin | None:
    """Return the best of the ends that are stationary and not the optimum."""
    scale = np.abs(found.objective) + 1e-300
    others = np.flatnonzero(~near & (found.gradient_norm <= 1e-5 * scale))
    if not len(others):
        return None
    second = others[np.argmin(found.objective[others])]
    same = np.abs(found.objective - found.objective[second]) <= (SAME - 1) * scale
    here, there = problem.law.predict(found.theta[[best, second]], problem.axes)
    return Basin(
        parameters=dict(zip(problem.law.names, map(float, problem.law.natural(found.theta[second][None])[0]), strict=True)),
        objective=float(found.objective[second]),
        share=float((same & ~near).mean()),
        furthest=float(np.abs(there / here - 1).max()),
    )
