"""How far a law's extrapolations missed on its own table, and intervals widened by as much.

A bootstrap or a profile takes the law for true. Here the largest rungs of the table are left out, one after another, the law is
refitted and its intervals asked for the runs beyond. What lies outside of them, over the distance extrapolated, is a score; the
conformal quantile of the scores (arXiv 1905.03222) widens a prediction by score times distance.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri

from unisc.errors import InputError
from unisc.scaling.fit import Fit, fit
from unisc.scaling.intervals import Interval
from unisc.scaling.profile import profiles

_RUNG = 1.5
_NEAREST = np.log(2)
"""Nearer extrapolations are scored as if a factor of two away: over next to no distance any miss is an endless rate."""


@dataclass(frozen=True, slots=True)
class Extrapolation:
    """Hold scores (m,): errors beyond the interval per unit of distance, in the contract's space; and those distances (m,).

    A distance is the sum over axes of how far, in logarithms, a run lies beyond the largest one fitted.
    """

    scores: np.ndarray
    distances: np.ndarray
    level: float

    @property
    def rate(self) -> float:
        """The conformal quantile of the scores."""
        count = len(self.scores)
        place = int(np.ceil((count + 1) * self.level))
        return float(np.sort(self.scores)[min(place, count) - 1])

    def widen(self, fit: Fit, interval: Interval, size: np.ndarray) -> Interval:
        """Return an interval at one size (X,) that is wider by the rate times the distance to the fit's largest runs."""
        distance = float(_beyond(fit.problem.axes, size[:, None])[0])
        contract, count = fit.contract, len(self.scores)
        ends = contract.link(contract.to_loss(np.array([interval.low, interval.high], float)))
        moved = np.array([ends.min() - self.rate * distance, ends.max() + self.rate * distance])
        low, high = np.sort(contract.to_metric(contract.link.inverse(moved)))
        note = f"widened by the errors of {count} extrapolated runs"
        if (count + 1) * self.level > count:
            note += f", too few for {self.level:.0%}: by the largest"
        if distance > 1.5 * self.distances.max():
            note += f"; {distance / self.distances.max():.1f} times as far as any of them"
        notes = [interval.note, note] if interval.note else [note]
        return replace(
            interval, low=float(low), high=float(high), method=f"{interval.method} and backtest", note="; ".join(notes)
        )


def extrapolation(full: Fit, *, rungs: int = 3, level: float = 0.90) -> Extrapolation:
    """Refit a law without the largest `rungs` values of each axis, one more at a time, and score its intervals beyond.

    Runs of the same size are averaged.

    Raises:
      InputError: no holdout leaves a table that the law can be fitted to.
    """
    problem, contract = full.problem, full.contract
    axes, metric = problem.axes, contract.to_metric(problem.loss)
    scores, distances, tail = [], [], ndtri(0.5 + level / 2)
    for held in _holdouts(axes, rungs):
        train = axes[:, ~held]
        if (~held).sum() <= full.num_free or any(len(np.unique(axis)) < 3 for axis in train):
            continue
        fixed = {n: full.params[n] for n, a, b in zip(full.law.names, full.lower, full.upper, strict=True) if a == b}
        scale = problem.scale[~held]
        se = None if np.ptp(scale) == 0 else scale / contract.link.derivatives(problem.loss[~held])[0]
        options = {"contract": contract, "labels": full.labels, "weights": full.weight[~held], "se": se, "fixed": fixed}
        refit = fit(full.law.name, *train, metric[~held], **options)
        sizes, of = np.unique(axes[:, held], axis=1, return_inverse=True)
        measured = np.bincount(of.ravel(), contract.link(problem.loss[held])) / np.bincount(of.ravel())
        far = np.maximum(_beyond(train, sizes), _NEAREST)
        # The runs held out have errors of their own, which are not the law's.
        noise = tail * _spread(refit) / np.sqrt(np.bincount(of.ravel()))
        for found, truth, error, distance in zip(profiles(refit, [], sizes, level=level), measured, noise, far, strict=True):
            ends = contract.link(contract.to_loss(np.array([found.interval.low, found.interval.high], float)))
            value = float(contract.link(contract.to_loss(np.array(found.interval.value))))
            below, above = (float(np.hypot(side, error)) for side in (value - ends.min(), ends.max() - value))
            scores.append(max(value - below - truth, truth - value - above, 0.0) / distance)
            distances.append(distance)
    if not scores:
        raise InputError(
            f"no rung can be left out: {full.num_runs} runs for {full.num_free} parameters; give more sizes, or no backtest"
        )
    return Extrapolation(np.array(scores), np.array(distances), level)


def _holdouts(axes: np.ndarray, rungs: int) -> list[np.ndarray]:
    """Return masks (n,) of the runs at or above each of the largest rungs of each axis; a rung spans a factor of 1.5."""
    out = []
    for axis in axes:
        edges, top, last = [], np.inf, np.inf
        for value in np.unique(axis)[::-1]:
            if value < top / _RUNG:
                edges.append(last)
                top = value
            last = value
        out += [axis >= edge for edge in edges[1 : rungs + 1]]
    return out


def _spread(fit: Fit) -> float:
    """Return the standard deviation of a run's error, by the median of the residuals."""
    size = np.abs(fit.problem.residuals(fit.theta[None])[0])
    return float(np.median(size) / ndtri(0.75) * np.sqrt(fit.num_runs / (fit.num_runs - fit.num_free)))


def _beyond(axes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return how far sizes (X, K) lie beyond the largest axes (X, n), as a sum of logarithms (K,)."""
    return np.log(np.maximum(sizes / axes.max(axis=1, keepdims=True), 1.0)).sum(axis=0)
