"""Broken neural scaling laws (arXiv 2210.14891, equation 1): powers whose slope changes at breaks, smoothly."""

import itertools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from unisc.scaling.laws.base import Law, Parameter, exp, log, log_centres, nonnegative


@dataclass(frozen=True, slots=True)
class Broken(Law):
    """L(x) = a + b x^-c0 prod_i (1 + (x/d_i)^(1/f_i))^(-c_i f_i).

    Internal parameters: log a, log b at the centre, c0, then for each break its change of slope c_i, the logarithm of its
    place d_i, centred, and the logarithm of its width f_i.
    """

    centres: tuple[float, ...]
    reach: tuple[float, float]

    axes = ("N",)
    num_breaks: ClassVar[int] = 1
    num_starts = 64

    @classmethod
    def of(cls, axes: np.ndarray, loss: np.ndarray, labels: tuple[str, ...], span: float) -> "Broken":
        centres = log_centres(axes)
        x = np.log(axes[0]) - centres[0]
        return cls(centres, (float(x.min()), float(x.max())))

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        breaks = range(1, self.num_breaks + 1)
        return (
            Parameter("a", "floor", log=True),
            Parameter("b", "amplitude", of="c0"),
            Parameter("c0", "exponent"),
            *itertools.chain.from_iterable(
                (
                    Parameter(f"c{i}", "exponent"),
                    Parameter(f"d{i}", "place", log=True),
                    Parameter(f"f{i}", "place", log=True),
                )
                for i in breaks
            ),
        )

    def value_and_gradient(self, theta: np.ndarray, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = np.log(axes[0]) - self.centres[0]
        gradient = np.empty((len(theta), len(x), theta.shape[1]))
        power = theta[:, 1, None] - theta[:, 2, None] * x
        for i in range(3, theta.shape[1], 3):
            change, place, width = theta[:, i, None], theta[:, i + 1, None], np.exp(theta[:, i + 2, None])
            behind = (x - place) / width
            bent = np.logaddexp(0.0, behind)
            over = 1.0 / (1.0 + np.exp(-np.clip(behind, -700, 700)))
            power = power - change * width * bent
            gradient[:, :, i] = -width * bent
            gradient[:, :, i + 1] = change * over
            gradient[:, :, i + 2] = -change * width * (bent - over * behind)
        falling = exp(power)
        gradient[:, :, 3:] *= falling[..., None]
        gradient[:, :, 0] = np.exp(theta[:, 0, None])
        gradient[:, :, 1] = falling
        gradient[:, :, 2] = -x * falling
        return gradient[:, :, 0] + falling, gradient

    def natural(self, theta: np.ndarray) -> np.ndarray:
        out = np.array(theta, float)
        out[:, 0] = np.exp(theta[:, 0])
        out[:, 1] = exp(theta[:, 1] + theta[:, 2] * self.centres[0])
        out[:, 4::3] = exp(theta[:, 4::3] + self.centres[0])
        out[:, 5::3] = np.exp(theta[:, 5::3])
        return out

    def internal(self, natural: np.ndarray) -> np.ndarray:
        out = np.array(natural, float)
        out[:, 0] = log(natural[:, 0])
        out[:, 1] = log(natural[:, 1]) - natural[:, 2] * self.centres[0]
        out[:, 4::3] = log(natural[:, 4::3]) - self.centres[0]
        out[:, 5::3] = log(natural[:, 5::3])
        return out

    def bounds(self, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low, high = float(loss.min()), float(loss.max())
        width = self.reach[1] - self.reach[0]
        lower = [np.log(1e-3 * low), np.log(1e-9 * low), -2.0]
        upper = [np.log(high), np.log(1e3 * high), 4.0]
        for _ in range(self.num_breaks):
            lower += [-10.0, self.reach[0] - 0.25 * width, np.log(0.01)]
            upper += [10.0, self.reach[1] + 0.25 * width, np.log(2.0)]
        return np.array(lower), np.array(upper)

    def starts(self, axes: np.ndarray, loss: np.ndarray, slope: np.ndarray) -> np.ndarray:
        """Grid all that curves and solve for the floor and the amplitude."""
        places = np.linspace(*self.reach, 9 if self.num_breaks == 1 else 6)[1:-1]
        changes = (-0.5, 0.2, 1.0, 4.0) if self.num_breaks == 1 else (-0.3, 0.3, 1.5)
        widths = (0.05, 0.2, 0.6) if self.num_breaks == 1 else (0.15,)
        rows = []
        for first in (0.0, 0.05, 0.2, 0.6):
            for at in itertools.combinations(places, self.num_breaks):
                for by in itertools.product(changes, repeat=self.num_breaks):
                    for wide in widths:
                        breaks = [[c, d, np.log(wide)] for c, d in zip(by, at, strict=True)]
                        rows.append([-700.0, 0.0, first, *itertools.chain.from_iterable(breaks)])
        theta = np.array(rows)
        falling = self.value_and_gradient(theta, axes)[1][:, :, 1]
        columns = np.stack([np.ones_like(falling), falling], axis=1)
        linear = nonnegative(columns * slope, loss * slope)
        theta[:, :2] = np.log(np.maximum(linear, 1e-6 * loss.min()))
        return theta


class Broken1(Broken):
    """One break: two slopes."""

    name = "bnsl"


class Broken2(Broken):
    """Two breaks: three slopes, as in double descent or emergence."""

    name = "bnsl2"
    num_breaks = 2
