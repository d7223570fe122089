"""Figure: a law with its band over size and over compute, the runs it was fitted to, and runs that it has not seen."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.figures.parts import SHADE, Plane, levels, name, reading, said
from unisc.report import style
from unisc.scaling import Bootstrap, Fit, Interval

_POINTS = 60
_SIZES = 80
"""Sizes among which the best one at a compute is sought."""


def law_curves(
    fit: Fit,
    boot: Bootstrap | None = None,
    *,
    held: tuple[np.ndarray, np.ndarray] | None = None,
    targets: Sequence[tuple[Mapping[str, float], Interval]] = (),
    level: float = 0.90,
    flops_factor: float = 6.0,
    seeds: int | None = None,
) -> Figure:
    """Draw the metric over size at levels of data, and over compute along the law's own best sizes; one panel for one axis.

    `held` are axes (X, h) and metric (h,) of runs that the fit has not seen; `targets` are sizes by axis with the interval
    predicted there. Beyond the largest run fitted the panels are shaded and the law is dashed.
    """
    plane = Plane.of(fit)
    fig, axes = style.figure(1 if plane.data is None else 2, 5.4 if plane.data is None else 9.2, 3.9, sharey=True)
    unseen = [] if held is None else [(*plane.of_axes(np.asarray(held[0], float)), np.asarray(held[1], float))]
    aims = [(*plane.of_axes(np.array([[at[label]] for label in fit.labels])), i) for at, i in targets]
    handles: list[Line2D | Patch] = [*_over_size(axes[0], plane, boot, unseen, aims, level)]
    if plane.data is not None:
        handles += _over_compute(axes[1], plane, boot, unseen, aims, level, flops_factor)
    _limit(axes[0], plane, unseen, [interval for *_, interval in aims])
    axes[0].set_ylabel(fit.contract.metric.replace("_", " "))
    if unseen:
        handles.append(Line2D([], [], **_HELD, label=f"held out ({len(unseen[0][2])} runs)"))
    if aims:
        handles.append(Line2D([], [], **_AIM, label="prediction"))
    if any(ax.patches for ax in axes):
        handles.append(Patch(color=style.MUTED, alpha=0.2, lw=0, label="beyond the runs fitted"))
    style.note(fig, said(fit, boot, level, seeds))
    fig.legend(handles=handles, loc="outside lower center", ncols=4)
    return fig


_HELD = {"ls": "", "marker": "o", "ms": 6.5, "mfc": "none", "mec": style.INK, "mew": 1.1, "zorder": 5}
_AIM = {"ls": "", "marker": "*", "ms": 10, "color": style.COLOURS[1], "zorder": 6}


def _over_size(ax: Axes, plane: Plane, boot, unseen, aims, level: float) -> list[Line2D]:
    """Draw a line for each level of data, its runs marked alike."""
    ends = [plane.size, *(size for size, *_ in unseen), *(size for size, *_ in aims)]
    along = np.geomspace(min(map(np.min, ends)), max(map(np.max, ends)), _POINTS)
    chosen, nearest = (None, None) if plane.data is None else levels(plane.data)
    colours = [style.COLOURS[0]] if chosen is None else style.shades(len(chosen))
    handles = []
    for index, colour in enumerate(colours):
        mine = slice(None) if nearest is None else nearest == index
        mark, data = style.MARKERS[index], None if chosen is None else chosen[index]
        ax.plot(plane.size[mine], plane.metric[mine], mark, color=colour, ms=4, alpha=0.75, zorder=3)
        _line(ax, along, plane.at(along, data), plane, boot, float(plane.size.max()), level, colour)
        label = "runs and law" if data is None else reading(plane.data_label, float(data))
        handles.append(Line2D([], [], color=colour, marker=mark, ms=4, lw=1.3, label=label))
    for size, _, metric in unseen:
        ax.plot(size, metric, **_HELD)
    for size, _, interval in aims:
        _aim(ax, float(size[0]), interval)
    _finish(ax, float(plane.size.max()), float(along[-1]))
    ax.set_xlabel(name(plane.fit.labels[0]))
    return handles


def _over_compute(ax: Axes, plane: Plane, boot, unseen, aims, level: float, factor: float) -> list[Line2D]:
    """Draw runs over compute, and the lowest metric that the law allows at each."""
    assert plane.data is not None
    compute = factor * plane.size * plane.data
    chosen, nearest = levels(plane.data)
    for index, colour in enumerate(style.shades(len(chosen))):
        mine = nearest == index
        ax.plot(compute[mine], plane.metric[mine], style.MARKERS[index], color=colour, ms=4, alpha=0.75, zorder=3)
    ends = [compute, *(factor * s * d for s, d, _ in unseen), *(factor * s * d for s, d, _ in aims)]
    along = np.geomspace(min(map(np.min, ends)), max(map(np.max, ends)), _POINTS)
    sizes = np.geomspace(plane.size.min(), plane.size.max() * max(along[-1] / compute.max(), 1.0), _SIZES)
    grid = plane.at(np.tile(sizes, _POINTS), np.repeat(along, _SIZES) / factor / np.tile(sizes, _POINTS))
    loss = plane.fit.contract.to_loss(plane.fit.predict(*grid)).reshape(_POINTS, _SIZES)
    best = sizes[np.where(np.isfinite(loss), loss, np.inf).argmin(axis=1)]
    _line(ax, along, plane.at(best, along / factor / best), plane, boot, float(compute.max()), level, style.INK)
    for size, data, metric in unseen:
        ax.plot(factor * size * data, metric, **_HELD)
    for size, data, interval in aims:
        _aim(ax, float(factor * size[0] * data[0]), interval)
    _finish(ax, float(compute.max()), float(along[-1]))
    ax.set_xlabel(f"{name('C')} = {factor:g} {plane.fit.labels[0]} {plane.data_label}")
    where = ", ".join(words for words in ("law at its best size", plane.elsewhere) if words)
    return [Line2D([], [], color=style.INK, lw=1.3, label=where)]


def _line(ax: Axes, along, axes, plane: Plane, boot: Bootstrap | None, last: float, level: float, colour) -> None:
    """Draw the law, dashed beyond the last run fitted, with its band."""
    value = plane.fit.predict(*axes)
    inside = along <= last * (1 + 1e-9)
    beyond = along >= (along[inside][-1] if inside.any() else 0.0)
    ax.plot(along[inside], value[inside], color=colour, lw=1.3, zorder=2)
    ax.plot(along[beyond], value[beyond], color=colour, lw=1.3, ls=(0, (4, 2)), zorder=2)
    if boot is not None:
        low, high = boot.band(*axes, level=level)
        ax.fill_between(along, low, high, color=colour, alpha=0.16, lw=0, zorder=1)


def _aim(ax: Axes, x: float, interval: Interval) -> None:
    if interval.low is not None and interval.high is not None:
        ax.plot([x, x], [interval.low, interval.high], color=_AIM["color"], lw=1.6, alpha=0.7, zorder=5)
    ax.plot(x, interval.value, **_AIM)


def _finish(ax: Axes, last: float, end: float) -> None:
    ax.set_xscale("log")
    ax.use_sticky_edges = False  # A mark at the end of a band stays whole.
    if end > last * (1 + 1e-9):
        room = max((end / last) ** 0.06, (end / ax.get_xlim()[0]) ** 0.03)
        ax.axvspan(last, end * room, **SHADE)
        ax.set_xlim(right=end * room)
    style.log_counts(ax.xaxis)


def _limit(ax: Axes, plane: Plane, unseen, intervals: Sequence[Interval]) -> None:
    """Show every run and target; a line at a far level of data must not flatten them."""
    shown = [plane.metric, *(metric for *_, metric in unseen)]
    shown += [np.array([end for end in (i.value, i.low, i.high) if end is not None]) for i in intervals]
    values = np.concatenate(shown)
    low, high = values.min(), values.max()
    if low > 0 and high > 4 * low:
        ax.set_yscale("log")
        style.log_counts(ax.yaxis)
        ax.set_ylim(low * (low / high) ** 0.06, high * (high / low) ** 0.1)
    else:
        ax.set_ylim(low - 0.06 * (high - low), high + 0.1 * (high - low))
