"""Where residuals are measured: on the loss, on its logarithm, or on the logit of its share of the largest there can be."""

from dataclasses import dataclass
from typing import get_args

import numpy as np

from unisc.fit_options import Space

SPACES: tuple[Space, ...] = get_args(Space)


@dataclass(frozen=True, slots=True)
class Link:
    """A rising function of the loss and its first two derivatives; inf outside of where it is defined.

    `span` is the largest loss there can be, for "logit".
    """

    space: Space
    span: float = np.inf

    def __call__(self, loss: np.ndarray) -> np.ndarray:
        if self.space == "loss":
            return loss
        inside = (loss > 0) & (loss < self.span)
        held = np.where(inside, loss, 1.0 if self.space == "log" else 0.5 * self.span)
        value = np.log(held)
        if self.space == "logit":
            value = value - np.log(self.span - held)
        return np.where(inside, value, np.inf)

    def inverse(self, value: np.ndarray) -> np.ndarray:
        """Return the loss at a value of the link."""
        if self.space == "loss":
            return value
        if self.space == "log":
            return np.exp(np.clip(value, -700, 700))
        return self.span / (1.0 + np.exp(-np.clip(value, -700, 700)))

    def derivatives(self, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the first and second derivative at losses; those of the nearest defined loss outside."""
        if self.space == "loss":
            return np.ones_like(loss), np.zeros_like(loss)
        if self.space == "log":
            slope = 1.0 / np.maximum(loss, 1e-300)
            return slope, -(slope**2)
        held = np.clip(loss, 1e-12 * self.span, (1 - 1e-12) * self.span)
        below, above = 1.0 / held, 1.0 / (self.span - held)
        return below + above, above**2 - below**2
