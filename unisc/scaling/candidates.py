"""Runs one could make next, what they cost, and what there is to spend."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unisc.errors import InputError
from unisc.scaling.fit import Fit
from unisc.scaling.table import column

Cost = Callable[..., np.ndarray] | Sequence[float] | np.ndarray
_POINTS = {1: 32, 2: 16, 3: 8}
"""Values of each axis in the default grid, by the number of axes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Hold what may be spent: an amount, its unit, and the training FLOPs that one of the unit buys."""

    amount: float
    unit: str = "FLOPs"
    flops_per_unit: float = 1.0

    def __post_init__(self):
        for name in ("amount", "flops_per_unit"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise InputError(f"budget: {name} is {value}; give a positive number")

    @classmethod
    def device_hours(cls, hours: float, *, flops_per_hour: float) -> "Budget":
        """Return a budget in hours of a device that does so many useful training FLOPs in one (its peak times the MFU)."""
        return cls(amount=hours, unit="device-hours", flops_per_unit=flops_per_hour)

    @classmethod
    def money(cls, amount: float, *, price_per_hour: float, flops_per_hour: float, unit: str = "money") -> "Budget":
        """Return a budget in money, at a price of a device-hour."""
        if not (np.isfinite(price_per_hour) and price_per_hour > 0):
            raise InputError(f"budget: price_per_hour is {price_per_hour}; give a positive number")
        return cls(amount=amount, unit=unit, flops_per_unit=flops_per_hour / price_per_hour)

    @property
    def flops(self) -> float:
        return self.amount * self.flops_per_unit


def train_flops(fit: Fit, axes: np.ndarray, flops_factor: float = 6.0) -> np.ndarray:
    """Return flops_factor x size x examples (m,) of runs at axes (X, m): 6 for a dense model's parameters and tokens.

    Raises:
      InputError: the law has one axis, which does not tell the FLOPs of a run.
    """
    if len(fit.labels) < 2:
        raise InputError(
            f"cost: {fit.labels[0]} alone does not tell the FLOPs of a run; give cost, a function of it or a column"
        )
    size, data = fit.law.size_and_data(axes)
    return flops_factor * size * data


@dataclass(frozen=True, slots=True)
class Candidates:
    """Hold runs that could be made: axes (X, m), costs in FLOPs (m,), noise relative to a run of the table (m,).

    `table_cost` (n,) are the costs of the table's own runs, None where the costs were given as a column.
    """

    axes: np.ndarray
    cost: np.ndarray
    noise: np.ndarray
    table_cost: np.ndarray | None

    @classmethod
    def grid(cls, fit: Fit, *, within: float = 3.0, points: int | None = None, cost: Callable[..., np.ndarray] | None = None):
        """Return a grid from the table's smallest sizes to `within` times its largest, `points` values an axis.

        It does not go below the table, a law holding worst for the smallest models, and the examples a parameter stay inside
        `within` times the table's own range. An axis that may be zero, as examples of an origin, keeps zero among its values.
        `cost` takes the axes and returns FLOPs; 6 x size x examples if left out.
        """
        if not (np.isfinite(within) and within >= 1):
            raise InputError(f"within is {within}; give how many times the table's largest sizes a run may have, at least 1")
        count = points or _POINTS.get(len(fit.labels), 5)
        if count < 2:
            raise InputError(f"points is {count}; give at least 2 values an axis")
        values = []
        for axis in fit.problem.axes:
            positive = axis[axis > 0]
            zero = [0.0] if len(positive) < len(axis) else []
            values.append([*zero, *np.geomspace(positive.min(), positive.max() * within, count)])
        axes = np.array(list(itertools.product(*values))).T
        if len(fit.labels) > 1:
            (size, data), (own, seen) = (fit.law.size_and_data(at) for at in (axes, fit.problem.axes))
            low, high = (seen / own).min() / within, (seen / own).max() * within
            axes = axes[:, (data >= size * low * (1 - 1e-9)) & (data <= size * high * (1 + 1e-9))]
        return cls.of(fit, axes, cost=cost)

    @classmethod
    def of(cls, fit: Fit, axes: np.ndarray | Mapping[str, Sequence[float]], *, cost: Cost | None = None, noise=None):
        """Return candidates at axes (X, m), or given by name, with `cost` a function of the axes or a column (m,) of FLOPs.

        `noise` (m,) is the standard deviation of a candidate's residual over that of a (median) run of the table. Candidates
        without a cost or without a finite prediction are left out.
        """
        if isinstance(axes, Mapping):
            if odd := sorted(set(axes) ^ set(fit.labels)):
                wrong = "missing" if odd[0] in fit.labels else "unknown"
                raise InputError(f"candidates: axis {odd[0]!r} is {wrong}; give {', '.join(fit.labels)}")
            length = len(axes[fit.labels[0]])
            axes = np.array([column(axes[label], f"candidates: {label}", length, minimum=0.0) for label in fit.labels])
        axes = np.asarray(axes, float)
        if axes.ndim != 2 or len(axes) != len(fit.labels) or not axes.shape[1]:
            raise InputError(f"candidates have shape {axes.shape}; give ({len(fit.labels)}, m): {', '.join(fit.labels)}")
        count, table_cost = axes.shape[1], None
        if cost is None or callable(cost):
            prices = [train_flops(fit, at) if cost is None else cost(*at) for at in (axes, fit.problem.axes)]
            flops = column(prices[0], "cost", count, minimum=0.0)
            table_cost = column(prices[1], "cost of the table's runs", fit.num_runs, minimum=0.0)
        else:
            flops = column(cost, "cost", count, minimum=0.0)
        spread = np.ones(count) if noise is None else column(noise, "noise", count, minimum=0.0)
        if (spread == 0).any():
            raise InputError(
                f"noise is 0 in row {np.argmin(spread)}; give a positive standard deviation relative to the table's"
            )
        positive = (axes[: fit.law.num_positive] > 0).all(axis=0)
        value, slopes = fit.law.value_and_gradient(fit.theta[None], np.where(positive, axes, fit.problem.axes[:, :1]))
        keep = positive & (flops > 0) & np.isfinite(fit.contract.link(value[0])) & np.isfinite(slopes[0]).all(axis=1)
        if not keep.any():
            raise InputError("no candidate has positive sizes, a positive cost and a finite prediction; give others")
        return cls(axes[:, keep], flops[keep], spread[keep], table_cost)
