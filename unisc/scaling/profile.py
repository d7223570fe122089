"""Profile likelihood of parameters and of predictions: how far each may go before the best refit is significantly worse.

A quantity is pulled outwards by a quadratic term added to the objective, and the refit followed from one aim to the next, all
quantities and both directions at once. Wherever a refit ends is the best fit at the value it reached, so a pull that is not met
costs no accuracy, and a prediction needs no formula that eliminates a parameter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from unisc.errors import InputError
from unisc.scaling.fit import Fit, points
from unisc.scaling.intervals import Interval
from unisc.scaling.quantities import Quantities, Towards
from unisc.scaling.solve import solve

_FIRST, _GROWTH = 0.6, 1.5  # the first aim in units of the expected end, and how much further each next one lies
_MAX_AIMS = 40
_STIFFNESS = 20.0  # of the pull, over the curvature it works against
_GAIN = 1e-8  # of the objective: what a refit may leave undone
_ENOUGH_INSIDE = 0.4
_EXACT = 1e-9


@dataclass(frozen=True, slots=True)
class Profile:
    """Hold a quantity's interval, the values (V,) visited, their statistic, the limit it is held against, and the refits.

    `theta` (V, P) are internal parameters, each the best refit at its value.
    """

    interval: Interval
    values: np.ndarray
    statistic: np.ndarray
    limit: float
    theta: np.ndarray


def profile(fit: Fit, name: str, level: float = 0.90) -> Interval:
    """Return the profile interval of a natural parameter: the values whose best refit is not significantly worse.

    The rise of the objective is scaled by twice the mean bend over the mean squared slope of the loss at the residuals (the
    quasi-likelihood ratio test of robust regression) and compared with F(1, n - P). An end that is not reached inside the
    fit's bounds is open.
    """
    return profiles(fit, [name], level=level)[0].interval


def profile_prediction(fit: Fit, *axes: float, level: float = 0.90) -> Interval:
    """Return the profile interval of the law's mean at one size, given axis by axis."""
    return profiles(fit, [], points(axes), level=level)[0].interval


def profiles(
    fit: Fit, names: Sequence[str] | None = None, axes: np.ndarray | None = None, level: float = 0.90
) -> list[Profile]:
    """Profile natural parameters by name (all free ones by default), then the predictions at sizes (X, K), in one program."""
    law = fit.law
    free = [name for name, low, high in zip(law.names, fit.lower, fit.upper, strict=True) if low < high]
    for name in names or []:
        if name not in law.names:
            raise InputError(f"{law.name} has no parameter {name!r}; it has {', '.join(law.names)}")
        if name not in free:
            raise InputError(f"{name} was fixed at {fit.params[name]:g}; leave it free to profile it")
    degrees = degrees_of_freedom(fit)
    if degrees < 1:
        raise InputError(f"{degrees + fit.num_free} runs leave no degree of freedom for {fit.num_free} parameters; add runs")
    columns = tuple(law.names.index(name) for name in (free if names is None else names))
    axes = np.empty((law.num_axes, 0)) if axes is None else axes
    quantities = Quantities(fit, columns, axes)
    limit = float(stdtrit(degrees, 0.5 + level / 2)) ** 2
    tracer = _Tracer(quantities, limit, rise_to_statistic(fit))
    tracer.trace()
    return [tracer.profile(index, level) for index in range(len(columns) + axes.shape[1])]


@dataclass(frozen=True, slots=True)
class _Refits:
    """Refits along several walks: parameters (V, P), where their quantities are (V,), and their statistics (V,)."""

    theta: np.ndarray
    at: np.ndarray
    statistic: np.ndarray

    def of(self, rows: np.ndarray) -> "_Refits":
        return _Refits(self.theta[rows], self.at[rows], self.statistic[rows])

    def put(self, rows: np.ndarray, other: "_Refits") -> None:
        self.theta[rows], self.at[rows], self.statistic[rows] = other.theta, other.at, other.statistic

    def replace_worse(self, rows: np.ndarray, other: "_Refits") -> None:
        better = other.statistic < self.statistic[rows]
        self.put(rows[better], other.of(better))


class _Tracer:
    """Follow each quantity both ways until its statistic passes the limit or there is no further to go."""

    def __init__(self, quantities: Quantities, limit: float, rise: float):
        fit = quantities.fit
        self.quantities, self.fit, self.limit, self.rise = quantities, fit, limit, rise
        theta = fit.theta[None]
        self.here = quantities.values(theta)[0]
        gradients = quantities.gradients(theta)[0]
        self.direction, self.spread = _local(fit, gradients, rise)
        count = len(self.here)
        self.span = np.array([self._span(index) for index in range(count)]).reshape(count, 2)
        self.visited: list[list[tuple[float, float, np.ndarray]]] = [[(self.here[q], 0.0, fit.theta)] for q in range(count)]
        self.ends = np.repeat(self.here[:, None], 2, axis=1)
        self.met_limit = np.zeros((count, 2), bool)

    def _span(self, index: int) -> tuple[float, float]:
        """Return how far a quantity may go down and up."""
        if index >= len(self.quantities.columns):
            loss = self.fit.problem.loss
            reach = 3.0 * float(np.ptp(loss)) if self.fit.contract.space == "loss" else 3.0
            reach = max(reach, 20 * np.sqrt(self.limit) * self.spread[index])
            return reach, reach
        column = self.quantities.columns[index]
        if self.fit.law.parameters[column].of:
            return 100.0, 100.0  # Of the logarithm of an amplitude: its exponent's bounds end it.
        bounds = np.tile(self.fit.theta, (2, 1))
        bounds[:, column] = self.fit.lower[column], self.fit.upper[column]
        low, high = self.quantities.values(bounds)[:, index]
        return self.here[index] - low, high - self.here[index]

    def trace(self) -> None:
        """Walk outwards, each aim further than the last, until every walk has met the limit or can go no further."""
        which, side = (part.ravel() for part in np.meshgrid(np.arange(len(self.here)), [0, 1], indexing="ij"))
        sign, span = np.where(side == 0, -1.0, 1.0), self.span[which, side]
        reach = np.minimum(_FIRST * np.sqrt(self.limit) * self.spread[which], np.maximum(span, 0.0) / 30)
        inside = _Refits(np.tile(self.fit.theta, (len(which), 1)), self.here[which].copy(), np.zeros(len(which)))
        live = np.flatnonzero(span > 1e-9)
        for _ in range(_MAX_AIMS):
            if not len(live):
                break
            offset = sign[live] * np.minimum(reach[live], span[live])
            last = inside.of(live)
            found = self._refit(which[live], offset, np.stack([last.theta, self._ahead(which[live], offset, last)]))
            over = found.statistic > self.limit
            if over.any():  # Before the limit is believed, the refit is sought from elsewhere too.
                elsewhere = self._elsewhere(found.theta[over], last.theta[over])
                found.replace_worse(np.flatnonzero(over), self._refit(which[live[over]], offset[over], elsewhere))
                over = found.statistic > self.limit
            if over.any():
                rows = live[over]
                self.ends[which[rows], side[rows]] = self._crossing(which[rows], last.of(over), found.of(over))
                self.met_limit[which[rows], side[rows]] = True
            rows, arrived = live[~over], found.of(~over)
            stuck = np.abs(arrived.at - inside.at[rows]) < 1e-3 * reach[rows]
            inside.put(rows, arrived)
            self.ends[which[rows], side[rows]] = arrived.at
            live = rows[(reach[rows] < span[rows] * (1 - 1e-9)) & ~stuck]
            reach[live] *= _GROWTH

    def _ahead(self, which: np.ndarray, offset: np.ndarray, last: "_Refits") -> np.ndarray:
        """Return the straight continuation (V, P) from the last refits to the next aims."""
        step = self.direction[which] * (self.here[which] + offset - last.at)[:, None]
        return last.theta + np.clip(step, -1.0, 1.0)

    def _elsewhere(self, theta: np.ndarray, inside: np.ndarray) -> np.ndarray:
        free = self.fit.lower < self.fit.upper
        exponents = [c for c, p in enumerate(self.fit.law.parameters) if p.kind == "exponent" and free[c]]
        gentler, steeper = theta.copy(), theta.copy()
        gentler[:, exponents] *= 0.5  # The valley often bends that way.
        steeper[:, exponents] *= 2.0
        return np.stack([0.5 * (theta + inside), gentler, steeper])

    def _refit(self, which: np.ndarray, offset: np.ndarray, starts: np.ndarray) -> "_Refits":
        """Return the best refits (V,) from starts (K, V, P) with their quantities pulled to offsets (V,) from the optimum."""
        fit, (times, count) = self.fit, starts.shape[:2]
        curvature = 1.0 / np.maximum(self.spread[which], 1e-12) ** 2
        stiffness = _STIFFNESS / self.rise * np.maximum(curvature, self.limit / offset**2)
        pull = Towards(
            self.quantities, np.tile(which, times), np.tile(self.here[which] + offset, times), np.tile(stiffness, times)
        )
        starts = starts.reshape(-1, starts.shape[2])
        found = solve(fit.problem, starts, fit.lower, fit.upper, fit.weight, pull=pull, damping=1e-2, gain=_GAIN)
        value = pull.derivatives(found.theta)[0] + found.objective
        best = np.argmin(np.where(np.isfinite(value), value, np.inf).reshape(times, count), axis=0) * count + np.arange(count)
        at = self.quantities.values(found.theta[best])[np.arange(count), which]
        refits = _Refits(found.theta[best], at, (found.objective[best] - fit.objective) * self.rise)
        for place, quantity in enumerate(which):
            self.visited[quantity].append((at[place], refits.statistic[place], refits.theta[place]))
        return refits

    def _crossing(self, which: np.ndarray, inside: "_Refits", beyond: "_Refits") -> np.ndarray:
        """Return where the statistic meets the limit between refits inside and beyond: its root is nearly straight there."""
        share = self._share(inside, beyond)
        crossing = inside.at + share * (beyond.at - inside.at)
        # A pull that is not quite met falls short: aim a little beyond.
        offset = (crossing - self.here[which]) * (1 + 1 / _STIFFNESS)
        near = self._refit(which, offset, (inside.theta + share[:, None] * (beyond.theta - inside.theta))[None])
        below = near.statistic <= self.limit
        inside.put(below, near.of(below))
        beyond.put(~below, near.of(~below))
        return inside.at + self._share(inside, beyond) * (beyond.at - inside.at)

    def _share(self, inside: "_Refits", beyond: "_Refits") -> np.ndarray:
        low, high = (np.sqrt(np.maximum(refits.statistic, 0.0)) for refits in (inside, beyond))
        return (np.sqrt(self.limit) - low) / np.maximum(high - low, 1e-12)

    def profile(self, index: int, level: float) -> Profile:
        """Return what was found of a quantity."""
        quantities, fit = self.quantities, self.fit
        order = sorted(self.visited[index], key=lambda entry: entry[0])
        values, statistic, theta = (np.array(part) for part in zip(*order, strict=True))
        lowest_highest = [quantities.natural(index, end) for end in self.ends[index]]
        ends: list[float | None] = [*lowest_highest]
        note = ""
        is_parameter = index < len(quantities.columns)
        if is_parameter:
            parameter = fit.law.parameters[quantities.columns[index]]
            value = fit.params[parameter.name]
            open_ends = ~self.met_limit[index]
            ends = [None if is_open else end for end, is_open in zip(ends, open_ends, strict=True)]
            if open_ends.any():
                names = " and ".join(name for name, is_open in zip(("below", "above"), open_ends, strict=True) if is_open)
                note = f"unbounded {names}: the profile of {parameter.name} never rises to the {level:.0%} limit"
        else:
            value = quantities.natural(index, self.here[index])
            ends = [min(lowest_highest), max(lowest_highest)]
            if not self.met_limit[index].all():
                note = "an end is as far as the law's bounds let the prediction go"
        interval = Interval(value=value, low=ends[0], high=ends[1], level=level, method="profile", note=note)
        natural = np.array([quantities.natural(index, v) for v in values])
        return Profile(interval, natural, statistic, self.limit, theta)


def unequal_errors(fit: Fit, gradients: np.ndarray) -> np.ndarray:
    """Return White's test (Q,), about N(0, 1), of whether errors are larger at the runs that move each quantity (Q, P).

    A profile takes errors for alike. Where this is large, it is too narrow.
    """
    problem, weight = fit.problem, fit.weight
    evaluated = problem.law.evaluate(fit.theta[None], problem.axes)
    first = problem.contract.link.derivatives(evaluated.value)[0] / problem.scale
    free = fit.lower < fit.upper
    slopes = (evaluated.gradient * first[..., None])[0][:, free] * np.sqrt(weight)[:, None]
    left, size, _ = np.linalg.svd(slopes / np.maximum(np.linalg.norm(slopes, axis=0), 1e-300), full_matrices=False)
    left = left[:, size > 1e-8 * size.max()]
    leverage = np.minimum((left**2).sum(axis=1), 0.99)
    residual = problem.residuals(fit.theta[None])[0]
    contract = problem.contract
    if contract.loss != "squared":
        knee = contract.huber_delta if contract.loss == "huber" else 0.0
        # Under a knee that most residuals pass, all slopes are alike: what differs is how many runs lie near the law.
        residual = np.minimum(np.abs(residual), max(knee, 3 * float(np.median(np.abs(residual)))))
    square = weight * residual**2 / (1 - leverage)
    influence = (gradients[:, free] @ np.linalg.pinv(slopes)) ** 2
    apart = influence - influence.mean(axis=1, keepdims=True)
    return apart @ square / np.maximum(square.std() * np.linalg.norm(apart, axis=1), 1e-300)


def _local(fit: Fit, gradients: np.ndarray, rise: float) -> tuple[np.ndarray, np.ndarray]:
    """Return directions (Q, P) in which each quantity moves by one at least cost, and its standard error (Q,)."""
    *_, metric = fit.problem.derivatives(fit.theta[None], fit.weight[None], fit.contract.huber_delta)
    free = np.flatnonzero(fit.lower < fit.upper)
    metric = metric[0][np.ix_(free, free)]
    scale = np.sqrt(np.maximum(np.diagonal(metric), 1e-300))
    inverse = np.linalg.pinv(metric / np.outer(scale, scale), rcond=1e-10, hermitian=True) / np.outer(scale, scale)
    moved = gradients[:, free] @ inverse
    variance = np.maximum((moved * gradients[:, free]).sum(axis=1), 1e-300)
    directions = np.zeros(gradients.shape)
    directions[:, free] = moved / variance[:, None]
    return directions, np.sqrt(2 * variance / rise)


def degrees_of_freedom(fit: Fit) -> int:
    """Return the degrees of freedom that are left: runs of any weight less the parameters fitted."""
    return int((fit.weight > 0).sum()) - fit.num_free


def rise_to_statistic(fit: Fit) -> float:
    """Return what turns a rise of the objective into a statistic distributed as F(1, n - P)."""
    residual = fit.problem.residuals(fit.theta[None])[0]
    weight, contract = fit.weight, fit.contract
    degrees = max(degrees_of_freedom(fit), 1)
    # An exact table has errors of the arithmetic at the least.
    least = _EXACT * float(np.median(np.abs(fit.problem.loss) * contract.link.derivatives(fit.problem.loss)[0]))
    if contract.loss == "squared":
        slope, curvature = residual, 1.0
    else:
        knee = contract.huber_delta if contract.loss == "huber" else 0.0
        slope = np.clip(residual, -knee, knee) if knee else np.sign(residual)
        least = min(least, knee) if knee else 1.0
        curvature = _expected_bend(np.abs(residual[weight > 0]), fit.num_free, knee)
    spread = float((weight * slope**2).sum()) / degrees
    return 2 * curvature / max(spread, least**2, 1e-300)


def _expected_bend(size: np.ndarray, num_free: int, knee: float) -> float:
    """Return the share of residuals expected inside the knee (for |r| itself: twice their density at zero).

    A fit that is close to least absolute deviations passes through as many runs as it has parameters. They say nothing of the
    density at zero; and where few others lie inside the knee, it is counted over a wider window.
    """
    size = np.sort(size)[num_free:] if len(size) > num_free else size
    inside = float((size <= knee).mean())
    if inside >= _ENOUGH_INSIDE:
        return inside
    width = float(np.quantile(size, _ENOUGH_INSIDE)) * np.sqrt((len(size) + num_free) / len(size))
    return (knee or 1.0) * _ENOUGH_INSIDE / max(width, 1e-300)
