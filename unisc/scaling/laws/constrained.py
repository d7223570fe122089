"""The data-constrained law (arXiv 2305.16264, section 5): repeated data and excess parameters are worth less and less."""

import itertools
from dataclasses import dataclass

import numpy as np

from unisc.scaling.laws.base import Law, Parameter, exp, log
from unisc.scaling.laws.power import Chinchilla


@dataclass(frozen=True, slots=True)
class DataConstrained(Law):
    """L(N, D, U) = E + A/N'^alpha + B/D'^beta for D examples seen, U of them distinct.

    D' = U (1 + R_D (1 - exp(-r/R_D))) with r = D/U - 1 repetitions, and N' likewise of the size U_N that would be
    compute-optimal for U examples: R_D and R_N are how many repetitions are worth anything. Internal parameters: those of the
    Chinchilla law, then the logarithms of both.
    """

    base: Chinchilla

    name = "data_constrained"
    axes = ("N", "D", "U")
    num_starts = 32

    @classmethod
    def of(cls, axes: np.ndarray, loss: np.ndarray, labels: tuple[str, ...], span: float) -> "DataConstrained":
        logs = np.log(np.stack([axes[0], np.minimum(axes[1], axes[2])]))
        return cls(Chinchilla(tuple(map(float, logs.mean(axis=1)))))

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return (*self.base.parameters, Parameter("R_D", "coefficient", log=True), Parameter("R_N", "coefficient", log=True))

    def value_and_gradient(self, theta: np.ndarray, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        floor, a, b, alpha, beta, repeats, excess = (theta[:, i, None] for i in range(7))
        centre_n, centre_d = self.base.centres
        size, unique = np.log(axes[0])[None], np.log(np.minimum(axes[1], axes[2]))[None]
        # The size that is compute-optimal for the distinct examples, where that is the smaller.
        ratio, both = beta / alpha, alpha + beta
        log_g = (log(alpha) + a + alpha * centre_n - log(beta) - b - beta * centre_d) / both
        optimal = (1 + ratio) * log_g + ratio * unique
        bound = optimal < size
        base_n = np.where(bound, optimal, size)
        size_gain, by_excess, size_left = _worth(exp(size - base_n) - 1.0, np.exp(excess))
        data_gain, by_repeats, _ = _worth(axes[1] / np.minimum(axes[1], axes[2]) - 1.0, np.exp(repeats))
        worth_n, worth_d = base_n + np.log(size_gain), unique + np.log(data_gain)
        of_size, of_data = exp(a - alpha * (worth_n - centre_n)), exp(b - beta * (worth_d - centre_d))
        # How the effective size moves with its base: the size itself is given, so a larger base means fewer repetitions.
        through = np.where(bound, 1.0 - size_left * exp(size - base_n) / size_gain, 0.0)
        by_alpha = (1 + ratio) * (1 / alpha + centre_n - log_g) / both - ratio / alpha * (log_g + unique)
        by_beta = (1 + ratio) * (-1 / beta - centre_d - log_g) / both + (log_g + unique) / alpha
        pull = -alpha * of_size * through
        slopes = (
            np.exp(floor),
            of_size + pull * (1 + ratio) / both,
            of_data - pull * (1 + ratio) / both,
            -of_size * (worth_n - centre_n) + pull * by_alpha,
            -of_data * (worth_d - centre_d) + pull * by_beta,
            -beta * of_data * by_repeats / data_gain,
            -alpha * of_size * by_excess / size_gain,
        )
        return np.exp(floor) + of_size + of_data, np.stack(np.broadcast_arrays(*slopes), axis=-1)

    def natural(self, theta: np.ndarray) -> np.ndarray:
        return np.concatenate([self.base.natural(theta[:, :5]), np.exp(theta[:, 5:])], axis=1)

    def internal(self, natural: np.ndarray) -> np.ndarray:
        return np.concatenate([self.base.internal(natural[:, :5]), log(natural[:, 5:])], axis=1)

    def bounds(self, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lower, upper = self.base.bounds(loss)
        lower[3:] = 1e-2  # the two terms trade through the ratio of their exponents
        return np.array([*lower, *np.log([0.05, 0.05])]), np.array([*upper, *np.log([1e4, 1e4])])

    def starts(self, axes: np.ndarray, loss: np.ndarray, slope: np.ndarray) -> np.ndarray:
        """Start the base law as if distinct examples were all, and as if repeated ones counted fully."""
        bases = [self.base.starts(np.stack([axes[0], data]), loss, slope) for data in (np.minimum(axes[1], axes[2]), axes[1])]
        rates = np.log(np.array(list(itertools.product((1.0, 5.0, 20.0, 100.0), repeat=2))))
        base = np.concatenate(bases)
        return np.concatenate([np.repeat(base, len(rates), axis=0), np.tile(rates, (len(base), 1))], axis=1)


def _worth(repeated: np.ndarray, rate: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what repetitions multiply a size by, its slope in ln rate, and the worth of one more repetition."""
    left = np.exp(-np.maximum(repeated, 0.0) / rate)
    return 1.0 + rate * (1.0 - left), rate * (1.0 - left) - repeated * left, left
