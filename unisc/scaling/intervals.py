"""What an interval is, and the summary of a fit's: unbounded ends are said as such."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unisc.scaling.fit import Fit

if TYPE_CHECKING:
    from unisc.scaling.bootstrap import Bootstrap


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """Hold a value with its interval; an open end is None, and `note` then says why."""

    value: float
    low: float | None
    high: float | None
    level: float
    method: str
    note: str = ""

    @property
    def bounded(self) -> bool:
        return self.low is not None and self.high is not None

    def holds(self, truth: float) -> bool:
        """Tell whether the interval contains a number; an open end contains everything beyond it."""
        return (self.low is None or self.low <= truth) and (self.high is None or truth <= self.high)

    def to_json(self) -> dict[str, Any]:
        """Return value, low, high, level, method and note; an unbounded end is null."""
        return {name: getattr(self, name) for name in ("value", "low", "high", "level", "method", "note")}

    def __str__(self) -> str:
        ends = ["unbounded" if end is None else f"{end:.4g}" for end in (self.low, self.high)]
        return f"{self.value:.4g} [{ends[0]}, {ends[1]}]"


def summarise(fit: Fit, boot: "Bootstrap | None", level: float = 0.90) -> Mapping[str, dict[str, Any]]:
    """Return `{value, low, high, level, method, note}` for every natural parameter of a fit."""
    if boot is not None:
        return {name: boot.interval(name, level).to_json() for name in fit.law.names}
    missing = "no interval: no bootstrap was made"
    return {
        name: Interval(value=value, low=None, high=None, level=level, method="none", note=missing).to_json()
        for name, value in fit.params.items()
    }
