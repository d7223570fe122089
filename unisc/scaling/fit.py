"""Fit a law to a run table and certify the optimum."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from unisc.errors import InputError
from unisc.scaling.contract import Contract
from unisc.scaling.laws import LAWS, Law
from unisc.scaling.solve import Problem, solve

_AXIS_NAMES = ("N", "D", "third axis", "fourth axis")


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """Say how far an optimum is to be trusted.

    `agreement` is the share of starts that end within 0.1 % of the best objective; `gradient_norm` is that of the projected
    gradient at the best point; `bounds_hit` names internal bounds the optimum sits on; `condition_number` is that of the
    curvature in centred coordinates, scaled to unit diagonal; `moved` is the smallest distance from any start to its end.
    """

    num_starts: int
    agreement: float
    gradient_norm: float
    bounds_hit: tuple[str, ...]
    condition_number: float
    moved: float

    def to_json(self) -> dict[str, Any]:
        """Return the certificate as JSON values."""
        return {
            "num_starts": self.num_starts,
            "agreement": self.agreement,
            "gradient_norm": self.gradient_norm,
            "bounds_hit": list(self.bounds_hit),
            "condition_number": self.condition_number,
            "moved": self.moved,
        }


@dataclass(frozen=True, slots=True)
class Fit:
    """Hold a law with its numbers, the table it saw, its contract and its certificate."""

    problem: Problem
    weight: np.ndarray
    theta: np.ndarray
    objective: float
    certificate: Certificate

    @property
    def law(self) -> Law:
        return self.problem.law

    @property
    def contract(self) -> Contract:
        return self.problem.contract

    @property
    def num_runs(self) -> int:
        return len(self.problem.loss)

    @property
    def params(self) -> dict[str, float]:
        """Natural parameters by name."""
        return dict(zip(self.law.names, map(float, self.law.natural(self.theta[None])[0]), strict=True))

    def predict(self, *axes) -> np.ndarray:
        """Predict the loss at sizes given axis by axis, each a number or an array (n,)."""
        return self.law.predict(self.theta[None], _broadcast(axes))[0]

    def compare(self, other: "Fit") -> float:
        """Return this objective minus another's; raises `InputError` when the contracts or the tables differ."""
        self.contract.require_same(other.contract)
        if self.num_runs != other.num_runs or not np.array_equal(self.problem.loss, other.problem.loss):
            raise InputError("these fits saw different runs; refit both on one table to compare their objectives")
        return self.objective - other.objective

    def to_json(self) -> dict[str, Any]:
        """Return law, contract, parameters, objective and certificate under those keys."""
        return {
            "law": self.law.name,
            "contract": self.contract.to_json(),
            "parameters": self.params,
            "objective": self.objective,
            "num_runs": self.num_runs,
            "certificate": self.certificate.to_json(),
        }


def fit(law: str, *columns, contract: Contract | None = None, weights=None, se=None, num_starts: int = 24, starts=None) -> Fit:
    """Fit a law by name to columns: its axes in order, then the loss; each (n,).

    `weights` (n,) multiply the runs' terms of the sum; `se` (n,) are standard errors of the losses in loss units and divide the
    residuals, relative to their median so that a Huber delta keeps its meaning. Variable projection over a grid of exponents
    seeds the search; `num_starts` of the seeds, the best and a spread of the rest, are polished. `starts` (S, P) adds natural
    parameters of your own. Raises `InputError` for a table no law can be fitted to (see `check_table`).
    """
    if law not in LAWS:
        raise InputError(f"law {law!r} is unknown; choose one of {', '.join(LAWS)}")
    contract = contract or Contract()
    *axes, loss = columns
    axes, loss = check_table(axes, loss, contract)
    form = LAWS[law].of(axes)
    if getattr(LAWS[law], "names", None) == ("E", "A", "B", "alpha", "beta") and len(axes) != 2:
        raise InputError(
            f"law 'chinchilla' takes model size and data size, and got {len(axes)} axes; use 'power_floor' for one"
        )
    if law == "power_floor" and len(axes) != 1:
        raise InputError(f"law 'power_floor' takes one axis, and got {len(axes)}; use 'chinchilla' for two")
    _check_identifiable(form, axes, loss)
    weight = np.ones_like(loss) if weights is None else _column(weights, "weights", len(loss), minimum=0.0)
    problem = Problem(form, axes, loss, contract, _scale(se, loss, contract))
    lower, upper = form.bounds(loss)
    grid = np.clip(form.starts(axes, loss, contract.space == "log"), lower, upper)
    chosen = _spread(grid, problem.objective(grid, weight, None if contract.loss != "absolute" else 1e-3), num_starts)
    if starts is not None:
        chosen = np.concatenate([chosen, np.clip(_internal(form, np.atleast_2d(starts)), lower, upper)])
    solution = solve(problem, chosen, lower, upper, weight)
    best = int(np.argmin(solution.objective))
    return _certified(problem, weight, chosen, solution, best, lower, upper)


def check_table(axes, loss, contract: Contract) -> tuple[np.ndarray, np.ndarray]:
    """Return axes (X, n) and losses (n,) as float64, or raise `InputError` naming the column and the row at fault."""
    loss = np.asarray(loss, float)
    if loss.ndim != 1 or not len(loss):
        raise InputError("the loss column is empty; give at least one run")
    out = []
    for name, axis in zip(_AXIS_NAMES, axes, strict=False):
        axis = _column(axis, name, len(loss), minimum=None)
        if (bad := np.flatnonzero(axis <= 0)).size:
            raise InputError(f"{name} is {axis[bad[0]]:g} in row {bad[0]}; sizes must be positive, drop or mend that run")
        out.append(axis)
    _column(loss, "loss", len(loss), minimum=None)
    if contract.space == "log" and (bad := np.flatnonzero(loss <= 0)).size:
        raise InputError(
            f"loss is {loss[bad[0]]:g} in row {bad[0]}; a fit in log space needs positive losses, drop it or use space='loss'"
        )
    if (bad := np.flatnonzero(loss <= 0)).size:
        raise InputError(
            f"loss is {loss[bad[0]]:g} in row {bad[0]}; these laws describe positive losses, fit 1 - metric or a loss"
        )
    return np.array(out), loss


def _column(values, name: str, length: int, minimum: float | None) -> np.ndarray:
    values = np.asarray(values, float)
    if values.shape != (length,):
        raise InputError(f"{name} has shape {values.shape} and loss has ({length},); give one value a run")
    if (bad := np.flatnonzero(~np.isfinite(values))).size:
        raise InputError(f"{name} is {values[bad[0]]} in row {bad[0]}; drop or mend that run")
    if minimum is not None and (bad := np.flatnonzero(values < minimum)).size:
        raise InputError(f"{name} is {values[bad[0]]:g} in row {bad[0]}; give values of at least {minimum:g}")
    return values


def _check_identifiable(law: Law, axes: np.ndarray, loss: np.ndarray) -> None:
    for name, axis in zip(_AXIS_NAMES, axes, strict=False):
        if len(np.unique(axis)) < 2:
            raise InputError(f"{name} has one distinct value, {axis[0]:g}; a law in {name} needs runs of at least two sizes")
    if len(loss) < len(law.names):
        raise InputError(
            f"{len(loss)} runs cannot fit the {len(law.names)} parameters of {law.name}; add runs or use a smaller law"
        )


def _scale(se, loss: np.ndarray, contract: Contract) -> np.ndarray:
    if se is None:
        return np.ones_like(loss)
    errors = _column(se, "se", len(loss), minimum=0.0)
    if (bad := np.flatnonzero(errors == 0)).size:
        raise InputError(f"se is 0 in row {bad[0]}; give a positive standard error or leave se out")
    errors = errors / loss if contract.space == "log" else errors
    return errors / np.median(errors)


def _spread(grid: np.ndarray, objective: np.ndarray, count: int) -> np.ndarray:
    order = np.argsort(objective, kind="stable")
    if len(order) <= count:
        return grid[order]
    near = max(1, count // 2)
    far = np.linspace(near, len(order) - 1, count - near).round().astype(int)
    return grid[np.concatenate([order[:near], order[far]])]


def _internal(law: Law, natural: np.ndarray) -> np.ndarray:
    if law.name == "log_linear":
        raise InputError("log_linear is solved exactly and takes no starts; leave starts out")
    count = law.num_axes
    out = natural.copy()
    out[:, 0] = np.log(np.maximum(natural[:, 0], 1e-300))
    centres = np.asarray(getattr(law, "centres"))  # noqa: B009  the protocol does not promise centres
    out[:, 1 : 1 + count] = np.log(np.maximum(natural[:, 1 : 1 + count], 1e-300)) - natural[:, 1 + count :] * centres
    return out


def _certified(problem: Problem, weight, starts, solution, best: int, lower, upper) -> Fit:
    theta, objective = solution.theta[best], float(solution.objective[best])
    near = solution.objective <= objective * 1.001 + 1e-300
    hit = []
    for name, value, low, high in zip(problem.law.names, theta, lower, upper, strict=True):
        if value <= low + 1e-9 or value >= high - 1e-9:
            hit.append(f"{name} at its {'lower' if value <= low + 1e-9 else 'upper'} bound")
    *_, metric = problem.derivatives(theta[None], weight[None], problem.contract.huber_delta)
    diagonal = np.sqrt(np.maximum(np.diagonal(metric[0]), 1e-300))
    condition = float(np.linalg.cond(metric[0] / np.outer(diagonal, diagonal)))
    certificate = Certificate(
        num_starts=len(starts),
        agreement=float(near.mean()),
        gradient_norm=float(solution.gradient_norm[best]),
        bounds_hit=tuple(hit),
        condition_number=condition,
        moved=float(np.linalg.norm(solution.theta - starts, axis=1).min()),
    )
    return Fit(problem, weight, theta, objective, certificate)


def _broadcast(axes) -> np.ndarray:
    return np.array(np.broadcast_arrays(*[np.atleast_1d(np.asarray(axis, float)) for axis in axes]))
