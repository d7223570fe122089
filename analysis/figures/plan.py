"""Figure: which next runs shrink the interval of a prediction most, among the runs there are, and what other ways would buy."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.parts import Plane, name
from unisc.report import style
from unisc.report.numbers import percent, short
from unisc.scaling.planning import Plan


def next_runs(found: Plan) -> Figure:
    """Draw the planned runs by size and data (or by size and FLOPs), and the width of the interval each way of spending leaves.

    Marks grow with repetitions; a run's text is how much wider the interval would be without it.
    """
    fit, chosen = found.fit, found.chosen
    plane = Plane.of(fit)
    fig, (left, right) = style.figure(2, 9.2, 3.9, width_ratios=(1.35, 1))
    axes = np.array([[run.at[label] for label in fit.labels] for run in chosen.runs]).T
    sizes, datas = plane.of_axes(axes) if len(chosen.runs) else (np.array([]), np.array([]))
    aim_size, aim_data = plane.of_axes(found.targets)
    if plane.data is None or datas is None or aim_data is None:
        left.plot(plane.size, plane.metric, "o", color=style.MUTED, ms=4, alpha=0.5)
        heights, aims = np.asarray(fit.predict(*axes)) if len(sizes) else sizes, found.predictions
        left.set_ylabel(fit.contract.metric.replace("_", " "))
    else:
        left.plot(plane.size, plane.data, "o", color=style.MUTED, ms=4, alpha=0.5)
        heights, aims = datas, aim_data
        left.set(yscale="log", ylabel=name(plane.data_label))
        style.log_counts(left.yaxis)
    ranks = np.argsort(np.argsort(sizes, kind="stable"), kind="stable")
    for run, x, y, rank in zip(chosen.runs, sizes, heights, ranks, strict=True):
        left.plot(x, y, "D", mfc="none", mec=style.COLOURS[0], mew=1.5, ms=5 + 2.5 * run.repeats)
        lost = "target lost" if run.without is None else f"{run.without:.2f}×"
        left.annotate(lost, (x, y), (8, 6 if rank % 2 else -11), textcoords="offset points", fontsize=7.5)
    left.plot(aim_size, aims, "*", color=style.COLOURS[1], ms=11)
    left.set(xscale="log", xlabel=name(fit.labels[0]), title="Next runs (interval without one, over with it)")
    left.margins(0.12)
    style.log_counts(left.xaxis)
    _widths(right, found)
    looks = (("runs of the table", "o", style.MUTED, style.MUTED), ("planned, larger: repeated", "D", "none", style.COLOURS[0]))
    looks += (("target", "*", style.COLOURS[1], style.COLOURS[1]),)
    handles = [Line2D([], [], ls="", marker=m, mfc=f, mec=e, ms=7, label=label) for label, m, f, e in looks]
    fig.legend(handles=handles, loc="outside lower center", ncols=3)
    budget = f"budget {short(found.budget.amount)} {found.budget.unit}, {percent(chosen.cost / found.budget.flops)} of it spent"
    style.note(fig, f"{fit.law.name}, {fit.num_runs} runs; {chosen.num_runs} planned; {budget}; {found.level:.0%} intervals")
    return fig


def _widths(ax, found: Plan) -> None:
    """Draw the mean width of the targets' intervals now and after each way to spend the budget."""
    ways = {"now": found.before, "plan": found.chosen.widths, **{k: o.widths for k, o in found.others.items()}}
    names = {"largest": "largest run", "repeats": "repeats of one run"}
    known = {way: float(np.exp(np.log(widths).mean())) for way, widths in ways.items() if np.isfinite(widths).all()}
    for row, way in enumerate(ways):
        if way not in known:
            ax.annotate("not identified", (0.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=8)
            continue
        colour = style.COLOURS[0] if way == "plan" else style.MUTED
        ax.barh(row, known[way], height=0.5, color=colour, alpha=0.85 if way == "plan" else 0.45)
        ax.annotate(f"{known[way]:.3g}", (known[way], row), (4, 0), textcoords="offset points", va="center", fontsize=8)
    ax.set_yticks(range(len(ways)), [names.get(way, way) for way in ways])
    ax.set_ylim(len(ways) - 0.5, -0.5)
    ax.set_xlim(0, 1.2 * max(known.values(), default=1.0))
    ax.grid(axis="y", visible=False)
    ax.set(xlabel=f"width of the interval, {found.fit.contract.metric.replace('_', ' ')}", title="At the target")
