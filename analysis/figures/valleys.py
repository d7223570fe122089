"""Figures: IsoFLOP valleys with their optima, what the approaches to a compute-optimal size say, and speedups of recipes."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.parts import name, span, whisker
from unisc.report import style
from unisc.report.numbers import number, short
from unisc.scaling.compute_optimal import ComputeOptimal
from unisc.scaling.isoflop import IsoFlop
from unisc.scaling.speedup import Speedup

_LOOKS = {"akima": (0, "o", "-"), "parabola": (1, "D", "--")}


def isoflop_valleys(found: IsoFlop, *, level: float = 0.90, metric: str = "loss") -> Figure:
    """Draw the runs of each budget with both readings of the valley, and the optimal size over compute with its power."""
    fig, (left, right) = style.figure(2, 9.2, 4.1, width_ratios=(1.25, 1))
    valleys = [valley for valley in found.valleys if len(valley.size) >= 3]
    for valley, colour in zip(valleys, style.shades(len(valleys)), strict=True):
        left.plot(valley.size, valley.loss, ".", color=colour, ms=5, zorder=3)
        left.plot(*valley.curve(), color=colour, lw=1.1, zorder=2)
        left.plot(*valley.parabola_curve(found.parabola), color=colour, lw=1.1, ls=(0, (4, 2)), zorder=2)
        for reading, best in valley.optima.items():
            left.plot(best.size, best.loss, _LOOKS[reading][1], mfc="white", mec=style.INK, mew=1.0, ms=5, zorder=5)
        left.annotate(
            short(valley.compute), (valley.size[-1], valley.loss[-1]), (4, 0), textcoords="offset points", va="center",
            fontsize=7, color=style.MUTED,
        )  # fmt: skip
    left.set_xscale("log")
    low, high = left.get_xlim()
    left.set_xlim(right=high * (high / low) ** 0.08)
    style.log_counts(left.xaxis)
    left.set(xlabel=name("N"), ylabel=metric, title="Loss by budget (FLOPs)")
    skipped = _optima(right, found, level)
    runs = sum(len(valley.size) for valley in found.valleys)
    left_out = "".join(f"; {reading} leaves out {count}" for reading, count in skipped.items() if count)
    style.note(fig, f"{runs} best runs per size at {len(found.valleys)} budgets{left_out}; {level:.0%} intervals, noisy optima")
    handles = [
        Line2D(
            [],
            [],
            color=style.MUTED,
            lw=1.1,
            ls=line,
            marker=mark,
            mfc="white",
            mec=style.INK,
            ms=5,
            label=f"valley and optimum, {reading}",
        )
        for reading, (_, mark, line) in _LOOKS.items()
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=2)
    return fig


def _optima(ax: Axes, found: IsoFlop, level: float) -> dict[str, int]:
    """Draw optimal sizes with their spread and the power of each reading; return how many budgets it leaves out."""
    tail = np.array([(1 - level) / 2, (1 + level) / 2])
    for shift, (reading, (hue, mark, line)) in zip((0.97, 1.03), _LOOKS.items(), strict=True):
        colour = style.COLOURS[hue]
        for valley in found.valleys:
            if (best := valley.optima.get(reading)) is None:
                continue
            x = valley.compute * shift
            if np.isfinite(best.sizes).any():
                ax.plot([x, x], np.nanquantile(best.sizes, tail), color=colour, lw=1.2, alpha=0.7, zorder=2)
            ax.plot(x, best.size, mark, color=colour, ms=4.5, mec="white", mew=0.4, zorder=3)
        if (law := found.size_law.get(reading)) is None:
            continue
        compute = [valley.compute for valley in found.valleys if reading in valley.optima]
        along = np.geomspace(min(compute), max(compute), 40)
        interval = law.exponent_interval(level)
        label = f"{reading}: exponent {interval.value:.3f}"
        if interval.low is not None and interval.high is not None:
            label += f" [{interval.low:.3f}, {interval.high:.3f}]"
        ax.plot(along, law.predict(along), color=colour, ls=line, lw=1.3, marker=mark, ms=4.5, markevery=[], label=label)
        if len(law.draws):
            with np.errstate(invalid="ignore"):
                drawn = np.exp(law.draws[:, 1, None] + law.draws[:, :1] * np.log(along))
            ax.fill_between(along, *np.nanquantile(drawn, tail, axis=0), color=colour, alpha=0.13, lw=0, zorder=1)
    ax.set(xscale="log", yscale="log", xlabel=name("C"), ylabel=f"optimal {name('N')}", title="Optimal size")
    for axis in (ax.xaxis, ax.yaxis):
        style.log_counts(axis)
    if found.size_law:
        ax.legend(loc="upper left")
    return {reading: len(found.skipped(reading)) for reading in _LOOKS}


def approaches(found: ComputeOptimal, *, level: float = 0.90) -> Figure:
    """Draw what each approach asks for: the exponent of the optimal size, and the size at each target budget."""
    names = list(found.approaches)
    targets = [row.compute for row in found.disagreement]
    fig, axes = style.figure(1 + len(targets), 3.4 + 2.6 * len(targets), 1.7 + 0.33 * len(names), sharey=True)
    columns = [[found.approaches[approach].size_exponent for approach in names]]
    columns += [[found.approaches[approach].targets[index].size for approach in names] for index in range(len(targets))]
    for place, (ax, intervals) in enumerate(zip(axes, columns, strict=True)):
        if place:
            ax.set_xscale("log")
            known = [end for i in intervals for end in (i.value, i.low, i.high) if end is not None]
            ax.set_xlim(min(known) / 1.3, max(known) * 1.3)
        else:
            ax.set_xlim(*span(intervals))
        for row, interval in enumerate(intervals):
            whisker(ax, row, interval, style.COLOURS[row], style.MARKERS[row])
        ax.grid(axis="y", visible=False)
        if place:
            style.log_counts(ax.xaxis)
            row = found.disagreement[place - 1]
            met = {True: "intervals meet", False: "intervals apart", None: "too few intervals"}[row.intervals_overlap]
            ax.set(
                xlabel=f"optimal {name('N')}", title=f"at {short(row.compute)} FLOPs: {number(row.size_ratio)}× apart\n{met}"
            )
        else:
            ax.set(xlabel="exponent of size in compute", title="Power")
    labels = [f"{approach.replace('_', ', ')} ({found.approaches[approach].num_points})" for approach in names]
    axes[0].set_yticks(range(len(names)), labels)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    style.note(fig, f"points or runs in brackets; {level:.0%} intervals; FLOPs: {found.flops_counted}")
    return fig


def speedup(found: Speedup) -> Figure:
    """Draw how many times less compute recipe B needs than A for A's loss, over A's compute, with its interval."""
    fig, (ax,) = style.figure(1, 5.4, 3.4)
    points = [point for point in found.points if point.speedup.value > 0]
    x = np.array([point.compute for point in points])
    ax.plot(x, [point.speedup.value for point in points], color=style.COLOURS[0], marker="o", ms=4)
    ends = [
        (p.compute, p.speedup.low, p.speedup.high) for p in points if p.speedup.low is not None and p.speedup.high is not None
    ]
    if ends:
        at, low, high = (np.array(column) for column in zip(*ends, strict=True))
        ax.fill_between(at, low, high, color=style.COLOURS[0], alpha=0.15, lw=0)
    ax.axhline(1.0, color=style.MUTED, lw=0.9)
    ax.set(xscale="log", xlabel=f"training FLOPs of {found.a}", ylabel=f"speedup of {found.b}")
    style.log_counts(ax.xaxis)
    level = f"; {points[0].speedup.level:.0%} intervals" if ends else ""
    never = len(found.points) - len(points)
    style.note(fig, f"floor {found.floor}{level}" + (f"; never reached at {never} budgets" if never else ""))
    return fig
