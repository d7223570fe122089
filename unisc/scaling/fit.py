"""Fit a law to a run table and certify the optimum."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unisc.errors import InputError
from unisc.scaling.certificate import Certificate, certify
from unisc.scaling.contract import Contract
from unisc.scaling.laws import LAWS, Law
from unisc.scaling.solve import Problem, solve
from unisc.scaling.table import check_identifiable, check_table, column


@dataclass(frozen=True, slots=True)
class Fit:
    """Hold a law with its numbers, the table it saw, its contract and its certificate.

    `lower` and `upper` (P,) are the bounds of the internal parameters; they are equal where a parameter was fixed.
    """

    problem: Problem
    weight: np.ndarray
    theta: np.ndarray
    objective: float
    certificate: Certificate
    labels: tuple[str, ...]
    lower: np.ndarray
    upper: np.ndarray

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
    def num_free(self) -> int:
        """Parameters that were fitted, not fixed."""
        return int((self.lower < self.upper).sum())

    @property
    def params(self) -> dict[str, float]:
        """Natural parameters by name."""
        return dict(zip(self.law.names, map(float, self.law.natural(self.theta[None])[0]), strict=True))

    def predict(self, *axes) -> np.ndarray:
        """Predict the metric at sizes given axis by axis, each a number or an array (n,)."""
        return self.contract.to_metric(self.law.predict(self.theta[None], points(axes))[0])

    def second_prediction(self, *axes: float) -> float | None:
        """Predict the metric at one size by the certificate's second basin; None where there is none."""
        second = self.certificate.second
        if second is None:
            return None
        theta = self.law.internal(np.array([list(second.parameters.values())]))
        return float(self.contract.to_metric(self.law.predict(theta, points(axes))[0])[0])

    def compare(self, other: "Fit") -> float:
        """Return this objective minus another's; raises `InputError` when the contracts or the tables differ."""
        self.contract.require_same(other.contract)
        if self.num_runs != other.num_runs or not np.array_equal(self.problem.loss, other.problem.loss):
            raise InputError("these fits saw different runs; refit both on one table to compare their objectives")
        return self.objective - other.objective

    def to_json(self) -> dict[str, Any]:
        """Return law, contract, parameters, what follows from them, objective and certificate under those keys."""
        natural = self.law.natural(self.theta[None])
        return {
            "law": self.law.name,
            "axes": list(self.labels),
            "contract": self.contract.to_json(),
            "parameters": self.params,
            "derived": {name: float(values[0]) for name, values in self.law.derived(natural).items()},
            "objective": self.objective,
            "num_runs": self.num_runs,
            "certificate": self.certificate.to_json(),
        }


def fit(
    law: str,
    *columns,
    contract: Contract | None = None,
    weights=None,
    se=None,
    fixed: Mapping[str, float] | None = None,
    labels: Sequence[str] | None = None,
    num_starts: int | None = None,
    starts=None,
) -> Fit:
    """Fit a law by name to columns: its axes in order, then the metric; each (n,).

    `weights` (n,) multiply the runs' terms of the sum; `se` (n,) are standard errors of the metric and divide the residuals,
    relative to their median so that a Huber delta keeps its meaning. `fixed` pins natural parameters; `labels` names the axes
    (the origins of a composition law). Variable projection over a grid seeds the search; `num_starts` of the seeds, the best
    and a spread of the rest, are polished. `starts` (S, P) adds natural parameters of your own.

    Raises:
      InputError: an unknown law, the wrong number of axes, or a table no law can be fitted to (see `check_table`).
    """
    form = law_named(law)
    contract = contract or Contract()
    labels = axis_labels(form, len(columns) - 1, labels)
    axes, loss = check_table(form, columns, labels, contract)
    if np.isinf(contract.span) and form.name in ("logit_linear", "task_from_loss"):
        raise InputError(f"law {law!r} needs the bounds of {contract.metric}; give lower and upper in the contract")
    centred = form.of(axes, loss, labels, contract.span)
    lower, upper = pinned(centred, *centred.bounds(loss), fixed or {})
    check_identifiable(centred, axes, loss, labels, int((lower < upper).sum()))
    weight = np.ones_like(loss) if weights is None else column(weights, "weights", len(loss), minimum=0.0)
    problem = Problem(centred, axes, loss, contract, _scale(se, loss, contract))
    grid = np.clip(centred.starts(axes, loss, contract.link.derivatives(loss)[0]), lower, upper)
    rough = problem.objective(grid, weight, None if contract.loss != "absolute" else 1e-3)
    chosen = _spread(grid, rough, num_starts or form.num_starts)
    if starts is not None:
        chosen = np.concatenate([chosen, np.clip(centred.internal(np.atleast_2d(np.asarray(starts, float))), lower, upper)])
    found = solve(problem, chosen, lower, upper, weight)
    best = int(np.argmin(found.objective))
    if not np.isfinite(found.objective[best]):
        raise InputError(f"law {law!r} has no finite value at these runs from any start; give `starts` or another law")
    return Fit(
        problem=problem,
        weight=weight,
        theta=found.theta[best],
        objective=float(found.objective[best]),
        certificate=certify(problem, weight, chosen, found, lower, upper),
        labels=labels,
        lower=lower,
        upper=upper,
    )


def law_named(name: str) -> type[Law]:
    """Return a law by name, or raise `InputError`."""
    if name not in LAWS:
        raise InputError(f"law {name!r} is unknown; choose one of {', '.join(LAWS)}")
    return LAWS[name]


def points(axes: Sequence) -> np.ndarray:
    """Return sizes given axis by axis, each a number or an array (n,), as one array (X, n)."""
    return np.array(np.broadcast_arrays(*[np.atleast_1d(np.asarray(axis, float)) for axis in axes]))


def pinned(law: Law, lower: np.ndarray, upper: np.ndarray, fixed: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds (P,) that hold the named natural parameters where they are asked to be."""
    if unknown := sorted(set(fixed) - set(law.names)):
        raise InputError(f"{law.name} has no parameter {unknown[0]!r}; it has {', '.join(law.names)}")
    for parameter in law.parameters:
        if parameter.name in fixed and parameter.of and parameter.of not in fixed:
            raise InputError(f"{parameter.name} cannot be fixed while its exponent {parameter.of} is free; fix both or neither")
    lower, upper = lower.copy(), upper.copy()
    natural = law.natural(np.clip(0.5 * (lower + upper), -5, 5)[None])
    for name, value in fixed.items():
        natural[0, law.names.index(name)] = value
    internal = law.internal(natural)[0]
    for name in fixed:
        place = law.names.index(name)
        lower[place] = upper[place] = internal[place]
    return lower, upper


def axis_labels(law: type[Law], count: int, labels: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of a law's axes, or raise `InputError` where there are too many or too few."""
    if count < 1 or (count != len(law.axes) and not law.any_axes):
        others = [name for name, other in LAWS.items() if len(other.axes) == count]
        hint = f"; use {' or '.join(map(repr, others[:2]))}" if others else ""
        raise InputError(f"law {law.name!r} takes {len(law.axes)} axes ({', '.join(law.axes)}), and got {count}{hint}")
    if labels is not None and len(labels) != count:
        raise InputError(f"{len(labels)} labels for {count} axes; give one an axis")
    if labels is not None:
        return tuple(labels)
    if count == len(law.axes):
        return law.axes
    return ("N", "D")[:count] if count < 3 else ("N", *(f"D{i}" for i in range(1, count)))


def _scale(se, loss: np.ndarray, contract: Contract) -> np.ndarray:
    if se is None:
        return np.ones_like(loss)
    errors = column(se, "se", len(loss), minimum=0.0)
    if (bad := np.flatnonzero(errors == 0)).size:
        raise InputError(f"se is 0 in row {bad[0]}; give a positive standard error or leave se out")
    errors = errors * contract.link.derivatives(loss)[0]
    return errors / np.median(errors)


def _spread(grid: np.ndarray, objective: np.ndarray, count: int) -> np.ndarray:
    order = np.argsort(np.where(np.isfinite(objective), objective, np.inf), kind="stable")
    if len(order) <= count:
        return grid[order]
    near = max(1, count // 2)
    far = np.linspace(near, len(order) - 1, count - near).round().astype(int)
    return grid[np.concatenate([order[:near], order[far]])]
