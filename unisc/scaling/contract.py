"""What a fit minimised and what its axes counted: two fits may be compared only when these agree."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from unisc.errors import InputError

_SPACES = ("loss", "log")
_LOSSES = ("huber", "squared", "absolute")


@dataclass(frozen=True, kw_only=True, slots=True)
class Contract:
    """State the objective of a fit: the sum over runs of a loss of the residuals, in loss or in log-loss space.

    The objective alone moves a Chinchilla exponent from .396 to .459 on clean data, and the way parameters are counted moves
    one from .835 to .706 (arXiv 2404.10102, 2406.19146), so all of it is saved with the fit. `huber_delta` is in units of the
    residual (log loss when `space` is "log"); "squared" is half the sum of squares.
    """

    space: Literal["loss", "log"] = "log"
    loss: Literal["huber", "squared", "absolute"] = "huber"
    huber_delta: float = 1e-3
    trimming: str = "none"
    params_counted: str = "num_params_dense"
    data_counted: str = "num_examples"
    metric: str = "log_loss"

    def __post_init__(self):
        if self.space not in _SPACES:
            raise InputError(f"contract: space {self.space!r} is unknown; choose one of {', '.join(_SPACES)}")
        if self.loss not in _LOSSES:
            raise InputError(f"contract: loss {self.loss!r} is unknown; choose one of {', '.join(_LOSSES)}")
        if not self.huber_delta > 0:
            raise InputError(f"contract: huber_delta is {self.huber_delta}; give a positive number, such as 1e-3")

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
