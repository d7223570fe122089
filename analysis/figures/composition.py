"""Figure: what an example of one origin is worth in another, and the loss once all are counted so."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.parts import levels, name, reading, said, span, whisker
from unisc.errors import InputError
from unisc.report import style
from unisc.scaling import Bootstrap, Fit, Interval

_POINTS = 60


def composition_curves(fit: Fit, boot: Bootstrap | None = None, *, level: float = 0.90, seeds: int | None = None) -> Figure:
    """Draw the exchange rates, the metric over effective data, and, where rates change with size, the rates over size.

    Raises:
      InputError: the fit is of another law.
    """
    if not fit.law.name.startswith("composition"):
        raise InputError(f"composition curves need the law 'composition', and this fit is {fit.law.name!r}")
    by_size = fit.law.name == "composition_by_size"
    fig, axes = style.figure(3 if by_size else 2, 10.2 if by_size else 9.2, 3.6, width_ratios=(1, 1.2, 1)[: 2 + by_size])
    _rates(axes[0], fit, boot, level)
    _collapse(axes[1], fit)
    if by_size:
        _over_size(axes[2], fit, boot, level)
    style.note(fig, said(fit, boot, level, seeds))
    handles, labels = axes[1].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return fig


def _rates(ax: Axes, fit: Fit, boot: Bootstrap | None, level: float) -> None:
    currency, *others = fit.labels[1:]
    missing = "no interval: no bootstrap was made"
    intervals = [
        Interval(value=fit.params[f"w_{o}"], low=None, high=None, level=level, method="none", note=missing)
        if boot is None
        else boot.interval(f"w_{o}", level)
        for o in others
    ]
    low, high = span(intervals)
    ax.set_xlim(min(low, -0.05), max(high, 1.05))
    for index, (origin, interval) in enumerate(zip(others, intervals, strict=True)):
        whisker(ax, index, interval, style.colour(origin, index), style.marker(origin))
        ends = ["unbounded" if end is None else f"{end:.2f}" for end in (interval.low, interval.high)]
        text = f"{interval.value:.2f}" + ("" if boot is None else f" [{ends[0]}, {ends[1]}]")
        ax.annotate(text, (interval.value, index), (0, 8), textcoords="offset points", ha="center", fontsize=8)
    for worth in (0, 1):
        ax.axvline(worth, color=style.MUTED, lw=0.9, ls="-" if worth else ":", zorder=0)
    ax.set_yticks(range(len(others)), [other.replace("_", " ") for other in others])
    ax.set_ylim(len(others) - 0.5, -0.6)
    ax.grid(axis="y", visible=False)
    at = " at the mean size" if fit.law.name == "composition_by_size" else ""
    ax.set(xlabel=f"worth in {currency} examples{at}", title="Exchange rates")


def rates_at(fit: Fit, size) -> np.ndarray:
    """Return the exchange rates (origins, n) at sizes (n,), the currency's own, one, first."""
    size = np.atleast_1d(np.asarray(size, float))
    others = fit.labels[2:]
    # The centre that the law took: the geometric mean of its runs' sizes.
    log_size = np.log(size) - np.log(fit.problem.axes[0]).mean()
    rows = [fit.params[f"w_{o}"] + fit.params.get(f"k_{o}", 0.0) * log_size for o in others]
    return np.stack([np.ones_like(size), *rows])


def _collapse(ax: Axes, fit: Fit) -> None:
    """Draw all runs over their effective data: whatever the mix, runs of one size fall on one line where the law holds."""
    size, *origins = fit.problem.axes
    effective = (rates_at(fit, size) * np.array(origins)).sum(axis=0)
    metric = fit.contract.to_metric(fit.problem.loss)
    chosen, _ = levels(size)
    along = np.geomspace(effective.min(), effective.max(), _POINTS)
    nothing = [np.zeros(_POINTS)] * (len(origins) - 1)
    for value in chosen:
        line = fit.predict(np.full(_POINTS, value), along, *nothing)
        ax.plot(along, line, color=style.MUTED, lw=0.9, zorder=1)
        ax.annotate(
            reading("N", float(value)), (along[-1], line[-1]), (4, 0), textcoords="offset points", va="center", fontsize=7.5,
            color=style.MUTED, annotation_clip=False,
        )  # fmt: skip
    last = np.array([np.flatnonzero(column > 0).max(initial=0) for column in np.array(origins).T])
    for index in np.unique(last):
        origin = fit.labels[1 + index]
        mine = last == index
        label = f"{origin} alone" if index == 0 else f"with {origin}"
        ax.plot(
            effective[mine], metric[mine], style.marker(origin), color=style.colour(origin, int(index)), ms=4, alpha=0.75,
            ls="", mec="white", mew=0.3, label=label.replace("_", " "), zorder=3,
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlim(right=along[-1] * (along[-1] / along[0]) ** 0.2)
    style.log_counts(ax.xaxis)
    ax.set(xlabel=f"effective {fit.labels[1]} examples", ylabel=fit.contract.metric.replace("_", " "), title="One currency")


def _over_size(ax: Axes, fit: Fit, boot: Bootstrap | None, level: float) -> None:
    sizes = np.geomspace(fit.problem.axes[0].min(), fit.problem.axes[0].max(), _POINTS)
    log_size = np.log(sizes) - np.log(fit.problem.axes[0]).mean()
    tail = [(1 - level) / 2, (1 + level) / 2]
    drawn = None if boot is None else fit.law.natural(boot.draws)
    for index, origin in enumerate(fit.labels[2:]):
        colour, line = style.colour(origin, index), style.LINES[index % len(style.LINES)]
        ax.plot(sizes, rates_at(fit, sizes)[1 + index], color=colour, ls=line, marker=style.marker(origin), markevery=20)
        if drawn is not None:
            base, slope = (drawn[:, fit.law.names.index(f"{kind}_{origin}"), None] for kind in "wk")
            ax.fill_between(sizes, *np.quantile(base + slope * log_size, tail, axis=0), color=colour, alpha=0.15, lw=0)
    ax.set_xscale("log")
    style.log_counts(ax.xaxis)
    ax.set(
        xlabel=name("N"), ylabel=f"worth in {fit.labels[1]} examples", title="Rates by size" + (", percentiles" if boot else "")
    )
