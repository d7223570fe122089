"""Say how sure a fit is: bootstrap and profile intervals, with unbounded ends said as such."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import stdtrit

from unisc.errors import InputError
from unisc.scaling.fit import Fit, points
from unisc.scaling.solve import solve

_BOUND_MARGIN = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """Hold a value with its interval; an open end is None, and `note` then says why."""

    value: float
    low: float | None
    high: float | None
    level: float
    method: str
    note: str = ""

    @property
    def bounded(self) -> bool:
        return self.low is not None and self.high is not None

    def holds(self, truth: float) -> bool:
        """Tell whether the interval contains a number; an open end contains everything beyond it."""
        return (self.low is None or self.low <= truth) and (self.high is None or truth <= self.high)

    def to_json(self) -> dict[str, Any]:
        """Return value, low, high, level, method and note; an unbounded end is null."""
        return {name: getattr(self, name) for name in ("value", "low", "high", "level", "method", "note")}

    def __str__(self) -> str:
        ends = ["unbounded" if end is None else f"{end:.4g}" for end in (self.low, self.high)]
        return f"{self.value:.4g} [{ends[0]}, {ends[1]}]"


@dataclass(frozen=True)
class Bootstrap:
    """Hold refits of resampled tables: internal parameters (S, P) and the fit they came from.

    Refits begin at the optimum. Where the objective is flat they stay there, and their spread would promise what the table
    cannot know: so every interval is checked against the profiles, whose open ends open it too.
    """

    fit: Fit
    draws: np.ndarray
    method: str
    num_clusters: int

    @cached_property
    def valley(self) -> "Valley | None":
        """The profiles of floor and exponents, where the table leaves one of them open; else None."""
        if self.fit.num_runs <= self.fit.num_free:
            return None
        found = valley(self.fit)
        return None if all(interval.bounded for interval in found.intervals.values()) else found

    def interval(self, name: str, level: float = 0.90) -> Interval:
        """Return the percentile interval of a natural parameter; an end that no data hold back is open."""
        names = self.fit.law.names
        if name not in names:
            raise InputError(f"{self.fit.law.name} has no parameter {name!r}; it has {', '.join(names)}")
        column = names.index(name)
        if self.fit.lower[column] == self.fit.upper[column]:
            value = self.fit.params[name]
            return Interval(value=value, low=value, high=value, level=level, method="fixed")
        values = self.fit.law.natural(self.draws)[:, column]
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
        below, above = self._shares_at_bounds(column)
        tail = (1 - level) / 2
        notes = []
        if below > tail:
            notes.append(f"unbounded below: {below:.0%} of the refits put {name} at its lower bound")
        if above > tail:
            notes.append(f"unbounded above: {above:.0%} of the refits put {name} at its upper bound")
        open_below, open_above = below > tail, above > tail
        watched = self._watched(column)
        if self.valley is not None and watched in self.valley.intervals:
            profiled = self.valley.intervals[watched]
            # An amplitude goes with its exponent: where that is open, neither end of the amplitude is known.
            both = watched != name and not profiled.bounded
            open_below, open_above = open_below or profiled.low is None or both, open_above or profiled.high is None or both
            notes += [profiled.note] if profiled.note else []
            if watched == name:
                low = min(low, profiled.low if profiled.low is not None else low)
                high = max(high, profiled.high if profiled.high is not None else high)
        return Interval(
            value=self.fit.params[name],
            low=None if open_below else float(low),
            high=None if open_above else float(high),
            level=level,
            method=self.method,
            note="; ".join(notes) if open_below or open_above else "",
        )

    def _watched(self, column: int) -> str:
        """Return the parameter whose profile speaks for a column: its own, or for an amplitude that of its exponent."""
        parameter = self.fit.law.parameters[column]
        return parameter.of or parameter.name

    def _shares_at_bounds(self, column: int) -> tuple[float, float]:
        """Return the shares of refits that put a parameter, or an amplitude's exponent, at its bounds.

        An amplitude means nothing once its exponent is gone: with alpha at zero A is whatever the floor is not.
        """
        columns = {column, self.fit.law.names.index(self._watched(column))}
        below = max(float(np.mean(self.draws[:, c] <= self.fit.lower[c] + _BOUND_MARGIN)) for c in columns)
        above = max(float(np.mean(self.draws[:, c] >= self.fit.upper[c] - _BOUND_MARGIN)) for c in columns)
        return below, above

    def prediction(self, *axes: float, level: float = 0.90) -> Interval:
        """Return the interval of the law's mean at one size (parameter uncertainty alone; see `backtest` for the rest)."""
        low, high = self.band(*axes, level=level)
        value = float(self.fit.predict(*axes)[0])
        flat = self.valley is not None
        note = "widened over the flat valley of the objective" if flat else ""
        method = f"{self.method} and profiles" if flat else self.method
        return Interval(value=value, low=float(low[0]), high=float(high[0]), level=level, method=method, note=note)

    def band(self, *axes, level: float = 0.90) -> tuple[np.ndarray, np.ndarray]:
        """Return pointwise lower and upper predictions (n,) along sizes given axis by axis."""
        grid = points(axes)
        drawn = self.fit.contract.to_metric(self.fit.law.predict(self.draws, grid))
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
        if self.valley is not None:
            along = self.fit.contract.to_metric(self.fit.law.predict(self.valley.members, grid))
            low, high = np.minimum(low, along.min(axis=0)), np.maximum(high, along.max(axis=0))
        return low, high

    def standard_errors(self) -> dict[str, float]:
        """Return the standard deviation of each natural parameter over the refits."""
        return dict(zip(self.fit.law.names, map(float, self.fit.law.natural(self.draws).std(axis=0)), strict=True))


def bootstrap(fit: Fit, *, clusters=None, draws: int = 1000, seed: int = 0) -> Bootstrap:
    """Refit on resampled runs, warm from the optimum; `clusters` (n,) are resampled whole.

    Runs that share an error must share a cluster: the seeds of one (size, data) cell share the law's lack of fit there, and
    days share their weather.
    """
    count = fit.num_runs
    if clusters is None:
        labels, groups = np.arange(count), count
    else:
        clusters = np.asarray(clusters)
        if clusters.shape != (count,):
            raise InputError(f"clusters has shape {clusters.shape} and the fit has {count} runs; give one label a run")
        labels = np.unique(clusters, return_inverse=True)[1]
        groups = int(labels.max()) + 1
        if groups < 3:
            raise InputError(f"a cluster bootstrap over {groups} clusters says nothing; give at least 3 or leave clusters out")
    rng = np.random.default_rng(seed)
    times = rng.multinomial(groups, np.full(groups, 1 / groups), size=draws)[:, labels]
    weight = times * fit.weight
    solved = solve(fit.problem, np.tile(fit.theta, (draws, 1)), fit.lower, fit.upper, weight, damping=1e-3)
    method = "case bootstrap" if clusters is None else f"cluster bootstrap ({groups} clusters)"
    return Bootstrap(fit, solved.theta, method, groups)


@dataclass(frozen=True, slots=True)
class Valley:
    """Hold the profiles of floor, exponents and coefficients, and the parameters found along them.

    `members` (K, P), internal, are refits not significantly worse than the optimum: laws that the table cannot tell apart.
    """

    intervals: Mapping[str, Interval]
    members: np.ndarray


def valley(fit: Fit, level: float = 0.90, points: int = 15) -> Valley:
    """Profile the floor, every exponent and every coefficient of a fit."""
    free = fit.lower < fit.upper
    kinds = ("floor", "exponent", "coefficient")
    names = [p.name for p, is_free in zip(fit.law.parameters, free, strict=True) if is_free and p.kind in kinds]
    found = {name: _profile(fit, name, level, points) for name in names}
    members = np.concatenate([fit.theta[None], *[members for _, members in found.values()]])
    return Valley({name: interval for name, (interval, _) in found.items()}, members)


def profile(fit: Fit, name: str, level: float = 0.90, points: int = 25) -> Interval:
    """Return the profile interval of a natural parameter: the values whose best refit is not significantly worse.

    The rise of the objective is scaled by twice the mean bend over the mean squared slope of the loss at the residuals (the
    quasi-likelihood ratio test of robust regression) and compared with F(1, n - P). An end that is not reached inside the
    fit's bounds is open.
    """
    return _profile(fit, name, level, points)[0]


def _profile(fit: Fit, name: str, level: float, points: int) -> tuple[Interval, np.ndarray]:
    names = fit.law.names
    if name not in names:
        raise InputError(f"{fit.law.name} has no parameter {name!r}; it has {', '.join(names)}")
    column, degrees = names.index(name), fit.num_runs - fit.num_free
    if degrees < 1:
        raise InputError(f"{fit.num_runs} runs leave no degree of freedom for {fit.num_free} parameters; add runs")
    parameter = fit.law.parameters[column]
    if parameter.of:
        raise InputError(f"amplitude {name} has no profile of its own, it trades against its exponent; profile {parameter.of}")
    if fit.lower[column] == fit.upper[column]:
        raise InputError(f"{name} was fixed at {fit.params[name]:g}; leave it free to profile it")
    exponents = [c for c, p in enumerate(fit.law.parameters) if p.kind == "exponent" and fit.lower[c] < fit.upper[c]]
    limit = float(stdtrit(degrees, 0.5 + level / 2)) ** 2
    rise = _rise_to_statistic(fit)
    lower, upper = fit.lower, fit.upper
    members: list[np.ndarray] = []

    def refit(values: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the best refit (V, P) and objective (V,) with the parameter held at values (V,), from starts (K, V, P)."""
        times = len(starts)
        starts = starts.copy()
        starts[:, :, column] = values
        low, high = np.tile(lower, (len(values), 1)), np.tile(upper, (len(values), 1))
        low[:, column] = high[:, column] = values
        flat = starts.reshape(-1, starts.shape[-1])
        found = solve(fit.problem, flat, np.tile(low, (times, 1)), np.tile(high, (times, 1)), fit.weight)
        best = np.argmin(found.objective.reshape(times, -1), axis=0) * len(values) + np.arange(len(values))
        return found.theta[best], found.objective[best]

    def statistic(values: np.ndarray) -> np.ndarray:
        starts = np.tile(fit.theta, (3, len(values), 1))
        starts[1][:, exponents] *= 0.5  # A gentler slope, or a steeper one: the valley often bends that way.
        starts[2][:, exponents] *= 2.0
        theta, objective = refit(values, starts)
        # A long valley is walked from each value's neighbours on.
        around = np.stack([theta, np.roll(theta, 1, axis=0), np.roll(theta, -1, axis=0)])
        theta, objective = refit(values, around)
        risen = (objective - fit.objective) * rise
        members.append(theta[risen <= limit])
        return risen

    here = float(fit.theta[column])
    # The floor is held in logs; a grid even in the floor itself resolves both sides of it.
    in_logs = parameter.kind == "floor" and parameter.log
    to, back = (np.exp, np.log) if in_logs else (np.positive, np.positive)
    ends = [
        _crossing(statistic, float(to(here)), float(to(bound)), back, limit, points)
        for bound in (float(lower[column]), float(upper[column]))
    ]
    open_ends = [side for side, end in zip(("below", "above"), ends, strict=True) if end is None]
    low, high = (None if end is None else _natural(fit, column, end) for end in ends)
    note = (
        f"unbounded {' and '.join(open_ends)}: the profile of {name} never rises to the {level:.0%} limit" if open_ends else ""
    )
    interval = Interval(value=fit.params[name], low=low, high=high, level=level, method="profile", note=note)
    return interval, np.concatenate(members)


def _crossing(
    statistic: Callable[[np.ndarray], np.ndarray], here: float, bound: float, back: Callable, limit: float, points: int
) -> float | None:
    """Walk from the optimum to a bound and return the first internal value where the statistic passes the limit."""
    # Denser near the optimum, where a well determined parameter's limit lies; then ever closer inside the bracket, until the
    # statistic is so even over it that a straight line between its ends will do.
    grid = here + (bound - here) * np.geomspace(1e-4, 1.0, points)
    below, at_below, above, at_above, crossing = here, 0.0, bound, 0.0, None
    for _ in range(8):
        values = statistic(back(grid))
        over = np.flatnonzero(values > limit)
        if len(over):
            first = int(over[0])
            above, at_above = grid[first], values[first]
            below, at_below = (grid[first - 1], values[first - 1]) if first else (below, at_below)
        elif crossing is None:
            return None
        else:  # The bracket's own upper end has been seen above the limit.
            below, at_below = grid[-2], values[-2]
        crossing = below + (limit - at_below) / (at_above - at_below) * (above - below)
        if at_above < 2 * limit:
            break
        grid = np.linspace(below, above, 7)[1:]
    assert crossing is not None
    return float(back(crossing))


def _natural(fit: Fit, column: int, internal: float) -> float:
    theta = fit.theta.copy()
    theta[column] = internal
    return float(fit.law.natural(theta[None])[0, column])


def _rise_to_statistic(fit: Fit) -> float:
    residual = fit.problem.residuals(fit.theta[None])[0]
    weight, contract = fit.weight, fit.contract
    degrees = max(fit.num_runs - fit.num_free, 1)
    if contract.loss == "squared":
        slope, bend = residual, np.ones_like(residual)
    elif contract.loss == "huber":
        slope = np.clip(residual, -contract.huber_delta, contract.huber_delta)
        bend = (np.abs(residual) <= contract.huber_delta).astype(float)
        if bend.mean() < 0.2:  # Too few residuals inside the knee: count the density at zero over a wider window.
            bend = _density_bend(residual, contract.huber_delta)
    else:
        slope, bend = np.sign(residual), _density_bend(residual, 1.0)
    spread = float((weight * slope**2).sum()) / degrees
    curvature = float((weight * bend).sum() / weight.sum())
    return 2 * curvature / max(spread, 1e-300)


def _density_bend(residual: np.ndarray, knee: float) -> np.ndarray:
    """Return terms whose mean is knee times twice the residuals' density at zero: the expected bend of |r| times the knee."""
    width = max(float(np.quantile(np.abs(residual), 0.35)), 1e-300)
    return (np.abs(residual) <= width) * (knee / width)


def summarise(fit: Fit, boot: Bootstrap | None, level: float = 0.90) -> Mapping[str, dict[str, Any]]:
    """Return `{value, low, high, level, method, note}` for every natural parameter of a fit."""
    if boot is not None:
        return {name: boot.interval(name, level).to_json() for name in fit.law.names}
    missing = "no interval: no bootstrap was made"
    return {
        name: Interval(value=value, low=None, high=None, level=level, method="none", note=missing).to_json()
        for name, value in fit.params.items()
    }
