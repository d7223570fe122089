"""What the figures of a fit share: its runs by size and data, names of axes, levels of a quantity, intervals as bars."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from unisc.report import style
from unisc.report.numbers import short
from unisc.scaling import Bootstrap, Fit, Interval

NAMES = {
    "N": "parameters N",
    "V": "embedding parameters V",
    "D": "examples D",
    "U": "distinct examples U",
    "C": "training FLOPs C",
    "loss": "loss",
}
MAX_LEVELS = 5
SHADE = {"color": style.MUTED, "alpha": 0.09, "lw": 0, "zorder": 0}
"""Where nothing was fitted, and the law goes on by itself."""


def name(label: str) -> str:
    """Return an axis in words."""
    return NAMES.get(label, label.replace("_", " "))


def said(fit: Fit, boot: Bootstrap | None, level: float, seeds: int | None = None) -> str:
    """Return the law, how many runs it was fitted to, of how many seeds where known, and what an interval or band is."""
    runs = f"{fit.law.name}, {fit.num_runs} runs" + ("" if seeds is None else f" of {seeds} seeds")
    if boot is None:
        return f"{runs}; no intervals"
    kind = "profile" if fit.num_runs > fit.num_free else "percentile"
    return f"{runs}; {level:.0%} intervals, {kind} and {boot.method}, {len(boot.draws):,} resamples"


@dataclass(frozen=True, slots=True)
class Plane:
    """Hold a law's runs (n,) by size, and by data where it has such an axis; a law of one axis has `data` None.

    A place on the plane stands for a point on all axes: origins keep the table's shares, distinct examples are all examples
    (none is seen twice), any other axis is at its median. `elsewhere` says so in words.
    """

    fit: Fit
    size: np.ndarray
    data: np.ndarray | None
    data_label: str

    @classmethod
    def of(cls, fit: Fit) -> "Plane":
        """Arrange a fit's own runs."""
        size, data, label = _size_and_data(fit, fit.problem.axes)
        return cls(fit, size, data, label)

    @property
    def metric(self) -> np.ndarray:
        """The runs' metric (n,)."""
        return self.fit.contract.to_metric(self.fit.problem.loss)

    @property
    def elsewhere(self) -> str:
        """Where the axes lie that are neither size nor data."""
        if self.fit.law.name.startswith("composition"):
            return "mean composition"
        others = [label for label in self.fit.labels[1:] if label != self.data_label]
        return ", ".join("no repeats" if label == "U" else f"median {label}" for label in others if self.data is not None)

    def of_axes(self, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return size and data (m,) of other runs, given by axis (X, m)."""
        return _size_and_data(self.fit, axes)[:2]

    def at(self, size, data=None) -> tuple[np.ndarray, ...]:
        """Return all axes at sizes and data, numbers or arrays (m,)."""
        if self.data is None:
            return (np.asarray(size, float),)
        fit, axes = self.fit, self.fit.problem.axes
        if fit.law.name.startswith("composition"):
            shares = axes[1:].sum(axis=1) / axes[1:].sum()
            return np.asarray(size, float), *(share * np.asarray(data, float) for share in shares)
        given = {fit.labels[0]: size, self.data_label: data}
        if "U" not in given:
            given["U"] = data
        return tuple(
            np.asarray(given[label] if label in given else np.median(axis), float)
            for label, axis in zip(fit.labels, axes, strict=True)
        )


def _size_and_data(fit: Fit, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, str]:
    if len(axes) == 1:
        return axes[0], None, ""
    size, data = fit.law.size_and_data(axes)
    own = [label for label, axis in zip(fit.labels[1:], axes[1:], strict=True) if np.array_equal(axis, data)]
    return size, data, own[0] if own else "D"


def levels(values: np.ndarray, most: int = MAX_LEVELS) -> tuple[np.ndarray, np.ndarray]:
    """Return up to `most` levels (k,) that stand for positive values (n,), and each value's nearest (n,)."""
    distinct = np.unique(values)
    if len(distinct) > most:
        distinct = np.unique(np.quantile(values, (np.arange(most) + 0.5) / most, method="nearest"))
    nearest = np.abs(np.log(values[:, None] / distinct)).argmin(axis=1)
    return distinct, nearest


def reading(label: str, value: float) -> str:
    """Return a quantity with its value, for a legend."""
    return f"{label} = {short(value)}"


def whisker(ax: Axes, y: float, interval: Interval, colour: str, marker: str = "o", **options) -> None:
    """Draw an interval along x with its value; an open end becomes an arrow that runs on to the edge of the axes."""
    low, high = ax.get_xlim()
    ends = [(interval.low, low, "<"), (interval.high, high, ">")]
    if interval.method != "none":
        left, right = (edge if end is None else end for end, edge, _ in ends)
        ax.plot([left, right], [y, y], color=colour, lw=1.8, alpha=0.6, solid_capstyle="butt", zorder=2)
        for end, edge, mark in ends:
            if end is None:
                ax.plot(edge, y, mark, color=colour, ms=6, clip_on=False, zorder=3)
    ax.plot(interval.value, y, marker, color=colour, ms=5.5, zorder=3, **options)


def span(intervals: Sequence[Interval], pad: float = 0.08) -> tuple[float, float]:
    """Return limits of an axis that hold all values and closed ends, with room for the open ones."""
    known = [end for i in intervals for end in (i.value, i.low, i.high) if end is not None and np.isfinite(end)]
    low, high = min(known), max(known)
    room = pad * (high - low) or 0.1 * abs(high) or 1.0
    open_low = any(i.low is None and i.method != "none" for i in intervals)
    open_high = any(i.high is None and i.method != "none" for i in intervals)
    return low - room * (3 if open_low else 1), high + room * (3 if open_high else 1)
