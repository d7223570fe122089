"""What a law is: named parameters, a prediction with derivatives, bounds, and starting points.

Laws work on `axes`, an array (X, n), one row an axis, and on unconstrained internal parameters `theta` (S, P): S parameter
vectors are evaluated at once, which is what makes multi-start fits and bootstraps one program. Inside, logarithms of the axes
are centred; without that the Chinchilla problem has a condition number near 1e11 (arXiv 2603.22339).

A law predicts the loss: what falls as a system gets better. A metric that rises is turned before it gets here (see `Contract`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import numpy as np

Kind = Literal["floor", "amplitude", "exponent", "coefficient", "place"]
STEP = 1e-4
"""Step of the differences that stand in for second derivatives; internal parameters are of order one."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A natural parameter. An amplitude goes with an exponent, `of`: alone it means nothing. `log`: held as a logarithm."""

    name: str
    kind: Kind
    of: str = ""
    log: bool = False


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Predictions (S, n), their gradient (S, n, P), and the weighted sum over runs of their Hessians, (S, n) -> (S, P, P)."""

    value: np.ndarray
    gradient: np.ndarray
    curvature: Callable[[np.ndarray], np.ndarray]


class Law(ABC):
    """A functional form, centred on one table by `of`.

    `axes` names what the law is of; those from `num_positive` on may hold zeros. `signed` laws take losses of any sign.
    """

    name: ClassVar[str] = ""
    axes: ClassVar[tuple[str, ...]] = ()
    any_axes: ClassVar[bool] = False
    signed: ClassVar[bool] = False
    num_positive: ClassVar[int] = 9
    num_starts: ClassVar[int] = 24

    @property
    @abstractmethod
    def parameters(self) -> tuple[Parameter, ...]:
        """The natural parameters, in order."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the natural parameters, in order."""
        return tuple(p.name for p in self.parameters)

    @property
    def num_axes(self) -> int:
        return len(self.axes)

    @classmethod
    @abstractmethod
    def of(cls, axes: np.ndarray, loss: np.ndarray, labels: tuple[str, ...], span: float) -> "Law":
        """Centre the law on a table: axes (X, n) with their labels, losses (n,), and the largest loss there can be."""

    @abstractmethod
    def value_and_gradient(self, theta: np.ndarray, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return predictions (S, n) and their gradient (S, n, P)."""

    def predict(self, theta: np.ndarray, axes: np.ndarray) -> np.ndarray:
        """Return predictions (S, n) alone."""
        return self.value_and_gradient(theta, axes)[0]

    def evaluate(self, theta: np.ndarray, axes: np.ndarray) -> Evaluation:
        """Return predictions and all derivatives; second ones by differences of the gradient unless a law knows better."""
        return Evaluation(*self.value_and_gradient(theta, axes), partial(self._curvature, theta, axes))

    def _curvature(self, theta: np.ndarray, axes: np.ndarray, weight: np.ndarray) -> np.ndarray:
        columns = []
        for step in STEP * np.eye(theta.shape[1]):
            ahead, behind = (self.value_and_gradient(theta + s, axes)[1] for s in (step, -step))
            difference = np.where(np.isfinite(ahead - behind), ahead - behind, 0.0)
            columns.append(np.einsum("sn,snp->sp", weight, difference) / (2 * STEP))
        hessian = np.stack(columns, axis=1)
        return 0.5 * (hessian + hessian.transpose(0, 2, 1))

    @abstractmethod
    def natural(self, theta: np.ndarray) -> np.ndarray:
        """Map internal parameters (S, P) to natural ones (S, P), in the order of `names`."""

    @abstractmethod
    def internal(self, natural: np.ndarray) -> np.ndarray:
        """Map natural parameters (S, P) to internal ones."""

    @abstractmethod
    def bounds(self, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return lower and upper bounds (P,) of theta for a table with these losses."""

    @abstractmethod
    def starts(self, axes: np.ndarray, loss: np.ndarray, slope: np.ndarray) -> np.ndarray:
        """Return starting points (S, P), the whole grid; `slope` (n,) is that of the residual's link at each loss."""

    @classmethod
    def size_and_data(cls, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return each run's model size and examples (n,); one where the law has no such axis. Their product goes as compute."""
        return axes[0], axes[1] if len(axes) > 1 else np.ones(axes.shape[1])

    def derived(self, natural: np.ndarray) -> dict[str, np.ndarray]:
        """Return quantities (S,) that follow from natural parameters (S, P), by name."""
        return {}


def log(values: np.ndarray) -> np.ndarray:
    """Return the logarithm, of 1e-300 at the least."""
    return np.log(np.maximum(values, 1e-300))


def exp(values: np.ndarray) -> np.ndarray:
    """Return the exponential, without overflow."""
    return np.exp(np.clip(values, -700, 700))


def log_centres(axes: np.ndarray) -> tuple[float, ...]:
    """Return the mean logarithm of each axis."""
    return tuple(map(float, np.log(axes).mean(axis=1)))


def nonnegative(columns: np.ndarray, target: np.ndarray, free: tuple[int, ...] = ()) -> np.ndarray:
    """Solve least squares for columns (S, K, n) and a target (n,), all but the `free` ones not below zero; K is small.

    Every set of columns is tried, so that the answer is exact and S problems are solved at once.
    """
    size = columns.shape[1]
    gram = columns @ columns.transpose(0, 2, 1)
    moment = columns @ target
    best = np.zeros(moment.shape)
    best_gain = np.full(len(moment), -np.inf)
    bound = np.array([column not in free for column in range(size)])
    for chosen in range(1, 2**size):
        index = np.flatnonzero([chosen >> column & 1 for column in range(size)])
        ridge = 1e-12 * np.trace(gram, axis1=1, axis2=2)[:, None, None] * np.eye(len(index))
        solution = np.linalg.solve(gram[:, index[:, None], index] + ridge, moment[:, index, None])[..., 0]
        gain = (solution * moment[:, index]).sum(axis=1)
        take = ((solution >= 0) | ~bound[index]).all(axis=1) & (gain > best_gain)
        best_gain[take] = gain[take]
        filled = np.zeros((int(take.sum()), size))
        filled[:, index] = solution[take]
        best[take] = filled
    return best
