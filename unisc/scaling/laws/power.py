"""Sums of falling powers, with a floor, without, or with one of either sign: the family most scaling laws belong to."""

import itertools
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import numpy as np

from unisc.scaling.laws.base import Evaluation, Law, Parameter, exp, log, log_centres, nonnegative

MAX_EXPONENT = 4.0
MIN_FLOOR_SHARE = 1e-3
"""A floor under this share of the smallest loss is zero for every purpose: the fit says that it met its bound."""
GRID = {1: 24, 2: 9, 3: 5}
"""Values of each exponent in the grid of starts, by their number."""


@dataclass(frozen=True, slots=True)
class PowerSum(Law):
    """Sum a floor and one falling power per axis: E + sum_x A_x / axis_x^alpha_x.

    Internal parameters: log E (E itself where it is free, nothing where there is none), then log amplitudes at the centre of
    the table, then exponents, one an axis or one for all.
    """

    centres: tuple[float, ...]

    floor: ClassVar[Literal["positive", "free", "none"]] = "positive"
    amplitudes: ClassVar[tuple[str, ...]] = ()
    exponents: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of(cls, axes: np.ndarray, loss: np.ndarray, labels: tuple[str, ...], span: float) -> "PowerSum":
        return cls(log_centres(axes))

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        exponents = self._exponent_of_axis()
        return (
            *((Parameter("E", "floor", log=self.floor == "positive"),) if self._num_floors else ()),
            *(Parameter(name, "amplitude", of=self.exponents[e]) for name, e in zip(self.amplitudes, exponents, strict=True)),
            *(Parameter(name, "exponent") for name in self.exponents),
        )

    @property
    def _num_floors(self) -> int:
        return int(self.floor != "none")

    @classmethod
    def _exponent_of_axis(cls) -> tuple[int, ...]:
        shared = len(cls.exponents) == 1
        return tuple(0 if shared else axis for axis in range(len(cls.amplitudes)))

    def _designs(self, axes: np.ndarray) -> np.ndarray:
        """Return what each exponential is linear in, (K, n, P)."""
        first, count = self._num_floors, self.num_axes
        designs = np.zeros((count, axes.shape[1], first + count + len(self.exponents)))
        for axis, exponent in enumerate(self._exponent_of_axis()):
            designs[axis, :, first + axis] = 1.0
            designs[axis, :, first + count + exponent] = -(np.log(axes[axis]) - self.centres[axis])
        if self.floor != "positive":
            return designs
        constant = np.zeros((1, *designs.shape[1:]))
        constant[0, :, 0] = 1.0
        return np.concatenate([constant, designs])

    def evaluate(self, theta: np.ndarray, axes: np.ndarray) -> Evaluation:
        designs = self._designs(axes)
        terms = exp(theta @ designs.transpose(0, 2, 1))
        gradient = np.zeros((len(theta), axes.shape[1], theta.shape[1]))
        for term, design in zip(terms, designs, strict=True):
            for column in np.flatnonzero(design.any(axis=0)):
                gradient[:, :, column] += term * design[:, column]
        value = terms.sum(axis=0)
        if self.floor == "free":
            value, gradient[:, :, 0] = value + theta[:, :1], 1.0
        return Evaluation(value, gradient, partial(_curvature, terms, designs))

    def value_and_gradient(self, theta: np.ndarray, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = self.evaluate(theta, axes)
        return found.value, found.gradient

    def predict(self, theta: np.ndarray, axes: np.ndarray) -> np.ndarray:
        value = exp(theta @ self._designs(axes).transpose(0, 2, 1)).sum(axis=0)
        return value + theta[:, :1] if self.floor == "free" else value

    def natural(self, theta: np.ndarray) -> np.ndarray:
        first, count = self._num_floors, self.num_axes
        out = np.array(theta, float)
        if self.floor == "positive":
            out[:, 0] = np.exp(theta[:, 0])
        exponents = theta[:, first + count :][:, list(self._exponent_of_axis())]
        out[:, first : first + count] = exp(theta[:, first : first + count] + exponents * np.asarray(self.centres))
        return out

    def internal(self, natural: np.ndarray) -> np.ndarray:
        first, count = self._num_floors, self.num_axes
        out = np.array(natural, float)
        if self.floor == "positive":
            out[:, 0] = log(natural[:, 0])
        exponents = natural[:, first + count :][:, list(self._exponent_of_axis())]
        out[:, first : first + count] = log(natural[:, first : first + count]) - exponents * np.asarray(self.centres)
        return out

    def bounds(self, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count, low, high = self.num_axes, float(np.abs(loss).min()), float(np.abs(loss).max())
        spread = max(float(np.ptp(loss)), 1e-3 * high)
        floors = {"positive": ([np.log(MIN_FLOOR_SHARE * low)], [np.log(high)]), "none": ([], [])}
        floors["free"] = ([float(loss.min()) - 1e3 * spread], [float(loss.max())])
        least = 1e-9 * (low if self.floor == "positive" and low > 0 else spread)
        lower = [*floors[self.floor][0], *[np.log(least)] * count, *[0.0] * len(self.exponents)]
        upper = [*floors[self.floor][1], *[np.log(1e3 * high)] * count, *[MAX_EXPONENT] * len(self.exponents)]
        return np.array(lower), np.array(upper)

    def starts(self, axes: np.ndarray, loss: np.ndarray, slope: np.ndarray) -> np.ndarray:
        """Grid the exponents and solve for floor and amplitudes, which enter linearly (variable projection)."""
        count = len(self.exponents)
        values = np.geomspace(0.04, 2.0, GRID[count])
        exponents = np.array(list(itertools.product(values, repeat=count)))
        logs = np.log(axes) - np.asarray(self.centres)[:, None]
        columns = np.exp(-exponents[:, list(self._exponent_of_axis()), None] * logs)  # (S, X, n)
        if self._num_floors:
            columns = np.concatenate([np.ones((len(exponents), 1, axes.shape[1])), columns], axis=1)
        linear = nonnegative(columns * slope, loss * slope, free=(0,) if self.floor == "free" else ())
        least = 1e-6 * max(float(np.abs(loss).min()), 1e-6 * float(np.abs(loss).max()))
        logged = np.log(np.maximum(linear, least))
        if self.floor == "free":
            logged[:, 0] = linear[:, 0]
        return np.concatenate([logged, exponents], axis=1)


def _curvature(terms: np.ndarray, designs: np.ndarray, weight: np.ndarray) -> np.ndarray:
    runs, params = designs.shape[1:]
    total = np.zeros((len(weight), params * params))
    for term, design in zip(terms, designs, strict=True):
        outer = (design[:, :, None] * design[:, None, :]).reshape(runs, params * params)
        total += (weight * term) @ outer
    return total.reshape(-1, params, params)


class PowerFloor(PowerSum):
    """L(N) = E + A/N^alpha, for one axis."""

    name = "power_floor"
    axes = ("N",)
    amplitudes, exponents = ("A",), ("alpha",)


class Power(PowerSum):
    """L(N) = A/N^alpha: the power alone, which forgoes a floor."""

    name = "power"
    axes = ("N",)
    floor = "none"
    amplitudes, exponents = ("A",), ("alpha",)


class PowerLimit(PowerSum):
    """L(N) = E + A/N^alpha with E of either sign: a gain over a baseline, or any metric, on its way to a limit."""

    name = "power_limit"
    axes = ("N",)
    signed = True
    floor = "free"
    amplitudes, exponents = ("A",), ("alpha",)


class Chinchilla(PowerSum):
    """L(N, D) = E + A/N^alpha + B/D^beta (arXiv 2203.15556, approach 3)."""

    name = "chinchilla"
    axes = ("N", "D")
    amplitudes, exponents = ("A", "B"), ("alpha", "beta")

    def derived(self, natural: np.ndarray) -> dict[str, np.ndarray]:
        """Return `a`, the exponent of compute-optimal size in compute, beta / (alpha + beta)."""
        alpha, beta = natural[:, 3], natural[:, 4]
        return {"a": beta / np.maximum(alpha + beta, 1e-300)}


class Tied(PowerSum):
    """L(N, D) = E + A/N^gamma + B/D^gamma: one exponent for both, as over-training at fixed D/N implies (arXiv 2403.08540)."""

    name = "tied"
    axes = ("N", "D")
    amplitudes, exponents = ("A", "B"), ("gamma",)


class ThreeAxes(PowerSum):
    """L(N, V, D) = E + A/N^alpha + B/V^beta + C/D^gamma: dense parameters, embedding parameters, examples."""

    name = "three_axes"
    axes = ("N", "V", "D")
    amplitudes, exponents = ("A", "B", "C"), ("alpha", "beta", "gamma")

    @classmethod
    def size_and_data(cls, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return axes[0], axes[2]
