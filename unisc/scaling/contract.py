"""What a fit minimised and what its axes counted: two fits may be compared only when these agree."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np

from unisc.errors import InputError
from unisc.scaling.links import SPACES, Link, Space

_LOSSES = ("huber", "squared", "absolute")


@dataclass(frozen=True, kw_only=True, slots=True)
class Contract:
    """State the objective of a fit: the sum over runs of a loss of the residuals, in loss or in log-loss space.

    The objective alone moves a Chinchilla exponent from .396 to .459 on clean data, and the way parameters are counted moves
    one from .835 to .706 (arXiv 2404.10102, 2406.19146), so all of it is saved with the fit. `huber_delta` is in units of the
    residual (log loss when `space` is "log"); "squared" is half the sum of squares.

    Laws describe a loss that falls. A metric that is better the `higher` is turned into one: its distance from `upper`, or
    its negative where it has no bounds, as a gain over a baseline. With both bounds residuals can be taken on the logit.
    """

    space: Space = "log"
    loss: Literal["huber", "squared", "absolute"] = "huber"
    huber_delta: float = 1e-3
    trimming: str = "none"
    params_counted: str = "num_params_dense"
    data_counted: str = "num_examples"
    flops_counted: str = ""
    metric: str = "log_loss"
    better: Literal["lower", "higher"] = "lower"
    lower: float | None = None
    upper: float | None = None

    def __post_init__(self):
        if self.space not in SPACES:
            raise InputError(f"contract: space {self.space!r} is unknown; choose one of {', '.join(SPACES)}")
        if self.loss not in _LOSSES:
            raise InputError(f"contract: loss {self.loss!r} is unknown; choose one of {', '.join(_LOSSES)}")
        if not self.huber_delta > 0:
            raise InputError(f"contract: huber_delta is {self.huber_delta}; give a positive number, such as 1e-3")
        if self.better not in ("lower", "higher"):
            raise InputError(f"contract: better {self.better!r} is unknown; choose lower or higher")
        if (self.lower is None) != (self.upper is None):
            raise InputError("contract: one bound of the metric without the other; give both lower and upper, or neither")
        if self.lower is not None and self.upper is not None and not self.lower < self.upper:
            raise InputError(
                f"contract: bounds {self.lower:g} and {self.upper:g} hold no metric between them; give lower < upper"
            )
        if self.space == "logit" and self.upper is None:
            raise InputError("contract: space 'logit' needs the metric's bounds; give lower and upper, 0.5 and 1 for AUC-ROC")
        if self.space == "log" and self.better == "higher" and self.upper is None:
            raise InputError(
                f"contract: {self.metric} is better the higher and without bounds has no logarithm; give bounds or space 'loss'"
            )

    @property
    def span(self) -> float:
        """The largest loss there can be."""
        return np.inf if self.upper is None or self.lower is None else self.upper - self.lower

    @property
    def link(self) -> Link:
        """Where residuals are measured."""
        return Link(self.space, self.span)

    def to_loss(self, metric: np.ndarray) -> np.ndarray:
        """Turn a metric into the loss that laws describe; its own inverse is `to_metric`."""
        if self.upper is None or self.lower is None:
            return -metric if self.better == "higher" else metric
        return self.upper - metric if self.better == "higher" else metric - self.lower

    def to_metric(self, loss: np.ndarray) -> np.ndarray:
        """Turn a loss back into the metric."""
        if self.upper is None or self.lower is None:
            return -loss if self.better == "higher" else loss
        return self.upper - loss if self.better == "higher" else loss + self.lower

    def to_json(self) -> dict[str, Any]:
        """Return the contract as a flat dict of JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Contract":
        """Rebuild a contract; an unknown key raises `InputError`."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise InputError(f"contract: unknown key {unknown[0]!r}; the keys are {', '.join(sorted(known))}")
        return cls(**values)

    def difference(self, other: "Contract") -> list[str]:
        """Name every field in which two contracts differ, as `name: mine != theirs`."""
        mine: dict[str, Any] = asdict(self)
        theirs: dict[str, Any] = asdict(other)
        if self.loss == other.loss != "huber":
            mine["huber_delta"] = theirs["huber_delta"] = None  # Delta means nothing to the other losses.
        return [f"{name}: {mine[name]} != {theirs[name]}" for name in mine if mine[name] != theirs[name]]

    def require_same(self, other: "Contract") -> None:
        """Raise `InputError` unless the two contracts agree in every field."""
        if differing := self.difference(other):
            raise InputError(f"these fits minimise different things ({'; '.join(differing)}); refit both under one contract")
