"""Refits of a fit: without some of its runs, all in one program, and under another objective or another counting of an axis."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unisc.errors import InputError
from unisc.scaling.contract import Contract
from unisc.scaling.fit import Fit, fit
from unisc.scaling.links import SPACES
from unisc.scaling.runs import find_budgets
from unisc.scaling.solve import solve

MAX_LEVELS = 24
"""Where sizes (data sizes, budgets) have more levels than this they are left out by tenths of the runs, not one by one."""
_TOLERANCE = 0.05  # of a level
_TENTHS = 10
_NUM_STARTS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Omission:
    """Hold runs to leave out (n,), of which kind the omission is, and its description; `run` where it is one run."""

    kind: str
    change: str
    left_out: np.ndarray
    run: int | None = None


def omissions(fit: Fit, groups: Mapping[str, Sequence], max_trimmed: int) -> tuple[list[Omission], dict[str, str]]:
    """Return what to leave out of a fit's table, by run, size, data, budget, group and trimming, and why the rest cannot be.

    Raises:
      InputError: labels of a group that are not one a run.
    """
    axes, loss, used = fit.problem.axes, fit.problem.loss, fit.weight > 0
    found, skipped = [], {}
    for run in np.flatnonzero(used):
        sizes = ", ".join(f"{label}={size:.4g}" for label, size in zip(fit.labels, axes[:, run], strict=True))
        found.append(Omission(kind="run", change=f"run {run} ({sizes})", left_out=np.arange(len(loss)) == run, run=int(run)))
    size, data = fit.law.size_and_data(axes)
    levels = {"size": size, "data": data, "budget": size * data} if len(axes) > 1 else {"size": size}
    for kind, values in levels.items():
        masks = dict(_levels(kind, values))
        if max(int(mask.sum()) for mask in masks.values()) == 1:
            skipped[kind] = "every run has its own: the refits are those without each run"
            continue
        found += [Omission(kind=kind, change=change, left_out=mask) for change, mask in masks.items()]
    for kind, labels in groups.items():
        words = np.asarray(labels).astype(str)
        if words.shape != loss.shape:
            raise InputError(f"group {kind!r} has shape {words.shape} and the fit has {len(loss)} runs; give one label a run")
        found += [Omission(kind=kind, change=f"{kind} {word}", left_out=words == word) for word in np.unique(words)]
    order = np.argsort(np.where(used, -loss, np.inf), kind="stable")
    for count in range(min(max_trimmed, int(used.sum()) - 1) + 1):
        found.append(
            Omission(kind="trim", change=f"{count} highest losses", left_out=np.isin(np.arange(len(loss)), order[:count]))
        )
    enough = []
    for omission in found:
        kept = used & ~omission.left_out
        if kept.sum() < fit.num_free:
            skipped[omission.change] = f"{kept.sum()} runs would be left for {fit.num_free} parameters"
        elif any(len(np.unique(axis[kept])) < 2 for axis in axes):
            skipped[omission.change] = "one size would be left on an axis"
        else:
            enough.append(omission)
    return enough, skipped


def _levels(kind: str, values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the runs (n,) of each level of a size, or of each tenth of the runs where there are too many levels."""
    if (values <= 0).any():
        return
    levels = find_budgets(values, _TOLERANCE)
    if len(levels) <= MAX_LEVELS or len(levels) == len(values):
        nearest = np.argmin(np.abs(np.log(values)[:, None] - np.log(levels)), axis=1)
        yield from ((f"{kind} {level:.4g}", nearest == place) for place, level in enumerate(levels))
        return
    tenth = np.searchsorted(np.quantile(values, np.arange(1, _TENTHS) / _TENTHS), values)
    for place in np.unique(tenth):
        mask = tenth == place
        yield f"{kind} {values[mask].min():.4g} to {values[mask].max():.4g}", mask


def without(fit: Fit, omitted: Sequence[Omission]) -> tuple[np.ndarray, np.ndarray]:
    """Return parameters (V, P) and objectives (V,) of the refits without each, in one program.

    Each starts at the optimum, at the best seed of the whole table and at a middling one: a run may have held the fit in its
    basin.
    """
    problem, absolute = fit.problem, fit.contract.loss == "absolute"
    slope = fit.contract.link.derivatives(problem.loss)[0]
    grid = np.clip(fit.law.starts(problem.axes, problem.loss, slope), fit.lower, fit.upper)
    rough = problem.objective(grid, fit.weight, 1e-3 if absolute else None)
    order = np.argsort(np.where(np.isfinite(rough), rough, np.inf), kind="stable")
    starts = np.concatenate([fit.theta[None], grid[order[[0, len(order) // 4]]]])
    weight = np.array([np.where(omission.left_out, 0.0, fit.weight) for omission in omitted])
    with np.errstate(invalid="ignore"):  # A run that is left out may have no finite prediction: nothing times infinity.
        found = solve(problem, np.tile(starts, (len(weight), 1)), fit.lower, fit.upper, np.repeat(weight, len(starts), axis=0))
    objective = np.where(np.isfinite(found.objective), found.objective, np.inf).reshape(len(weight), -1)
    best = np.argmin(objective, axis=1)
    theta = found.theta.reshape(*objective.shape, -1)
    return theta[np.arange(len(weight)), best], objective[np.arange(len(weight)), best]


def objectives(contract: Contract, deltas: Sequence[float]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield other objectives than a contract's, described, and the fields they change: every loss in every space."""
    losses = [("squared", None), *[("huber", delta) for delta in deltas], ("absolute", None)]
    for space in SPACES:
        if space == "logit" and contract.upper is None:
            continue
        for loss, delta in losses:
            same = (space, loss) == (contract.space, contract.loss) and delta in (None, contract.huber_delta)
            if not same:
                knee = {} if delta is None else {"huber_delta": delta}
                yield f"{loss}{'' if delta is None else f' {delta:g}'}, {space} space", {"space": space, "loss": loss, **knee}


def again(fitted: Fit, axes: np.ndarray | None = None, **changes: Any) -> Fit:
    """Fit the same table under a contract with these changes, on axes (X, n) counted otherwise; what was fixed stays fixed.

    Raises:
      InputError: the contract or the table does not allow it.
    """
    contract, problem = fitted.contract, fitted.problem
    scale = problem.scale / contract.link.derivatives(problem.loss)[0]
    return fit(
        fitted.law.name,
        *(problem.axes if axes is None else axes),
        contract.to_metric(problem.loss),
        contract=dataclasses.replace(contract, **changes),
        weights=fitted.weight,
        se=None if (problem.scale == 1).all() else scale,
        fixed={
            name: fitted.params[name]
            for name, free in zip(fitted.law.names, fitted.lower < fitted.upper, strict=True)
            if not free
        },
        labels=fitted.labels,
        num_starts=_NUM_STARTS,
        starts=list(fitted.params.values()) if axes is None else None,
    )
