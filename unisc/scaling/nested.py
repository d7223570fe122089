"""Is the larger of two nested models needed? An F test of fits, and of linear models with blocks.

Both take the runs' errors for independent and alike. Seeds of one cell share the law's lack of fit there, so a table that
repeats cells should be averaged over seeds first (`cell_means`); else the test rejects too often.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import chdtrc, fdtrc

from unisc.errors import InputError
from unisc.scaling.fit import Fit

SIGNIFICANT = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class NestedTest:
    """Hold the F test of `extra` parameters on n points, and the likelihood ratio with its chi-squared p value beside it."""

    f_statistic: float
    degrees: tuple[int, int]
    p_value: float
    likelihood_ratio: float
    likelihood_p_value: float
    num_points: int

    @property
    def verdict(self) -> str:
        """Whether the smaller model is rejected at 5 %, in words."""
        return "additive model rejected" if self.p_value < SIGNIFICANT else "additive model not rejected"

    def to_json(self) -> dict[str, Any]:
        """Return every field and the verdict."""
        names = ("f_statistic", "p_value", "likelihood_ratio", "likelihood_p_value", "num_points", "verdict")
        return {name: getattr(self, name) for name in names} | {"degrees": list(self.degrees)}


def f_test(small: float, large: float, *, extra: int, num_points: int, num_free: int) -> NestedTest:
    """Test sums of squares of two nested models, the larger with `num_free` parameters, `extra` more than the smaller.

    Raises:
      InputError: no degree of freedom is left.
    """
    degrees = num_points - num_free
    if extra < 1 or degrees < 1:
        raise InputError(f"{num_points} points leave {degrees} degrees of freedom to test {extra} parameters; add runs")
    # An exact table has errors of the arithmetic at the least; a search may end a hair above the smaller model's optimum.
    least = max(large, 1e-14 * small, 1e-300)
    statistic = max(small - least, 0.0) / extra / (least / degrees)
    ratio = num_points * np.log(max(small, least) / least)
    return NestedTest(
        f_statistic=float(statistic),
        degrees=(extra, degrees),
        p_value=float(fdtrc(extra, degrees, statistic)),
        likelihood_ratio=float(ratio),
        likelihood_p_value=float(chdtrc(extra, ratio)),
        num_points=num_points,
    )


def nested_test(small: Fit, large: Fit) -> NestedTest:
    """Test a fit against one of a larger law on the same table, both by least squares.

    Raises:
      InputError: other contracts or tables, an objective that is no sum of squares, or laws that are not nested in size.
    """
    small.compare(large)
    if small.contract.loss != "squared":
        raise InputError(
            f"an F test compares sums of squares, and these fits minimise {small.contract.loss}; use loss 'squared'"
        )
    return f_test(
        small.objective,
        large.objective,
        extra=large.num_free - small.num_free,
        num_points=large.num_runs,
        num_free=large.num_free,
    )


def product_test(size, data, metric) -> NestedTest:
    """Test whether size and data (n,) act additively on a metric: one effect a size, one a data size, and ln size x ln data.

    The product is what an interaction would look like first: a data effect that grows steadily with the logarithm of the size.
    """
    size, data, metric = (np.asarray(column, float) for column in (size, data, metric))
    centred = [np.log(column) - np.log(column).mean() for column in (size, data)]
    effects = [np.ones((len(metric), 1)), *(_dummies(column) for column in (size, data))]
    additive = np.concatenate(effects, axis=1)
    interacting = np.concatenate([additive, (centred[0] * centred[1])[:, None]], axis=1)
    free = int(np.linalg.matrix_rank(interacting))
    if free == np.linalg.matrix_rank(additive):
        raise InputError("size and data do not vary apart; an interaction needs at least two sizes at two data sizes")
    return f_test(_squares(additive, metric), _squares(interacting, metric), extra=1, num_points=len(metric), num_free=free)


def cell_means(*columns, by) -> tuple[np.ndarray, ...]:
    """Average columns (n,) over the runs of each cell, `by` (n,) being its label; return columns (cells,), sorted by label."""
    _, cell = np.unique(np.asarray(by), return_inverse=True)
    count = np.bincount(cell)
    return tuple(np.bincount(cell, weights=np.asarray(column, float)) / count for column in columns)


def _dummies(column: np.ndarray) -> np.ndarray:
    return (column[:, None] == np.unique(column)[1:]).astype(float)


def _squares(design: np.ndarray, target: np.ndarray) -> float:
    residual = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
    return float((residual**2).sum())
