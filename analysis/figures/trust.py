"""Figures: how far a fit is to be trusted - its residuals, the profiles of its parameters, the runs it hangs on."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import ndtri

from analysis.figures.parts import Plane, name, reading
from unisc.report import style
from unisc.report.numbers import number
from unisc.scaling import Fit, Interval, Profile
from unisc.scaling.robustness import Robustness

MAX_COLUMNS = 5


def residuals(fit: Fit, *, seeds: int | None = None) -> Figure:
    """Draw what a fit leaves, in the space of its contract, over size, data and prediction, and against the normal law.

    The normal law's line goes through the quartiles, dotted lines stand at Huber's delta, and the three runs that are furthest
    off are named by their row in the fit.
    """
    plane, contract = Plane.of(fit), fit.contract
    predicted = fit.predict(*fit.problem.axes)
    left = contract.link(fit.problem.loss) - contract.link(contract.to_loss(predicted))
    columns = [(name(fit.labels[0]), plane.size, True)]
    if plane.data is not None:
        columns.append((name(plane.data_label), plane.data, True))
    columns.append((f"predicted {contract.metric.replace('_', ' ')}", predicted, False))
    fig, axes = style.figure(len(columns) + 1, 2.3 * (len(columns) + 1), 2.8, sharey=True)
    furthest = np.argsort(-np.abs(left), kind="stable")[:3]
    for ax, (label, values, in_logs) in zip(axes[:-1], columns, strict=True):
        ax.plot(values, left, "o", color=style.COLOURS[0], ms=3.5, alpha=0.6, mec="none")
        if in_logs:
            ax.set_xscale("log")
            style.log_counts(ax.xaxis)
        ax.set_xlabel(label)
    normal = ndtri((np.arange(len(left)) + 0.5) / len(left))
    order = np.argsort(left, kind="stable")
    axes[-1].plot(normal, left[order], "o", color=style.COLOURS[0], ms=3.5, alpha=0.6, mec="none")
    slope, at = _through_quartiles(normal, left[order])
    axes[-1].plot(normal[[0, -1]], at + slope * normal[[0, -1]], color=style.MUTED, lw=1.1)
    axes[-1].set_xlabel("normal quantile")
    for ax in axes:
        ax.axhline(0, color=style.MUTED, lw=0.9, zorder=0)
        if contract.loss == "huber":
            for knee in (-contract.huber_delta, contract.huber_delta):
                ax.axhline(knee, color=style.MUTED, lw=0.8, ls=":", zorder=0)
    for run in furthest:
        axes[-2].annotate(str(run), (predicted[run], left[run]), (4, 2), textcoords="offset points", fontsize=7)
    axes[0].set_ylabel(f"residual ({contract.space})")
    axes[0].margins(y=0.08)
    off = f"; median |residual| {number(float(np.median(np.abs(left))))}"
    style.note(fig, f"{fit.law.name}, {fit.num_runs} runs" + ("" if seeds is None else f" of {seeds} seeds") + off)
    return fig


def _through_quartiles(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    ends = [np.quantile(values, [0.25, 0.75]) for values in (x, y)]
    slope = float(np.ptp(ends[1]) / max(float(np.ptp(ends[0])), 1e-300))
    return slope, float(ends[1].mean() - slope * ends[0].mean())


def profile_curves(found: Sequence[Profile], names: Sequence[str], *, num_runs: int | None = None) -> Figure:
    """Draw how much worse the best refit gets as a parameter is held away from its optimum, with the limit of the interval."""
    columns = min(len(found), MAX_COLUMNS)
    rows = -(-len(found) // columns)
    fig, axes = style.figure(columns, max(1.85 * columns, 5.6), 0.5 + 2.2 * rows, rows=rows, sharey=True)
    for ax, one, title in zip(axes, found, names, strict=False):
        _profile(ax, one)
        ax.set_title(title)
    for ax in axes[len(found) :]:
        ax.set_visible(False)
    for first in axes[::columns]:
        first.set_ylabel("rise, F statistic")
    runs = "" if num_runs is None else f"{num_runs} runs; "
    level = found[0].interval.level
    style.note(fig, f"{runs}dashed: the {level:.0%} limit; grey: the interval; arrow: unbounded on that side")
    return fig


def _profile(ax: Axes, one: Profile) -> None:
    interval, top = one.interval, 2.2 * one.limit
    # The optimum is a point of every profile, and refits far beyond the limit say nothing more.
    shown = one.statistic <= top
    values, statistic = one.values[shown], np.maximum(one.statistic[shown], 0.0)
    amplitude = values.min() > 0 and values.max() > 20 * values.min()
    if amplitude:
        ax.set_xscale("log")
    # The root of the statistic, with its side, is nearly straight between refits: so is the curve drawn between them.
    spaced = np.geomspace if amplitude else np.linspace
    along = np.unique(np.concatenate([spaced(values[0], values[-1], 120), values]))
    to = np.log if amplitude else np.asarray
    root = np.interp(to(along), to(values), np.sign(values - interval.value) * np.sqrt(statistic))
    ax.plot(along, root**2, color=style.COLOURS[0], lw=1.3)
    ax.plot(values, statistic, ".", color=style.COLOURS[0], ms=4)
    ax.axhline(one.limit, color=style.COLOURS[1], lw=1.1, ls="--")
    ax.axvline(interval.value, color=style.MUTED, lw=0.9, ls=":")
    ax.set_ylim(-0.08 * top, top)
    low, high = ax.get_xlim()
    ax.axvspan(low if interval.low is None else interval.low, high if interval.high is None else interval.high,
               color=style.MUTED, alpha=0.12, lw=0, zorder=0)  # fmt: skip
    ax.set_xlim(low, high)
    for end, edge, mark, side in ((interval.low, 0.0, "<", "left"), (interval.high, 1.0, ">", "right")):
        if end is None:
            height = one.limit / (1.08 * top) + 0.08 / 1.08
            ax.plot(edge, height, mark, color=style.COLOURS[1], ms=7, transform=ax.transAxes, clip_on=False, zorder=5)
            ax.annotate(
                "unbounded", (edge, height), (5 if side == "left" else -5, 6), xycoords="axes fraction",
                textcoords="offset points", ha=side, fontsize=7.5, color=style.COLOURS[1],
            )  # fmt: skip
    ends = ["unbounded" if end is None else number(end, 4) for end in (interval.low, interval.high)]
    ax.set_xlabel(f"{number(interval.value, 4)} [{ends[0]}, {ends[1]}]", fontsize=8)
    if amplitude:
        style.log_counts(ax.xaxis)
    else:
        ax.locator_params(axis="x", nbins=4)


def influence(panel: Robustness, now: Interval | None = None, *, most: int = 12) -> Figure:
    """Draw how the first target's prediction moves when a run is left out, the most influential first.

    `now` is the prediction of the whole table with its interval, which is shaded.
    """
    runs = panel.of("run")
    value = float(panel.base.predictions[0])
    moved = np.array([float(run.predictions[0]) for run in runs])
    order = np.argsort(-np.abs(moved - value), kind="stable")[:most]
    fig, (ax,) = style.figure(1, 6.6, 1.3 + 0.24 * len(order))
    shade = ""
    if now is not None and now.low is not None and now.high is not None:
        ax.axvspan(now.low, now.high, color=style.MUTED, alpha=0.14, lw=0, zorder=0)
        shade = f"; grey: {now.level:.0%} interval of the whole table"
    ax.axvline(value, color=style.INK, lw=1.0)
    for row, at in enumerate(order):
        colour, mark = (style.COLOURS[1], ">") if moved[at] > value else (style.COLOURS[0], "<")
        ax.plot([value, moved[at]], [row, row], color=colour, lw=1.6, alpha=0.7)
        ax.plot(moved[at], row, mark, color=colour, ms=5.5)
    ax.set_yticks(range(len(order)), [f"without {runs[at].change.removeprefix('without ')}" for at in order])
    ax.set_ylim(len(order) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.08)
    target = ", ".join(reading(label, float(size)) for label, size in zip(panel.labels, panel.targets[:, 0], strict=True))
    ax.set_xlabel(f"prediction at {target}")
    style.note(fig, f"{panel.base.num_runs} runs, each left out once; the {len(order)} that move it most{shade}")
    return fig
