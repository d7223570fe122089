"""Laws linear in their coefficients: the baselines without a floor, the interior optimum, and metrics on a sigmoid."""

from dataclasses import dataclass

import numpy as np

from unisc.scaling.laws.base import Law, Parameter, log_centres

REACH = 1e3
"""How far coefficients may go, in units of the largest loss (or of one, on a sigmoid)."""


@dataclass(frozen=True, slots=True)
class Linear(Law):
    """A linear predictor of centred logarithms of the axes (of the axes themselves without `logs`), and its square terms."""

    centres: tuple[float, ...]
    labels: tuple[str, ...]
    span: float

    axes = ("N",)
    any_axes = True
    logs = True
    squares = False
    signed = True

    @classmethod
    def of(cls, axes: np.ndarray, loss: np.ndarray, labels: tuple[str, ...], span: float) -> "Linear":
        centres = log_centres(axes) if cls.logs else tuple(map(float, axes.mean(axis=1)))
        return cls(centres, labels, span)

    @property
    def num_axes(self) -> int:
        return len(self.centres)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        slopes = [Parameter(f"c{i + 1}", "coefficient") for i in range(self.num_axes)]
        squares = [Parameter(f"q{i + 1}", "coefficient") for i in range(self.num_axes)] if self.squares else []
        return (Parameter("c0", "coefficient"), *slopes, *squares)

    def _design(self, axes: np.ndarray) -> np.ndarray:
        """Return the design (n, P)."""
        x = ((np.log(axes) if self.logs else axes) - np.asarray(self.centres)[:, None]).T
        return np.concatenate([np.ones((len(x), 1)), x, *([x**2] if self.squares else [])], axis=1)

    def value_and_gradient(self, theta: np.ndarray, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        design = self._design(axes)
        return theta @ design.T, np.broadcast_to(design, (len(theta), *design.shape))

    def natural(self, theta: np.ndarray) -> np.ndarray:
        return self._shifted(theta, np.asarray(self.centres))

    def internal(self, natural: np.ndarray) -> np.ndarray:
        return self._shifted(natural, -np.asarray(self.centres))

    def _shifted(self, theta: np.ndarray, centres: np.ndarray) -> np.ndarray:
        count, out = self.num_axes, np.array(theta, float)
        out[:, 0] -= theta[:, 1 : 1 + count] @ centres
        if self.squares:
            out[:, 0] += theta[:, 1 + count :] @ centres**2
            out[:, 1 : 1 + count] -= 2 * theta[:, 1 + count :] * centres
        return out

    def bounds(self, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        reach = REACH * max(float(np.abs(loss).max()), 1e-12) * np.ones(len(self.parameters))
        return -reach, reach

    def starts(self, axes: np.ndarray, loss: np.ndarray, slope: np.ndarray) -> np.ndarray:
        return np.linalg.lstsq(self._design(axes) * slope[:, None], loss * slope, rcond=None)[0][None]


class LogLinear(Linear):
    """L = c0 + sum_x c_x ln axis_x: the baseline without a floor, and the honest form when no curvature shows."""

    name = "log_linear"


class LogQuadratic(Linear):
    """L = c0 + sum_x c_x ln axis_x + q_x (ln axis_x)^2: where q is above zero, the loss has a best size inside or beyond."""

    name = "log_quadratic"
    squares = True

    def derived(self, natural: np.ndarray) -> dict[str, np.ndarray]:
        """Return the best value of each axis, inf where the parabola has no minimum."""
        count = self.num_axes
        slope, square = natural[:, 1 : 1 + count], natural[:, 1 + count :]
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            best = np.where(square > 0, np.exp(-slope / (2 * square)), np.inf)
        return {f"best_{label}": best[:, i] for i, label in enumerate(self.labels)}


class _OnSigmoid(Linear):
    """A linear predictor between no loss and the largest there can be, `span`."""

    signed = False

    def value_and_gradient(self, theta: np.ndarray, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        design = self._design(axes)
        share = 1.0 / (1.0 + np.exp(-np.clip(theta @ design.T, -700, 700)))
        return self.span * share, (self.span * share * (1.0 - share))[..., None] * design

    def bounds(self, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        reach = REACH * np.ones(len(self.parameters))
        return -reach, reach

    def starts(self, axes: np.ndarray, loss: np.ndarray, slope: np.ndarray) -> np.ndarray:
        share = np.clip(loss / self.span, 1e-6, 1 - 1e-6)
        target, weight = np.log(share / (1 - share)), slope * self.span * share * (1 - share)
        return np.linalg.lstsq(self._design(axes) * weight[:, None], target * weight, rcond=None)[0][None]


class LogitLinear(_OnSigmoid):
    """logit(L / span) = c0 + sum_x c_x ln axis_x: a bounded metric (AUC, HR, NDCG) that cannot leave its bounds."""

    name = "logit_linear"


class TaskFromLoss(_OnSigmoid):
    """logit(L / span) = c0 + c1 x, x itself a loss: from pre-training loss to a task's bounded metric (arXiv 2403.08540)."""

    name = "task_from_loss"
    axes = ("loss",)
    any_axes = False
    logs = False
