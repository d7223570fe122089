"""Refit resampled tables, thousands in one program: whole runs, clusters of runs, residuals, or residuals of random sign."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from scipy.special import ndtri, stdtrit

from unisc.errors import InputError
from unisc.scaling.extrapolation import Extrapolation
from unisc.scaling.fit import Fit, points
from unisc.scaling.intervals import Interval
from unisc.scaling.profile import Profile, degrees_of_freedom, profiles, unequal_errors
from unisc.scaling.quantities import Quantities
from unisc.scaling.solve import solve

Kind = Literal["case", "cluster", "residual", "wild"]
Method = Literal["profile", "percentile", "basic"]
_KINDS: tuple[Kind, ...] = ("case", "cluster", "residual", "wild")
_METHODS: tuple[Method, ...] = ("profile", "percentile", "basic")
_BOUND_MARGIN = 1e-6
_UNEQUAL = 1.645
_TRACED = 12
"""Sizes of a band whose own profile is traced; between them the band is what the refits found there allow."""


@dataclass(frozen=True)
class Bootstrap:
    """Hold refits of resampled tables: internal parameters (S, P) and the fit they came from.

    Intervals are profiles by default: over simulated tables they cover as often as they say, while percentiles of few runs are
    too narrow, and refits that begin at the optimum of a flat objective stay there. Where runs share errors (clusters), or
    where their errors differ (wild; of cases, where White's test says so), the bootstrap measures how wide an interval is, and
    the profile gives its shape.
    """

    fit: Fit
    draws: np.ndarray
    method: str
    num_clusters: int
    kind: Kind = "case"
    _found: dict[float, dict[str, Profile]] = field(default_factory=dict, repr=False, compare=False)

    def _times(
        self, columns: Sequence[int], grid: np.ndarray, wanted: np.ndarray, width: np.ndarray, level: float
    ) -> np.ndarray:
        """Return by how much to stretch profiles (Q,) of a width to that of the draws, for parameters, then predictions."""
        # From few clusters an estimate is Student's, and spreads less by (G - 1) / G than it should.
        groups, tail = self.num_clusters, 0.5 + level / 2
        student = stdtrit(groups - 1, tail) / ndtri(tail) * np.sqrt(groups / (groups - 1))
        times = student * wanted / np.maximum(width, 1e-300)
        if self.kind in ("cluster", "wild"):
            # Refits begin at the optimum, and where the objective is flat they stay there: then they can but widen.
            flat = any(not found.interval.bounded for found in self._profiles(level).values())
            return np.maximum(times, 1.0) if flat else times
        if self.kind == "residual":
            return np.ones_like(times)
        gradients = Quantities(self.fit, columns, grid).gradients(self.fit.theta[None])[0]
        return np.where(unequal_errors(self.fit, gradients) > _UNEQUAL, np.maximum(times, 1.0), 1.0)

    @property
    def _can_profile(self) -> bool:
        return degrees_of_freedom(self.fit) > 0

    @property
    def _free(self) -> list[str]:
        return [n for n, low, high in zip(self.fit.law.names, self.fit.lower, self.fit.upper, strict=True) if low < high]

    def _profiles(self, level: float) -> dict[str, Profile]:
        """The profiles of all free parameters by name."""
        if level not in self._found:
            self._found[level] = dict(zip(self._free, profiles(self.fit, level=level), strict=True))
        return self._found[level]

    def profile(self, name: str, level: float = 0.90) -> Interval:
        """Return the profile interval of a free natural parameter alone, whatever the draws say."""
        return self._profiles(level)[name].interval

    def interval(self, name: str, level: float = 0.90, method: Method = "profile") -> Interval:
        """Return the interval of a natural parameter; an end that no data hold back is open."""
        law = self.fit.law
        if name not in law.names:
            raise InputError(f"{law.name} has no parameter {name!r}; it has {', '.join(law.names)}")
        if method not in _METHODS:
            raise InputError(f"interval method {method!r} is unknown; choose one of {', '.join(_METHODS)}")
        column = law.names.index(name)
        value = self.fit.params[name]
        if self.fit.lower[column] == self.fit.upper[column]:
            return Interval(value=value, low=value, high=value, level=level, method="fixed")
        if method == "profile" and self._can_profile:
            return self._profiled(column, level)
        to, back = _scale_of(self.fit, column)
        low, high = np.quantile(to(law.natural(self.draws)[:, column]), [(1 - level) / 2, (1 + level) / 2])
        if method == "basic":
            low, high = 2 * to(np.array(value)) - high, 2 * to(np.array(value)) - low
        notes, open_below, open_above = self._at_bounds(column, name, level)
        return Interval(
            value=value,
            low=None if open_below else float(back(low)),
            high=None if open_above else float(back(high)),
            level=level,
            method=f"{self.method}, {method}",
            note="; ".join(notes),
        )

    def _profiled(self, column: int, level: float) -> Interval:
        """Return the profile interval of a parameter, as wide as the draws where they decide."""
        law, (to, back) = self.fit.law, _scale_of(self.fit, column)
        name, of, found = law.names[column], law.parameters[column].of, self._profiles(level)
        own = found[name].interval
        if of in found and not (exponent := found[of].interval).bounded:
            # An amplitude goes with its exponent: where that is open, neither end of the amplitude is known.
            note = "; ".join([exponent.note, *self._at_bounds(column, name, level)[0]])
            return replace(own, low=None, high=None, note=note)
        centre = to(np.array(own.value))
        low, high = (float(to(np.array(own.value if end is None else end))) for end in (own.low, own.high))
        drawn = np.quantile(to(law.natural(self.draws)[:, column]), [(1 - level) / 2, (1 + level) / 2])
        # With one end open the other is compared with half the width of the draws.
        wanted = np.array([np.ptp(drawn) if own.bounded else np.ptp(drawn) / 2])
        times = (
            self._times([column], np.empty((law.num_axes, 0)), wanted, np.array([high - low]), level) if high > low else [1.0]
        )
        low, high = (float(centre + times[0] * (end - centre)) for end in (low, high))
        bounds = np.tile(self.fit.theta, (2, 1))
        bounds[:, column] = self.fit.lower[column], self.fit.upper[column]
        least, most = to(law.natural(bounds)[:, column]) if not of else (-np.inf, np.inf)
        open_below, open_above = own.low is None or low < least, own.high is None or high > most
        notes = [own.note] if own.note else []
        if own.bounded and (open_below or open_above):
            notes = [
                f"unbounded {'below' if open_below else 'above'}: as wide as the {self.method} it passes the bound of {name}"
            ]
        if open_below or open_above:
            notes += self._at_bounds(column, name, level)[0]
        return Interval(
            value=own.value,
            low=None if open_below else float(back(low)),
            high=None if open_above else float(back(high)),
            level=level,
            method="profile" if times[0] == 1.0 else f"profile as wide as the {self.method}",
            note="; ".join(notes),
        )

    def _at_bounds(self, column: int, name: str, level: float) -> tuple[list[str], bool, bool]:
        """Say which ends are open because more than a tail of the refits put a parameter, or its exponent, at its bounds."""
        watched = self.fit.law.parameters[column].of
        # An amplitude means nothing once its exponent is gone: with alpha at zero A is whatever the floor is not.
        columns = {column, self.fit.law.names.index(watched or name)}
        below = max(float(np.mean(self.draws[:, c] <= self.fit.lower[c] + _BOUND_MARGIN)) for c in columns)
        above = max(float(np.mean(self.draws[:, c] >= self.fit.upper[c] - _BOUND_MARGIN)) for c in columns)
        tail, notes = (1 - level) / 2, []
        if below > tail:
            notes.append(f"unbounded below: {below:.0%} of the refits put {name} at its lower bound")
        if above > tail:
            notes.append(f"unbounded above: {above:.0%} of the refits put {name} at its upper bound")
        return notes, below > tail, above > tail

    def prediction(
        self, *axes: float, level: float = 0.90, method: Method = "profile", backtest: Extrapolation | None = None
    ) -> Interval:
        """Return the interval of the law's mean at one size: of its parameters alone, were the law true.

        `backtest` widens it by how far earlier extrapolations of this law on this table missed theirs (see `extrapolation`).
        """
        grid = points(axes)
        interval = self._intervals(grid, level, method)[0]
        return interval if backtest is None else backtest.widen(self.fit, interval, grid[:, 0])

    def predictions(self, *axes, level: float = 0.90, method: Method = "profile") -> list[Interval]:
        """Return the intervals of the law's mean at sizes (n,) given axis by axis, traced in one program."""
        return self._intervals(points(axes), level, method)

    def _intervals(self, grid: np.ndarray, level: float, method: Method) -> list[Interval]:
        low, high, stretched = self._ends(grid, level, method)
        label = f"{self.method}, {method}"
        if method == "profile" and self._can_profile:
            label = f"profile as wide as the {self.method}" if stretched.any() else "profile"
        return [
            Interval(value=float(value), low=float(below), high=float(above), level=level, method=label)
            for value, below, above in zip(self.fit.predict(*grid), low, high, strict=True)
        ]

    def band(self, *axes, level: float = 0.90, method: Method = "profile") -> tuple[np.ndarray, np.ndarray]:
        """Return pointwise lower and upper predictions (n,) along sizes given axis by axis."""
        return self._ends(points(axes), level, method)[:2]

    def _ends(self, grid: np.ndarray, level: float, method: Method) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return lower and upper predictions (n,) at sizes (X, n), and which of them the draws stretched."""
        fit, link = self.fit, self.fit.contract.link
        with np.errstate(all="ignore"):
            drawn = link(fit.law.predict(self.draws, grid))
            here = link(fit.law.predict(fit.theta[None], grid))[0]
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
        times = np.ones_like(here)
        if method == "basic":
            low, high = 2 * here - high, 2 * here - low
        elif method == "profile" and self._can_profile:
            wanted = high - low
            low, high = self._likely(grid, here, level)
            times = self._times([], grid, wanted, high - low, level)
            low, high = here + times * (low - here), here + times * (high - here)
        ends = fit.contract.to_metric(link.inverse(np.stack([low, high])))
        return ends.min(axis=0), ends.max(axis=0), times != 1.0

    def _likely(self, grid: np.ndarray, here: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest predictions (n,), in the contract's space, of laws not significantly worse."""
        fit = self.fit
        _, first = np.unique(here, return_index=True)
        chosen = first[np.linspace(0, len(first) - 1, min(len(first), _TRACED)).round().astype(int)]
        # Parameters, whose profiles say how flat the objective is, are traced in the same program where they were not yet.
        together = None if level not in self._found else []
        found = profiles(fit, together, grid[:, chosen], level=level)
        if together is None:
            of_parameters, found = found[: -len(chosen)], found[-len(chosen) :]
            self._found[level] = dict(zip(self._free, of_parameters, strict=True))
        members = np.concatenate([fit.theta[None], *[p.theta[p.statistic <= p.limit] for p in found]])
        with np.errstate(all="ignore"):
            along = fit.contract.link(fit.law.predict(members, grid))
        low, high = along.min(axis=0), along.max(axis=0)
        for column, of in zip(chosen, found, strict=True):
            ends = fit.contract.link(fit.contract.to_loss(np.array([of.interval.low, of.interval.high], float)))
            same = here == here[column]
            low[same], high[same] = np.minimum(low[same], ends.min()), np.maximum(high[same], ends.max())
        return low, high

    def standard_errors(self) -> dict[str, float]:
        """Return the standard deviation of each natural parameter over the refits."""
        return dict(zip(self.fit.law.names, map(float, self.fit.law.natural(self.draws).std(axis=0)), strict=True))


def _scale_of(fit: Fit, column: int) -> tuple[Callable, Callable]:
    """Return the scale a parameter is resampled on, and the way back."""
    parameter = fit.law.parameters[column]
    if parameter.log or parameter.kind == "amplitude":
        return lambda natural: np.log(np.maximum(natural, 1e-300)), lambda value: np.exp(np.minimum(value, 700))
    return np.asarray, np.asarray


def bootstrap(fit: Fit, *, kind: Kind | None = None, clusters=None, draws: int = 1000, seed: int = 0) -> Bootstrap:
    """Refit on resampled runs, warm from the optimum.

    "case" resamples runs; "cluster" resamples the labels `clusters` (n,) whole; "residual" puts resampled residuals on the
    fitted law, as if errors were alike; "wild" gives each residual, or all of a cluster, a random sign, so that errors keep
    their sizes. Without a kind it is "cluster" where clusters are given, else "case".

    Runs that share an error must share a cluster: the seeds of one (size, data) cell share the law's lack of fit there, and
    days share their weather.
    """
    kind = kind or ("case" if clusters is None else "cluster")
    if kind not in _KINDS:
        raise InputError(f"bootstrap kind {kind!r} is unknown; choose one of {', '.join(_KINDS)}")
    if kind in ("case", "residual") and clusters is not None:
        raise InputError(f"a {kind} bootstrap resamples single runs; use kind 'cluster' or 'wild', or leave clusters out")
    labels, groups = _groups(fit, kind, clusters)
    rng = np.random.default_rng(seed)
    problem, weight = fit.problem, fit.weight
    if kind in ("case", "cluster"):
        weight = rng.multinomial(groups, np.full(groups, 1 / groups), size=draws)[:, labels] * fit.weight
    else:
        problem = replace(problem, loss=_resampled(fit, kind, labels, groups, draws, rng))
    solved = solve(problem, np.tile(fit.theta, (draws, 1)), fit.lower, fit.upper, weight, damping=1e-3)
    name = f"{kind} bootstrap"
    return Bootstrap(fit, solved.theta, name if clusters is None else f"{name} ({groups} clusters)", groups, kind)


def _groups(fit: Fit, kind: Kind, clusters) -> tuple[np.ndarray, int]:
    """Return each run's group (n,) and their number."""
    count = fit.num_runs
    if clusters is None:
        if kind == "cluster":
            raise InputError("a cluster bootstrap needs clusters; give one label a run")
        return np.arange(count), count
    clusters = np.asarray(clusters)
    if clusters.shape != (count,):
        raise InputError(f"clusters has shape {clusters.shape} and the fit has {count} runs; give one label a run")
    labels = np.unique(clusters, return_inverse=True)[1]
    groups = int(labels.max()) + 1
    if groups < 3:
        raise InputError(f"a cluster bootstrap over {groups} clusters says nothing; give at least 3 or leave clusters out")
    return labels, groups


def _resampled(fit: Fit, kind: Kind, labels: np.ndarray, groups: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return tables of losses (S, n) made of the fitted law and its residuals, resampled or with random signs."""
    problem, link = fit.problem, fit.contract.link
    residual = -problem.residuals(fit.theta[None])[0]
    # Residuals of a fit are smaller than errors by the parameters it spent.
    residual = residual * np.sqrt(fit.num_runs / max(fit.num_runs - fit.num_free, 1))
    if kind == "residual":
        spread = np.sqrt(fit.weight / fit.weight.mean())  # a run of more weight has a smaller error
        usable = spread > 0
        alike = residual[usable] * spread[usable]
        residual = rng.choice(alike - alike.mean(), size=(draws, fit.num_runs)) / np.where(usable, spread, 1.0)
    else:
        residual = residual * rng.choice([-1.0, 1.0], size=(draws, groups))[:, labels]
    return link.inverse(link(fit.law.predict(fit.theta[None], problem.axes)) + residual * problem.scale)
