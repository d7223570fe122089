"""What an interval is, that of draws, and the summary of a fit's: unbounded ends are said as such."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

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


def percentile_interval(value: float, draws: np.ndarray, level: float, method: str, note: str = "") -> Interval:
    """Return the percentile interval of draws (S,); an end whose tail holds infinite or undefined draws is open."""
    draws = np.asarray(draws, float)
    if not len(draws):
        return Interval(value=value, low=None, high=None, level=level, method="none", note=note or "no interval: no draws")
    tail = (1 - level) / 2
    low = np.quantile(np.where(np.isnan(draws), -np.inf, draws), tail, method="inverted_cdf")
    high = np.quantile(np.where(np.isnan(draws), np.inf, draws), 1 - tail, method="inverted_cdf")
    notes = [note] if note else []
    if not (np.isfinite(low) and np.isfinite(high)):
        notes.append(f"unbounded: {np.mean(~np.isfinite(draws)):.0%} of the draws are infinite or undefined")
    ends = [float(end) if np.isfinite(end) else None for end in (low, high)]
    return Interval(value=value, low=ends[0], high=ends[1], level=level, method=method, note="; ".join(notes))


def summarise(fit: Fit, boot: "Bootstrap | None", level: float = 0.90) -> Mapping[str, dict[str, Any]]:
    """Return `{value, low, high, level, method, note}` for every natural parameter of a fit."""
    if boot is not None:
        return {name: boot.interval(name, level).to_json() for name in fit.law.names}
    missing = "no interval: no bootstrap was made"
    return {
        name: Interval(value=value, low=None, high=None, level=level, method="none", note=missing).to_json()
        for name, value in fit.params.items()
    }
