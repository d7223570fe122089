"""Functional forms of loss in model and data size. A law is parameters, prediction, derivatives, bounds and starts.

Laws work on `axes`, an array (X, n) of positive sizes, one row an axis, and on unconstrained internal parameters `theta`
(S, P): S parameter vectors are evaluated at once, which is what makes multi-start fits and bootstraps one program. Inside,
logarithms of the axes are centred; without that the Chinchilla problem has a condition number near 1e11 (arXiv 2603.22339).
"""

import itertools
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Hold predictions (S, n), their gradient (S, n, P), and per-term values and designs where the law curves."""

    value: np.ndarray
    gradient: np.ndarray
    terms: np.ndarray | None = None  # (K, S, n), exp of a linear function of theta
    designs: np.ndarray | None = None  # (K, n, P)

    def curvature(self, weight: np.ndarray) -> np.ndarray:
        """Return sum over runs of weight (S, n) times the Hessian of the prediction, (S, P, P)."""
        runs, params = self.gradient.shape[1:]
        if self.terms is None or self.designs is None:
            return np.zeros((len(weight), params, params))
        total = np.zeros((len(weight), params * params))
        for term, design in zip(self.terms, self.designs, strict=True):
            outer = (design[:, :, None] * design[:, None, :]).reshape(runs, params * params)
            total += (weight * term) @ outer
        return total.reshape(-1, params, params)


class Law(Protocol):
    """Describe what the optimiser needs of a law; `names` are the natural parameters, in order."""

    name: str
    names: tuple[str, ...]
    num_axes: int

    def evaluate(self, theta: np.ndarray, axes: np.ndarray) -> Evaluation:
        """Return predictions and derivatives at theta (S, P) for axes (X, n)."""
        ...

    def predict(self, theta: np.ndarray, axes: np.ndarray) -> np.ndarray:
        """Return predictions (S, n) alone."""
        ...

    def natural(self, theta: np.ndarray) -> np.ndarray:
        """Map internal parameters (S, P) to natural ones (S, P), in the order of `names`."""
        ...

    def bounds(self, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return lower and upper bounds (P,) of theta for a table with these losses."""
        ...

    def starts(self, axes: np.ndarray, loss: np.ndarray, relative: bool) -> np.ndarray:
        """Return starting points (S, P), the whole grid; `relative` asks for residuals weighted by 1/loss."""
        ...


def _centres(axes: np.ndarray) -> np.ndarray:
    return np.log(axes).mean(axis=1)


@dataclass(frozen=True, slots=True)
class _PowerSum:
    """Sum a floor and one falling power per axis: E + sum_x A_x / axis_x^alpha_x.

    Internal parameters: log E, then log amplitudes at the centre of the table, then exponents.
    """

    centres: tuple[float, ...]
    names: ClassVar[tuple[str, ...]] = ()
    name: ClassVar[str] = ""

    max_exponent: ClassVar[float] = 4.0
    # A floor under this share of the smallest loss is zero for every purpose: the fit says that it met its bound.
    min_floor_share: ClassVar[float] = 1e-3

    @property
    def num_axes(self) -> int:
        return len(self.centres)

    def _designs(self, axes: np.ndarray) -> np.ndarray:
        count, runs = self.num_axes, axes.shape[1]
        designs = np.zeros((count + 1, runs, 2 * count + 1))
        designs[0, :, 0] = 1.0
        for axis in range(count):
            designs[axis + 1, :, 1 + axis] = 1.0
            designs[axis + 1, :, 1 + count + axis] = -(np.log(axes[axis]) - self.centres[axis])
        return designs

    def evaluate(self, theta: np.ndarray, axes: np.ndarray) -> Evaluation:
        designs = self._designs(axes)
        terms = np.exp(np.clip(theta @ designs.transpose(0, 2, 1), -700, 700))
        gradient = np.zeros((len(theta), axes.shape[1], theta.shape[1]))
        for term, design in zip(terms, designs, strict=True):
            for column in np.flatnonzero(design.any(axis=0)):
                gradient[:, :, column] += term * design[:, column]
        return Evaluation(terms.sum(axis=0), gradient, terms, designs)

    def predict(self, theta: np.ndarray, axes: np.ndarray) -> np.ndarray:
        return np.exp(np.clip(theta @ self._designs(axes).transpose(0, 2, 1), -700, 700)).sum(axis=0)

    def natural(self, theta: np.ndarray) -> np.ndarray:
        count = self.num_axes
        out = np.array(theta, float)
        out[:, 0] = np.exp(theta[:, 0])
        exponents = theta[:, 1 + count :]
        out[:, 1 : 1 + count] = np.exp(np.clip(theta[:, 1 : 1 + count] + exponents * np.asarray(self.centres), -700, 700))
        return out

    def bounds(self, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count = self.num_axes
        low, high = float(loss.min()), float(loss.max())
        lower = [np.log(self.min_floor_share * low)] + [np.log(1e-9 * low)] * count + [0.0] * count
        upper = [np.log(high)] + [np.log(1e3 * high)] * count + [self.max_exponent] * count
        return np.array(lower), np.array(upper)

    def starts(self, axes: np.ndarray, loss: np.ndarray, relative: bool) -> np.ndarray:
        """Grid the exponents and solve for floor and amplitudes, which enter linearly (variable projection)."""
        count = self.num_axes
        values = np.geomspace(0.04, 2.0, 24 if count == 1 else 9)
        exponents = np.array(list(itertools.product(values, repeat=count)))
        logs = np.log(axes) - np.asarray(self.centres)[:, None]
        powers = np.exp(-exponents[:, :, None] * logs)  # (S, X, n)
        columns = np.concatenate([np.ones((len(exponents), 1, axes.shape[1])), powers], axis=1)
        target = np.ones_like(loss) if relative else loss / loss.mean()
        columns = columns * (1 / loss if relative else 1 / loss.mean())
        linear = np.maximum(_nonnegative(columns, target), 1e-6 * loss.min())
        return np.concatenate([np.log(linear), exponents], axis=1)


def _nonnegative(columns: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Solve non-negative least squares for columns (S, K, n) by trying every support; K is two or three."""
    size = columns.shape[1]
    gram = columns @ columns.transpose(0, 2, 1)
    moment = columns @ target
    best = np.zeros(moment.shape)
    best_gain = np.full(len(moment), -np.inf)
    for width in range(1, size + 1):
        for support in itertools.combinations(range(size), width):
            index = np.array(support)
            part = gram[:, index[:, None], index] + 1e-12 * np.trace(gram, axis1=1, axis2=2)[:, None, None] * np.eye(width)
            solution = np.linalg.solve(part, moment[:, index, None])[..., 0]
            gain = (solution * moment[:, index]).sum(axis=1)
            take = (solution >= 0).all(axis=1) & (gain > best_gain)
            best_gain[take] = gain[take]
            filled = np.zeros((int(take.sum()), size))
            filled[:, index] = solution[take]
            best[take] = filled
    return best


@dataclass(frozen=True, slots=True)
class Chinchilla(_PowerSum):
    """L(N, D) = E + A/N^alpha + B/D^beta (arXiv 2203.15556, approach 3)."""

    name: ClassVar[str] = "chinchilla"
    names: ClassVar[tuple[str, ...]] = ("E", "A", "B", "alpha", "beta")

    @classmethod
    def of(cls, axes: np.ndarray) -> "Chinchilla":
        """Centre the law on a table's axes (2, n)."""
        return cls(tuple(map(float, _centres(axes))))


@dataclass(frozen=True, slots=True)
class PowerFloor(_PowerSum):
    """L(N) = E + A/N^alpha, for one axis."""

    name: ClassVar[str] = "power_floor"
    names: ClassVar[tuple[str, ...]] = ("E", "A", "alpha")

    @classmethod
    def of(cls, axes: np.ndarray) -> "PowerFloor":
        """Centre the law on a table's axis (1, n)."""
        return cls(tuple(map(float, _centres(axes))))


@dataclass(frozen=True, slots=True)
class LogLinear:
    """L = c0 + sum_x c_x ln axis_x: the baseline without a floor, and the honest form when no curvature shows."""

    centres: tuple[float, ...]
    name: ClassVar[str] = "log_linear"
    names: tuple[str, ...] = field(default=("c0", "c1"))

    @classmethod
    def of(cls, axes: np.ndarray) -> "LogLinear":
        """Centre the law on a table's axes (X, n)."""
        return cls(tuple(map(float, _centres(axes))), tuple(f"c{i}" for i in range(len(axes) + 1)))

    @property
    def num_axes(self) -> int:
        return len(self.centres)

    def _design(self, axes: np.ndarray) -> np.ndarray:
        return np.concatenate([np.ones((axes.shape[1], 1)), (np.log(axes) - np.asarray(self.centres)[:, None]).T], axis=1)

    def evaluate(self, theta: np.ndarray, axes: np.ndarray) -> Evaluation:
        design = self._design(axes)
        return Evaluation(theta @ design.T, np.broadcast_to(design, (len(theta), *design.shape)))

    def predict(self, theta: np.ndarray, axes: np.ndarray) -> np.ndarray:
        return theta @ self._design(axes).T

    def natural(self, theta: np.ndarray) -> np.ndarray:
        out = np.array(theta, float)
        out[:, 0] -= theta[:, 1:] @ np.asarray(self.centres)
        return out

    def bounds(self, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        reach = 1e3 * float(np.abs(loss).max()) * np.ones(self.num_axes + 1)
        return -reach, reach

    def starts(self, axes: np.ndarray, loss: np.ndarray, relative: bool) -> np.ndarray:
        scale = 1 / loss if relative else np.ones_like(loss)
        solution = np.linalg.lstsq(self._design(axes) * scale[:, None], loss * scale, rcond=None)[0]
        return solution[None]


LAWS: dict[str, type] = {law.name: law for law in (Chinchilla, PowerFloor, LogLinear)}
