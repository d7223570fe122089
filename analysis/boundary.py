"""Where a gain changes its sign along an axis: a response surface over independent replicates, and the set of its zeros.

Each replicate (a shop) lies at one point of the axis and gives a table of gains over the levels of two inner factors. Stage one
reduces every table to the few coefficients of a low-order curve over the second factor, for every level of the first (model
sizes, which differ too much in their noise to lend each other their errors); stage two regresses these on (1, x, x^2) over the
replicates. Gains of one replicate may be correlated in any way (they share a baseline run and a world),
for the error of stage two is that between replicates, and nothing else: n - 3 degrees of freedom, t intervals.

The boundary's interval is the set of points at which the surface is not told from zero (Fieller 1954). It has no trouble where
a bootstrap of the root does: a surface without a zero gives none, and a zero of which one side is not resolved an open end.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from unisc.errors import InputError

DEGREE = 2
"""Of the surface in x: what a sample of correlation x with one's own tells grows as its square."""
GRID = np.linspace(0, 1, 2001)


@dataclass(frozen=True, kw_only=True, slots=True)
class Boundary:
    """Where, along x in [0, 1], a gain turns from below to above zero (or, if not `rising`, from above to below).

    Up to `low` the first sign is resolved at the level, from `high` on the second; None where that side is resolved nowhere.
    `value` is the zero of the surface between them, None where it has none; `sign` is that of the surface if it has none.
    """

    value: float | None
    low: float | None
    high: float | None
    rising: bool
    sign: int

    @property
    def verdict(self) -> str:
        """Say what is resolved: both sides, one of them, the same sign everywhere, or nothing."""
        first, second = ("negative", "positive") if self.rising else ("positive", "negative")
        if self.low is not None and self.low >= 1:
            return f"resolved {first} everywhere"
        if self.high is not None and self.high <= 0:
            return f"resolved {second} everywhere"
        if self.low is not None and self.high is not None:
            return "resolved"
        if self.high is not None:
            return f"resolved {second} side only"
        return "unresolved" if self.low is None else f"resolved {first} side only"

    def to_json(self) -> dict[str, Any]:
        """Return every field and the verdict."""
        return {name: getattr(self, name) for name in ("value", "low", "high", "rising", "sign", "verdict")}


@dataclass(frozen=True, kw_only=True, slots=True)
class Surface:
    """Hold the fit: coefficients (p, q) of p powers of x by q inner terms, and what their errors are made of."""

    x: Float[np.ndarray, " n"]
    sizes: Float[np.ndarray, " Z"]
    shares: Float[np.ndarray, " F"]
    through_zero: bool
    level: float
    beta: Float[np.ndarray, "p q"]
    unit: Float[np.ndarray, "p p"]
    spread: Float[np.ndarray, "q q"]
    degrees: int

    @classmethod
    def fit(cls, x, gains, *, sizes, shares, through_zero: bool, level: float = 0.90) -> "Surface":
        """Fit tables of gains (n, Z, F) at x (n,), for each of `sizes` (Z,) over `shares` (F,).

        `through_zero` says that at a share of 0 there is no gain by definition; the shares then do not contain 0.

        Raises:
          InputError: a gain that is missing, or no more replicates than the surface has powers of x.
        """
        x, gains, sizes, shares = (np.asarray(a, float) for a in (x, gains, sizes, shares))
        if gains.shape != (len(x), len(sizes), len(shares)) or not np.isfinite(gains).all():
            raise InputError(f"gains of shape {gains.shape}, or one is missing; run every size and share on every shop")
        if len(np.unique(x)) < 2:
            raise InputError(f"all shops lie at {x[0] if len(x) else 'no point'}; a boundary needs at least two overlaps")
        powers = min(DEGREE, len(np.unique(x)) - 1) + 1
        degrees = len(x) - powers
        if degrees < 1:
            raise InputError(f"{len(x)} shops do not tell an error beside {powers} terms; run more seeds")
        inner = np.kron(_size_terms(sizes, sizes), _share_terms(shares, shares, through_zero))
        tables = gains.reshape(len(x), -1) @ np.linalg.pinv(inner).T
        design = np.vander(x, powers, increasing=True)
        beta = np.linalg.lstsq(design, tables)[0]
        left = tables - design @ beta
        return cls(
            x=x,
            sizes=sizes,
            shares=shares,
            through_zero=through_zero,
            level=level,
            beta=beta,
            unit=np.linalg.inv(design.T @ design),
            spread=left.T @ left / degrees,
            degrees=degrees,
        )

    @property
    def quantile(self) -> float:
        """How many standard errors an interval reaches to each side."""
        return float(stdtrit(self.degrees, 0.5 + self.level / 2))

    def at(self, x, size: float, share: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the surface (m,) and its standard errors (m,) at x (m,), one of the sizes and a share."""
        return self._combine(np.vander(np.atleast_1d(np.asarray(x, float)), len(self.beta), increasing=True), size, share)

    def change(self, size: float, share: float) -> dict[str, Any]:
        """Return by how much the surface changes from x = 0 to x = 1, with its interval."""
        rows = np.vander([0.0, 1.0], len(self.beta), increasing=True)
        value, se = self._combine(rows[1:] - rows[:1], size, share)
        return self.interval(float(value[0]), float(se[0]))

    def interval(self, value: float, se: float) -> dict[str, Any]:
        """Return a value with its t interval and verdict."""
        low, high = value - self.quantile * se, value + self.quantile * se
        return {"value": value, "low": low, "high": high, "verdict": verdict(low, high), "level": self.level}

    def boundary(self, size: float, share: float, *, rising: bool = True) -> Boundary:
        """Return where the surface changes its sign along x."""
        value, se = self.at(GRID, size, share)
        if not rising:
            value = -value
        below, above = value + self.quantile * se < 0, value - self.quantile * se > 0
        # The last zero at which it turns the way asked for; a surface that turns back is not a boundary of this kind.
        turns = np.flatnonzero((value[:-1] <= 0) & (value[1:] > 0))
        zero = None
        if turns.size:
            i = turns[-1]
            zero = float(GRID[i] + (GRID[1] - GRID[0]) * -value[i] / (value[i + 1] - value[i]))
        first, last = _run(below), _run(above[::-1])
        return Boundary(
            value=zero,
            low=float(GRID[first - 1]) if first else None,
            high=float(GRID[len(GRID) - last]) if last else None,
            rising=rising,
            sign=int(np.sign(value.mean())) * (1 if rising else -1),
        )

    def _combine(self, rows: np.ndarray, size: float, share: float) -> tuple[np.ndarray, np.ndarray]:
        inner = np.kron(_size_terms([size], self.sizes), _share_terms([share], self.shares, self.through_zero))[0]
        variance = np.einsum("mp,pr,mr->m", rows, self.unit, rows) * (inner @ self.spread @ inner)
        return rows @ self.beta @ inner, np.sqrt(np.maximum(variance, 0.0))


def verdict(low: float | None, high: float | None) -> str:
    """Say whether an interval tells the sign of what it holds."""
    if low is None or high is None:
        return "unresolved (no interval)"
    return "resolved positive" if low > 0 else "resolved negative" if high < 0 else "unresolved"


def mean_interval(values: np.ndarray, level: float) -> dict[str, Any]:
    """Return a mean over independent values (n,) with its t interval; without one where there is a single value."""
    mean, count = float(values.mean()), len(values)
    if count < 2:
        return {"value": mean, "low": None, "high": None, "verdict": verdict(None, None)}
    half = float(stdtrit(count - 1, 0.5 + level / 2) * values.std(ddof=1) / np.sqrt(count))
    return {"value": mean, "low": mean - half, "high": mean + half, "verdict": verdict(mean - half, mean + half)}


def cell_means(x, gains, *, level: float = 0.90) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Return the points of x (P,), mean gains (P, Z, F) over their replicates, half widths of their intervals, and degrees.

    The variance is that between the replicates of a point, pooled over points and kept apart by size and share; half widths are
    NaN where no point has two replicates.
    """
    x, gains = np.asarray(x, float), np.asarray(gains, float)
    points, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    means = np.stack([gains[place == p].mean(axis=0) for p in range(len(points))])
    degrees = len(x) - len(points)
    if degrees < 1:
        return points, means, np.full_like(means, np.nan), 0
    variance = ((gains - means[place]) ** 2).sum(axis=0) / degrees
    half = stdtrit(degrees, 0.5 + level / 2) * np.sqrt(variance[None] / counts[:, None, None])
    return points, means, half, degrees


def _size_terms(sizes, of) -> np.ndarray:
    """One term a size. One in the logarithm of the size gave the large models what was noise of the smallest."""
    return (np.asarray(sizes, float)[:, None] == np.asarray(of, float)).astype(float)


def _share_terms(shares, of, through_zero: bool) -> np.ndarray:
    """The share and its square, as far as there are levels to tell them, and a constant unless no gain is there at 0."""
    first = int(through_zero)
    last = min(2, len(of) - 1 + first)
    return np.asarray(shares, float)[:, None] ** np.arange(first, last + 1)


def _run(holds: np.ndarray) -> int:
    """Return how many of the first entries hold without a break."""
    return len(holds) if holds.all() else int(np.argmin(holds))
