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
from unisc.scaling.solve import solve

_FIRST, _GROWTH = 0.6, 1.5  # the first aim in units of the expected end, and how much further each next one lies
_MAX_AIMS = 40
_STIFFNESS = 20.0  # of the pull, over the curvature it works against
_GAIN = 1e-8  # of the objective: what a refit may leave undone
_STEP = 1e-5
_ENOUGH_INSIDE = 0.4
_EXACT = 1e-9


class Quantities:
    """Scalars that follow from internal parameters: natural ones (columns; in logs where so held) and predictions at sizes.

    `axes` (X, K) are the sizes; predictions are measured in the space of the contract. Q quantities in this order.
    """

    def __init__(self, fit: Fit, columns: Sequence[int], axes: np.ndarray):
        self.fit, self.columns, self.axes = fit, list(columns), axes
        chosen = [fit.law.parameters[c] for c in columns]
        self.in_logs = np.array([p.log or p.kind == "amplitude" for p in chosen], bool)
        # Most natural parameters, so measured, are linear in the internal ones: then one slope serves everywhere.
        self.slopes: np.ndarray | None = None
        near, away = (self._differences(fit.theta[None] + step)[0] for step in (0.0, 0.03))
        if np.allclose(near, away, rtol=1e-7, atol=1e-7):
            self.slopes = near

    @property
    def num_parameters(self) -> int:
        return len(self.columns)

    def values(self, theta: np.ndarray) -> np.ndarray:
        """Return the quantities (S, Q)."""
        return np.concatenate([self._parameters(theta), self._predictions(theta)], axis=1)

    def gradients(self, theta: np.ndarray) -> np.ndarray:
        """Return the gradients (S, Q, P)."""
        return np.concatenate([self._slopes(theta), self._predicted(theta)[1]], axis=1)

    def one_each(self, theta: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the value (S,) and gradient (S, P) of one quantity for each parameter vector."""
        value, gradient = np.empty(len(theta)), np.empty(theta.shape)
        rows = np.flatnonzero(which < self.num_parameters)
        if len(rows):
            value[rows] = self._parameters(theta[rows])[np.arange(len(rows)), which[rows]]
            gradient[rows] = self._slopes(theta[rows])[np.arange(len(rows)), which[rows]]
        rows = np.flatnonzero(which >= self.num_parameters)
        if len(rows):
            predicted, slopes = self._predicted(theta[rows])
            of = which[rows] - self.num_parameters
            value[rows], gradient[rows] = predicted[np.arange(len(rows)), of], slopes[np.arange(len(rows)), of]
        return value, gradient

    def _parameters(self, theta: np.ndarray) -> np.ndarray:
        natural = self.fit.law.natural(theta)[:, self.columns]
        return np.where(self.in_logs, np.log(np.where(self.in_logs, np.maximum(natural, 1e-300), 1.0)), natural)

    def _slopes(self, theta: np.ndarray) -> np.ndarray:
        if self.slopes is None:
            return self._differences(theta)
        return np.broadcast_to(self.slopes, (len(theta), *self.slopes.shape))

    def _differences(self, theta: np.ndarray) -> np.ndarray:
        count, params = theta.shape
        steps = _STEP * np.concatenate([np.eye(params), -np.eye(params)])
        moved = self._parameters((theta + steps[:, None]).reshape(-1, params)).reshape(2, params, count, len(self.columns))
        return ((moved[0] - moved[1]) / (2 * _STEP)).transpose(1, 2, 0)

    def _predictions(self, theta: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return self.fit.contract.link(self.fit.law.predict(theta, self.axes))

    def _predicted(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        link = self.fit.contract.link
        with np.errstate(all="ignore"):
            value, slopes = self.fit.law.value_and_gradient(theta, self.axes)
            return link(value), link.derivatives(value)[0][..., None] * slopes

    def natural(self, index: int, value: float) -> float:
        """Return a quantity's value as users read it: natural parameter or metric."""
        if index < len(self.columns):
            return float(np.exp(value)) if self.in_logs[index] else float(value)
        contract = self.fit.contract
        return float(contract.to_metric(contract.link.inverse(np.array(value))))


@dataclass(frozen=True, slots=True)
class _Towards:
    """Pull each parameter vector's quantity `which` (S,) towards an aim (S,) with a stiffness (S,)."""

    quantities: Quantities
    which: np.ndarray
    aim: np.ndarray
    stiffness: np.ndarray

    def at(self, rows: np.ndarray) -> "_Towards":
        return _Towards(self.quantities, self.which[rows], self.aim[rows], self.stiffness[rows])

    def derivatives(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        with np.errstate(all="ignore"):  # A prediction may overflow where no step is accepted.
            value, slope = self.quantities.one_each(theta, self.which)
            off = value - self.aim
            pulled = self.stiffness[:, None] * slope
            # Parameters are linear in the internal ones, and predictions nearly so in the space of the contract.
            return 0.5 * self.stiffness * off**2, pulled * off[:, None], pulled[:, :, None] * slope[:, None, :]


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
    degrees = fit.num_runs - fit.num_free
    if degrees < 1:
        raise InputError(f"{fit.num_runs} runs leave no degree of freedom for {fit.num_free} parameters; add runs")
    columns = tuple(law.names.index(name) for name in (free if names is None else names))
    axes = np.empty((law.num_axes, 0)) if axes is None else axes
    quantities = Quantities(fit, columns, axes)
    limit = float(stdtrit(degrees, 0.5 + level / 2)) ** 2
    tracer = _Tracer(quantities, limit, rise_to_statistic(fit))
    tracer.trace()
    return [tracer.profile(index, level) for index in range(len(columns) + axes.shape[1])]


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
        count = len(self.here)
        which, side = (part.ravel() for part in np.meshgrid(np.arange(count), [0, 1], indexing="ij"))
        sign, span = np.where(side == 0, -1.0, 1.0), self.span[which, side]
        expected = np.sqrt(self.limit) * self.spread[which]
        reach = np.minimum(_FIRST * expected, np.maximum(span, 0.0) / 30)
        inside = np.tile(self.fit.theta, (len(which), 1))
        inside_at, inside_root = self.here[which].copy(), np.zeros(len(which))
        live = np.flatnonzero(span > 1e-9)
        for _ in range(_MAX_AIMS):
            if not len(live):
                break
            distance = np.minimum(reach[live], span[live])
            starts = np.stack([inside[live], self._ahead(which[live], sign[live] * distance, inside[live], inside_at[live])])
            theta, at, statistic = self._refit(which[live], sign[live] * distance, starts)
            over = statistic > self.limit
            if over.any():  # Before the limit is believed, the refit is sought from elsewhere too.
                rows = live[over]
                found = self._refit(which[rows], sign[rows] * distance[over], self._elsewhere(theta[over], inside[rows]))
                theta[over], at[over], statistic[over] = self._better((theta[over], at[over], statistic[over]), found)
                over = statistic > self.limit
            rows = live[over]
            if len(rows):
                self._cross(
                    which[rows],
                    side[rows],
                    inside[rows],
                    inside_at[rows],
                    inside_root[rows],
                    theta[over],
                    at[over],
                    statistic[over],
                )
            rows = live[~over]
            moved = np.abs(at[~over] - inside_at[rows])
            stuck = moved < 1e-3 * reach[rows]
            inside[rows], inside_at[rows], inside_root[rows] = theta[~over], at[~over], np.sqrt(np.maximum(statistic[~over], 0))
            self.ends[which[rows], side[rows]] = at[~over]
            live = rows[(distance[~over] < span[rows] * (1 - 1e-9)) & ~stuck]
            reach[live] *= _GROWTH

    def _ahead(self, which, offset, inside, inside_at) -> np.ndarray:
        """Return the straight continuation (S, P) from a point inside to an aim."""
        step = self.direction[which] * (self.here[which] + offset - inside_at)[:, None]
        return inside + np.clip(step, -1.0, 1.0)

    def _elsewhere(self, theta: np.ndarray, inside: np.ndarray) -> np.ndarray:
        exponents = [
            c for c, p in enumerate(self.fit.law.parameters) if p.kind == "exponent" and self.fit.lower[c] < self.fit.upper[c]
        ]
        gentler, steeper = theta.copy(), theta.copy()
        gentler[:, exponents] *= 0.5  # the valley often bends that way
        steeper[:, exponents] *= 2.0
        return np.stack([0.5 * (theta + inside), gentler, steeper])

    def _refit(self, which, offset, starts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the best refit (V, P), where it is and its statistic (V,), from starts (K, V, P) pulled to offsets (V,)."""
        times, count = starts.shape[:2]
        curvature = 1.0 / np.maximum(self.spread[which], 1e-12) ** 2
        stiffness = _STIFFNESS / self.rise * np.maximum(curvature, self.limit / offset**2)
        pull = _Towards(
            self.quantities, np.tile(which, times), np.tile(self.here[which] + offset, times), np.tile(stiffness, times)
        )
        fit = self.fit
        found = solve(
            fit.problem,
            starts.reshape(-1, starts.shape[2]),
            fit.lower,
            fit.upper,
            fit.weight,
            pull=pull,
            damping=1e-2,
            gain=_GAIN,
        )
        value = pull.derivatives(found.theta)[0] + found.objective
        best = np.argmin(np.where(np.isfinite(value), value, np.inf).reshape(times, count), axis=0) * count + np.arange(count)
        theta = found.theta[best]
        at = self.quantities.values(theta)[np.arange(count), which]
        statistic = (found.objective[best] - fit.objective) * self.rise
        for place, q in enumerate(which):
            self.visited[q].append((at[place], statistic[place], theta[place]))
        return theta, at, statistic

    @staticmethod
    def _better(one, other):
        take = other[2] < one[2]
        return tuple(np.where(take[:, None] if a.ndim == 2 else take, b, a) for a, b in zip(one, other, strict=True))

    def _cross(self, which, side, inside, inside_at, inside_root, theta, at, statistic) -> None:
        """Find the limit between a refit inside and one beyond: the root of the statistic is nearly straight there."""
        goal = np.sqrt(self.limit)
        for last in (False, True):
            share = (goal - inside_root) / np.maximum(np.sqrt(statistic) - inside_root, 1e-12)
            crossing = inside_at + share * (at - inside_at)
            if last:
                break
            # A pull that is not quite met falls short: aim a little beyond.
            offset = (crossing - self.here[which]) * (1 + 1 / _STIFFNESS)
            between = inside + share[:, None] * (theta - inside)
            near, near_at, near_statistic = self._refit(which, offset, between[None])
            below = near_statistic <= self.limit
            inside_at = np.where(below, near_at, inside_at)
            inside_root = np.where(below, np.sqrt(np.maximum(near_statistic, 0)), inside_root)
            at, statistic = np.where(below, at, near_at), np.where(below, statistic, near_statistic)
        self.ends[which, side] = crossing
        self.met_limit[which, side] = True

    def profile(self, index: int, level: float) -> Profile:
        """Return what was found of a quantity."""
        quantities, fit = self.quantities, self.fit
        order = sorted(self.visited[index], key=lambda entry: entry[0])
        values, statistic, theta = (np.array(part) for part in zip(*order, strict=True))
        ends: list[float | None] = [quantities.natural(index, end) for end in self.ends[index]]
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
            ends = sorted(ends)
            if not self.met_limit[index].all():
                note = "an end is as far as the law's bounds let the prediction go"
        interval = Interval(value=value, low=ends[0], high=ends[1], level=level, method="profile", note=note)
        natural = np.array([quantities.natural(index, v) for v in values])
        return Profile(interval, natural, statistic, self.limit, theta)


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


def rise_to_statistic(fit: Fit) -> float:
    """Return what turns a rise of the objective into a statistic distributed as F(1, n - P)."""
    residual = fit.problem.residuals(fit.theta[None])[0]
    weight, contract = fit.weight, fit.contract
    degrees = max(fit.num_runs - fit.num_free, 1)
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
