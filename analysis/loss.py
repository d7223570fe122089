"""Figure: loss against training examples per size and composition, with the fitted law and the oracle's floor."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.laws import LEVEL, Curve
from unisc.report import style
from unisc.report.numbers import short


def draw(curves: Mapping[str, Curve], floor: float | None, floor_kind: str) -> Figure:
    """Draw one panel a composition; the floor is named as irreducible or as a lower bound by `floor_kind`."""
    fig, axes = style.figure(len(curves), 1.2 + 2.35 * len(curves), 3.7, sharey=True)
    sizes = np.unique(np.concatenate([curve.params for curve in curves.values()]))
    shade = dict(zip(sizes.tolist(), style.shades(len(sizes)), strict=True))
    for ax, (name, curve) in zip(axes, curves.items(), strict=True):
        _panel(ax, curve, shade)
        ax.set_title(name, color=style.colour(name), fontweight="bold")
        ax.set_xlabel("training examples" if curve.two_axes else "dense parameters")
        if floor is not None:
            ax.axhline(floor, color=style.INK, lw=1.1, ls=(0, (5, 2)), zorder=2)
        style.log_counts(ax.xaxis)
    axes[0].set_ylim(*_limits(curves, floor))
    for ax, curve in zip(axes, curves.values(), strict=True):
        _mark_floor(ax, curve)
    first = next(iter(curves.values()))
    axes[0].set_ylabel("log loss, expected" if first.metric.endswith("expected") else "log loss")
    handles: list[Line2D] = [
        Line2D([], [], color=shade[size], marker="o", ms=4, label=f"{short(size)} dense parameters") for size in sizes
    ]
    if floor is not None:
        handles.append(Line2D([], [], color=style.INK, lw=1.1, ls=(0, (5, 2)), label=f"oracle, {floor_kind} ({floor:.4f})"))
    handles.append(Line2D([], [], color=style.MUTED, lw=6, alpha=0.35, label=f"fitted E, {LEVEL:.0%} interval"))
    fig.legend(handles=handles, loc="outside lower center", ncols=min(len(curves), 4))
    return fig


def _panel(ax, curve: Curve, shade: dict) -> None:
    ax.set_xscale("log")
    axis = curve.examples if curve.two_axes else curve.params
    along = np.geomspace(axis.min(), axis.max(), 60)
    for size in np.unique(curve.params):
        mine = curve.params == size
        ax.plot(axis[mine], curve.loss[mine], "o", ms=3.5, color=shade[float(size)], alpha=0.75, zorder=3)
        if curve.two_axes:
            ax.plot(along, curve.fit.predict(size, along), color=shade[float(size)], lw=1.2)
    if not curve.two_axes:
        ax.plot(along, curve.fit.predict(along), color=style.MUTED, lw=1.2)


def _limits(curves: Mapping[str, Curve], floor: float | None) -> tuple[float, float]:
    """Return y limits that show the runs and the oracle; a fitted floor far below must not flatten everything else."""
    values = np.concatenate([curve.loss for curve in curves.values()])
    low, high = min(values.min(), floor if floor is not None else np.inf), values.max()
    return low - 0.25 * (high - low), high + 0.06 * (high - low)


def _mark_floor(ax, curve: Curve) -> None:
    value, (low, high) = curve.fit.params["E"], ax.get_ylim()
    interval = curve.boot.interval("E", LEVEL) if curve.boot else None
    if interval is not None:
        # An open end runs to the edge of the panel, which is as far as it can be drawn.
        ends = (low if interval.low is None else interval.low, high if interval.high is None else interval.high)
        ax.axhspan(max(ends[0], low), min(ends[1], high), color=style.MUTED, alpha=0.16, lw=0, zorder=0)
    if low < value < high:
        ax.axhline(value, color=style.MUTED, lw=0.9, zorder=1)
    else:
        text = f"fitted E = {value:.3g}, below"
        ax.annotate(text, (0.03, 0.02), xycoords="axes fraction", fontsize=7.5, color=style.MUTED)
