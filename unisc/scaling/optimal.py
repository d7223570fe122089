"""Approach 3: the compute-optimal size and data of a fitted Chinchilla law in closed form (arXiv 2203.15556, equation 4).

With C = k N D the loss E + A/N^alpha + B/D^beta is lowest at N* = G (C/k)^a, D* = (C/k)/N*, a = beta/(alpha + beta) and
G = (alpha A / (beta B))^(1/(alpha + beta)); what lies above the floor there is A N*^-alpha (1 + alpha/beta), a power of C.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from unisc.errors import InputError
from unisc.scaling.bootstrap import Bootstrap
from unisc.scaling.fit import Fit
from unisc.scaling.intervals import Interval, percentile_interval

Path = Literal["optimal"] | float  # How data go with size: compute-optimally, or so many examples a parameter.


def ln_optimal_size(natural: np.ndarray, compute, flops_factor: float) -> np.ndarray:
    """Return ln N* for natural parameters (..., 5) in the order E, A, B, alpha, beta."""
    _, a, b, alpha, beta = np.moveaxis(natural, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ln_scale = (np.log(alpha * a) - np.log(beta * b)) / (alpha + beta)
        return ln_scale + beta / (alpha + beta) * np.log(compute / flops_factor)


def loss_along(natural: np.ndarray, compute, flops_factor: float, path: Path = "optimal") -> np.ndarray:
    """Return the loss (...) at compute for natural parameters (..., 5), size and data chosen along the path."""
    floor, a, b, alpha, beta = np.moveaxis(natural, -1, 0)
    work = np.log(compute / flops_factor)
    ln_size = ln_optimal_size(natural, compute, flops_factor) if path == "optimal" else (work - np.log(path)) / 2
    with np.errstate(over="ignore", invalid="ignore"):
        return floor + a * np.exp(-alpha * ln_size) + b * np.exp(-beta * (work - ln_size))


def compute_to_reach(natural: np.ndarray, loss, flops_factor: float, path: Path = "optimal") -> np.ndarray:
    """Return the compute (...) at which the loss along the path is reached; infinite at or under the floor."""
    floor, a, _, alpha, beta = np.moveaxis(natural, -1, 0)
    above = np.asarray(loss, float) - floor
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if path == "optimal":
            start = np.log(a) + np.log1p(alpha / beta) - alpha * ln_optimal_size(natural, flops_factor, flops_factor)
            work = (start - np.log(np.where(above > 0, above, np.nan))) * (alpha + beta) / (alpha * beta)
        else:
            low, high = np.full(above.shape, -100.0), np.full(above.shape, 600.0)
            for _ in range(80):  # The loss falls with compute; 700 halved 80 times is below rounding.
                work = (low + high) / 2
                over = loss_along(natural, flops_factor * np.exp(work), flops_factor, path) > loss
                low, high = np.where(over, work, low), np.where(over, high, work)
        return np.where(above > 0, flops_factor * np.exp(work), np.where(np.isnan(above), np.nan, np.inf))


@dataclass(frozen=True, slots=True)
class OptimalPoint:
    """Hold the optimal size, data and loss at one compute budget, each with its interval."""

    compute: float
    size: Interval
    data: Interval
    loss: Interval

    def to_json(self) -> dict[str, Any]:
        """Return `compute`, and `size`, `data`, `loss` as intervals."""
        return {"compute": self.compute} | {name: getattr(self, name).to_json() for name in ("size", "data", "loss")}


@dataclass(frozen=True, slots=True)
class Surface:
    """Hold a Chinchilla law as natural parameters (5,) with draws (S, 5), and k of C = k N D."""

    natural: np.ndarray
    draws: np.ndarray
    flops_factor: float
    method: str

    @classmethod
    def of(cls, fitted: Fit, boot: Bootstrap | None = None, *, flops_factor: float = 6.0) -> "Surface":
        """Take the law of a fit and of its bootstrap refits; raises `InputError` for another law than Chinchilla's."""
        if tuple(fitted.law.names) != ("E", "A", "B", "alpha", "beta"):
            raise InputError(f"compute-optimal closed forms need the law 'chinchilla', and this fit is {fitted.law.name!r}")
        natural = np.array([fitted.params[name] for name in fitted.law.names])
        draws = np.zeros((0, 5)) if boot is None else fitted.law.natural(boot.draws)
        return cls(natural, draws, flops_factor, "none" if boot is None else boot.method)

    def exponent(self, axis: Literal["size", "data"], level: float = 0.90) -> Interval:
        """Return the exponent of N* (beta over alpha + beta) or D* (alpha over alpha + beta) in compute."""
        with np.errstate(invalid="ignore"):
            value, draws = (p[..., 4 if axis == "size" else 3] / (p[..., 3] + p[..., 4]) for p in (self.natural, self.draws))
        return percentile_interval(float(value), draws, level, self.method)

    def at(self, compute: float, level: float = 0.90) -> OptimalPoint:
        """Return the optimum at a compute budget."""
        if not compute > 0:
            raise InputError(f"compute is {compute}; give a positive number of FLOPs")
        sizes, losses = [], []
        for natural in (self.natural, self.draws):
            sizes.append(np.exp(ln_optimal_size(natural, compute, self.flops_factor)))
            losses.append(loss_along(natural, compute, self.flops_factor))
        with np.errstate(divide="ignore"):
            datas = [compute / self.flops_factor / size for size in sizes]
        out = [percentile_interval(float(v), draws, level, self.method) for v, draws in (sizes, datas, losses)]
        return OptimalPoint(compute, *out)
