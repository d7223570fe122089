"""Scalars that follow from a fit's parameters, with their slopes: what a profile pulls to an aim."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unisc.scaling.fit import Fit

_STEP = 1e-5


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
class Towards:
    """Pull each parameter vector's quantity `which` (S,) towards an aim (S,) with a stiffness (S,)."""

    quantities: Quantities
    which: np.ndarray
    aim: np.ndarray
    stiffness: np.ndarray

    def at(self, rows: np.ndarray) -> "Towards":
        return Towards(self.quantities, self.which[rows], self.aim[rows], self.stiffness[rows])

    def derivatives(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        with np.errstate(all="ignore"):  # A prediction may overflow where no step is accepted.
            value, slope = self.quantities.one_each(theta, self.which)
            off = value - self.aim
            pulled = self.stiffness[:, None] * slope
            # Parameters are linear in the internal ones, and predictions nearly so in the space of the contract.
            return 0.5 * self.stiffness * off**2, pulled * off[:, None], pulled[:, :, None] * slope[:, None, :]
