"""Kaplan's joint law (arXiv 2001.08361, equation 1.5): L(N, D) = ((N_c/N)^(alpha_N/alpha_D) + D_c/D)^alpha_D, no floor."""

import itertools
from dataclasses import dataclass

import numpy as np

from unisc.scaling.laws.base import Law, Parameter, exp, log, log_centres, nonnegative


@dataclass(frozen=True, slots=True)
class Kaplan(Law):
    """Internal parameters: logarithms of the two terms at the centre of the table, then the exponents."""

    centres: tuple[float, ...]

    name = "kaplan"
    axes = ("N", "D")

    @classmethod
    def of(cls, axes: np.ndarray, loss: np.ndarray, labels: tuple[str, ...], span: float) -> "Kaplan":
        return cls(log_centres(axes))

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return (
            Parameter("N_c", "amplitude", of="alpha_N"),
            Parameter("D_c", "amplitude", of="alpha_D"),
            Parameter("alpha_N", "exponent"),
            Parameter("alpha_D", "exponent"),
        )

    def value_and_gradient(self, theta: np.ndarray, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        size, data = np.log(axes) - np.asarray(self.centres)[:, None]
        first, second, alpha_n, alpha_d = (theta[:, i, None] for i in range(4))
        of_size, of_data = first - alpha_n / alpha_d * size, second - data
        both = np.logaddexp(of_size, of_data)
        share = np.exp(of_size - both)
        value = exp(alpha_d * both)
        slopes = (
            alpha_d * share,
            alpha_d * (1 - share),
            -share * size,
            both + share * alpha_n / alpha_d * size,
        )
        return value, value[..., None] * np.stack(np.broadcast_arrays(*slopes), axis=-1)

    def natural(self, theta: np.ndarray) -> np.ndarray:
        out = np.array(theta, float)
        ratio = theta[:, 2] / theta[:, 3]
        out[:, 0] = exp(theta[:, 0] / ratio + self.centres[0])
        out[:, 1] = exp(theta[:, 1] + self.centres[1])
        return out

    def internal(self, natural: np.ndarray) -> np.ndarray:
        out = np.array(natural, float)
        out[:, 0] = (log(natural[:, 0]) - self.centres[0]) * natural[:, 2] / natural[:, 3]
        out[:, 1] = log(natural[:, 1]) - self.centres[1]
        return out

    def bounds(self, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.array([-200.0, -200.0, 1e-4, 1e-3]), np.array([200.0, 200.0, 4.0, 4.0])

    def starts(self, axes: np.ndarray, loss: np.ndarray, slope: np.ndarray) -> np.ndarray:
        size, data = np.log(axes) - np.asarray(self.centres)[:, None]
        rows = []
        for alpha_n, alpha_d in itertools.product(np.geomspace(0.02, 1.5, 9), repeat=2):
            # In the power 1/alpha_D of the loss the two terms enter linearly.
            target = np.log(loss) / alpha_d
            target = np.exp(target - target.mean())
            columns = np.stack([np.exp(-alpha_n / alpha_d * size), np.exp(-data)])
            weight = slope * loss / target
            found = nonnegative((columns * weight)[None], target * weight)[0]
            terms = log(np.maximum(found, 1e-9 * found.max())) + np.log(loss).mean() / alpha_d
            rows.append([*terms, alpha_n, alpha_d])
        return np.array(rows)
