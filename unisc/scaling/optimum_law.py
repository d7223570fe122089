"""Power laws of an optimum against compute: weighted least squares in logarithms, with draws for its intervals."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from unisc.errors import InputError
from unisc.scaling.intervals import Interval, percentile_interval


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """Hold optimum = exp(log_coefficient) x compute^exponent, with draws (S, 2) of exponent and log coefficient."""

    exponent: float
    log_coefficient: float
    draws: np.ndarray
    method: str
    note: str = ""

    def predict(self, compute) -> np.ndarray:
        """Return the optimum at compute, a number or an array."""
        return np.exp(self.log_coefficient + self.exponent * np.log(compute))

    def exponent_interval(self, level: float = 0.90) -> Interval:
        """Return the exponent's interval."""
        return percentile_interval(self.exponent, self.draws[:, 0], level, self.method, self.note)

    def at(self, compute: float, level: float = 0.90) -> Interval:
        """Return the interval of the optimum at one compute budget."""
        draws = np.exp(self.draws[:, 1] + self.draws[:, 0] * np.log(compute))
        return percentile_interval(float(self.predict(compute)), draws, level, self.method, self.note)

    def to_json(self, level: float = 0.90) -> dict[str, Any]:
        """Return `exponent`, an interval, and `coefficient`, a number."""
        return {"exponent": self.exponent_interval(level).to_json(), "coefficient": float(np.exp(self.log_coefficient))}


def weighted_power(compute, value, std=None) -> tuple[np.ndarray, np.ndarray]:
    """Return exponents and log coefficients (...) of value (..., n) against compute (n,), least squares in logarithms.

    Weights are 1/std^2, std (n,) being those of ln value; an entry that is NaN is left out of its own row. Rows with fewer than
    two points give NaN. This is the published estimator of arXiv 2406.19146.
    """
    x, y = np.log(np.asarray(compute, float)), np.log(np.asarray(value, float))
    weight = np.broadcast_to(np.ones_like(x) if std is None else 1 / np.asarray(std, float) ** 2, y.shape)
    weight = np.where(np.isnan(y), 0.0, weight)
    y = np.where(np.isnan(y), 0.0, y)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = weight.sum(axis=-1, keepdims=True)
        centre_x, centre_y = ((weight * column).sum(axis=-1, keepdims=True) / total for column in (x, y))
        moment = (weight * (x - centre_x) ** 2).sum(axis=-1)
        slope = (weight * (x - centre_x) * (y - centre_y)).sum(axis=-1) / np.where(moment > 0, moment, np.nan)
        return slope, centre_y[..., 0] - slope * centre_x[..., 0]


def power_law(
    compute, value, std=None, *, draws=None, refits=None, seed: int = 0, num_draws: int = 1000, method: str = ""
) -> PowerLaw:
    """Fit optima (n,) against compute (n,); `draws` (S, n) are noisy optima whose refits give the intervals.

    `refits` are exponents and log coefficients, each (S,), where a caller has made them. Without either the intervals are those
    of least squares, Student t with n - 2 degrees of freedom; two points give none. Raises `InputError` for fewer than two
    distinct budgets.
    """
    compute, value = np.asarray(compute, float), np.asarray(value, float)
    if len(np.unique(compute)) < 2:
        raise InputError(f"a power law needs optima at two budgets or more and has {len(np.unique(compute))}; add budgets")
    exponent, constant = (float(part) for part in weighted_power(compute, value, std))
    if draws is not None:
        refits = weighted_power(compute, draws, std)
    if refits is not None:
        return PowerLaw(exponent, constant, np.stack(refits, axis=-1), method or "bootstrap over noisy optima")
    degrees = len(compute) - 2
    if degrees < 1:
        return PowerLaw(exponent, constant, np.zeros((0, 2)), "none", "no interval: two budgets fix the line")
    weight = np.ones_like(compute) if std is None else 1 / np.asarray(std, float) ** 2
    x = np.log(compute)
    residual = np.log(value) - constant - exponent * x
    centre = (weight * x).sum() / weight.sum()
    scale = np.sqrt((weight * residual**2).sum() / degrees)
    normal = np.random.default_rng(seed).standard_t(degrees, size=num_draws)
    other = np.random.default_rng(seed + 1).standard_t(degrees, size=num_draws)
    slopes = exponent + scale / np.sqrt((weight * (x - centre) ** 2).sum()) * normal
    middles = constant + exponent * centre + scale / np.sqrt(weight.sum()) * other
    made = np.stack([slopes, middles - slopes * centre], axis=-1)
    return PowerLaw(exponent, constant, made, method or "least squares, Student t")
