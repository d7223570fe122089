"""The composition law: examples of different origins enter as one effective data size, at fitted rates of exchange.

    L = E + A/N^alpha + B/D_eff^beta,    D_eff = D_1 + sum_k w_k D_k

The first origin is the currency: "one searchified sample is worth w exposed ones". A rate may be negative: those examples
harm. In `composition_by_size` a rate changes with the model, w_k + k_k ln(N / N_centre): the interaction of size with
composition, which is none where every k_k is zero.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from unisc.errors import InputError
from unisc.scaling.laws.base import Evaluation, Law, Parameter, exp
from unisc.scaling.laws.power import Chinchilla

LEAST, MOST = -2.0, 20.0
"""Bounds of a rate of exchange."""
RATES = (0.05, 0.3, 1.0)


@dataclass(frozen=True, slots=True)
class Composition(Law):
    """Internal parameters: those of the Chinchilla law, then the rates of all origins but the first."""

    base: Chinchilla
    origins: tuple[str, ...]

    name = "composition"
    axes = ("N", "D1", "D2")
    any_axes = True
    by_size: ClassVar[bool] = False
    num_positive = 1
    num_starts = 32

    @classmethod
    def of(cls, axes: np.ndarray, loss: np.ndarray, labels: tuple[str, ...], span: float) -> "Composition":
        if len(axes) < 3:
            raise InputError(f"law {cls.name!r} takes model size and the examples of two origins at least; use 'chinchilla'")
        return cls(Chinchilla((float(np.log(axes[0]).mean()), float(np.log(axes[1:].sum(axis=0)).mean()))), labels[1:])

    @classmethod
    def size_and_data(cls, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return axes[0], axes[1:].sum(axis=0)

    @property
    def num_axes(self) -> int:
        return 1 + len(self.origins)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        origins = self.origins[1:]
        rates = [Parameter(f"w_{origin}", "coefficient") for origin in origins]
        slopes = [Parameter(f"k_{origin}", "coefficient") for origin in origins] if self.by_size else []
        return (*self.base.parameters, *rates, *slopes)

    def value_and_gradient(self, theta: np.ndarray, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        floor, of_size, of_data, size, along = self._terms(theta, axes)
        value = np.where(np.isfinite(along[:, 1]), floor + of_size + of_data, np.inf)
        with np.errstate(invalid="ignore"):
            data = of_data[:, None] * np.nan_to_num(along)
        zero = np.zeros_like(value)
        slopes = np.stack(np.broadcast_arrays(floor + zero, of_size, data[:, 0], -of_size * size, data[:, 1]), axis=1)
        return value, np.concatenate([slopes, data[:, 2:]], axis=1).swapaxes(1, 2)

    def evaluate(self, theta: np.ndarray, axes: np.ndarray) -> Evaluation:
        return Evaluation(*self.value_and_gradient(theta, axes), partial(self._bend, theta, axes))

    def _terms(self, theta: np.ndarray, axes: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the law's terms (S, n), ln size (n,), and the slopes (S, 2 + rates, n) of the logarithm of the data term.

        These are by B, beta, and the rates. Without effective data that by beta is infinite: no such point is ever accepted.
        """
        others = len(axes) - 2
        size = np.log(axes[0]) - self.base.centres[0]
        rates = theta[:, 5 : 5 + others, None]
        if self.by_size:
            rates = rates + theta[:, 5 + others :, None] * size
        effective = axes[1] + (rates * axes[2:]).sum(axis=1)
        known = effective > 0
        held = np.where(known, effective, 1.0)
        data = np.where(known, np.log(held) - self.base.centres[1], -np.inf)
        floor, of_size = np.exp(theta[:, 0, None]), exp(theta[:, 1, None] - theta[:, 3, None] * size)
        of_data = exp(theta[:, 2, None] - theta[:, 4, None] * np.where(known, data, 0.0))
        share = -theta[:, 4, None, None] * axes[2:] / held[:, None]
        shares = [share, share * size] if self.by_size else [share]
        along = np.concatenate([np.ones_like(data)[:, None], -data[:, None], *shares], axis=1)
        return floor, of_size, of_data, size, along

    def _bend(self, theta: np.ndarray, axes: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Return the weighted sum (S, P, P) over runs of the second derivatives."""
        floor, of_size, of_data, size, along = self._terms(theta, axes)
        # A slope by a rate is a share of the effective data times -beta, and none where beta is zero.
        along, beta = np.nan_to_num(along, posinf=0.0, neginf=0.0), theta[:, 4, None, None]
        count = theta.shape[1]
        out = np.zeros((len(theta), count, count))
        out[:, 0, 0] = (weight * floor).sum(axis=1)
        for row, column, factor in ((1, 1, np.ones_like(size)), (1, 3, -size), (3, 3, size**2)):
            out[:, row, column] = out[:, column, row] = (weight * of_size * factor).sum(axis=1)
        # Of the exponential of a sum g: e^g (g' g' + g''). Of g only ln of the effective data bends, and beta multiplies it.
        weighted = (weight * of_data)[:, None] * along
        block = weighted @ along.swapaxes(1, 2)
        block[:, 2:, 2:] += weighted[:, 2:] @ along[:, 2:].swapaxes(1, 2) / np.where(beta == 0, 1.0, beta)
        by_beta = weighted[:, 2:].sum(axis=2) / np.where(beta[:, 0] == 0, 1.0, beta[:, 0])
        block[:, 1, 2:] += by_beta
        block[:, 2:, 1] += by_beta
        place = np.array([2, 4, *range(5, count)])
        out[:, place[:, None], place] = block
        return out

    def natural(self, theta: np.ndarray) -> np.ndarray:
        return np.concatenate([self.base.natural(theta[:, :5]), theta[:, 5:]], axis=1)

    def internal(self, natural: np.ndarray) -> np.ndarray:
        return np.concatenate([self.base.internal(natural[:, :5]), natural[:, 5:]], axis=1)

    def bounds(self, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lower, upper = self.base.bounds(loss)
        others = len(self.origins) - 1
        slopes = [1.0] * (others if self.by_size else 0)
        return np.array([*lower, *[LEAST] * others, *[-s for s in slopes]]), np.array([*upper, *[MOST] * others, *slopes])

    def starts(self, axes: np.ndarray, loss: np.ndarray, slope: np.ndarray) -> np.ndarray:
        """Start the base law at a few common rates of exchange."""
        rows = []
        for rate in RATES:
            effective = np.maximum(axes[1] + rate * axes[2:].sum(axis=0), 1e-6 * axes[1:].sum(axis=0))
            base = self.base.starts(np.stack([axes[0], effective]), loss, slope)
            rest = np.zeros((len(base), len(self.parameters) - 5))
            rest[:, : len(axes) - 2] = rate
            rows.append(np.concatenate([base, rest], axis=1))
        return np.concatenate(rows)


class CompositionBySize(Composition):
    """The composition law with rates that change with the model's size."""

    name = "composition_by_size"
    by_size = True
