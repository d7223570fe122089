"""Figure: laws and baselines ranked by how they predict runs larger than those they saw."""

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from unisc.report import style
from unisc.scaling import Tournament
from unisc.scaling.tournament import BASELINES, LEVEL

_WILD = 6.0
"""A law this many times as far off as the best is marked at the edge."""


def tournament_ranking(found: Tournament, *, metric: str = "loss") -> Figure:
    """Draw each law's mean absolute error, and how far it is behind the best with its interval; ties are filled."""
    entries = found.entries
    fig, (errors, behind) = style.figure(2, 8.8, 1.4 + 0.26 * len(entries), sharey=True, width_ratios=(1, 1.25))
    best = entries[0]
    for row, entry in enumerate(entries):
        mark = "s" if entry.name in BASELINES else "o"
        colour = style.COLOURS[0] if entry.tied else style.MUTED
        face = {"mfc": colour if entry.tied else "white", "mec": colour, "mew": 1.3, "ms": 6}
        errors.plot(entry.error, row, mark, **face)
        if entry is not best and entry.error < _WILD * best.error:
            behind.plot([max(entry.low, -10 * best.error), entry.high], [row, row], color=colour, lw=1.8, alpha=0.6)
            behind.plot(entry.behind, row, mark, **face)
        if entry.weight >= 0.005:
            errors.annotate(
                f"{entry.weight:.0%}", (entry.error, row), (8, 0), textcoords="offset points", va="center", fontsize=7.5
            )
    errors.set_xscale("log")
    errors.margins(x=0.14)
    style.log_counts(errors.xaxis)
    behind.axvline(0, color=style.MUTED, lw=0.9, zorder=0)
    # A law that fails wildly must not hide the differences among the others.
    worst = max((entry.high for entry in entries if entry.error < _WILD * best.error), default=1.0)
    least = min((entry.low for entry in entries if entry.error < _WILD * best.error), default=0.0)
    edge = 1.08 * worst if worst > 0 else 1.0
    behind.set_xlim(min(least, 0.0) - 0.05 * edge, edge)
    for row, entry in enumerate(entries):
        if entry.error >= _WILD * best.error:
            behind.plot(edge, row, ">", color=style.MUTED, ms=6, clip_on=False)
            text = f"{entry.behind:.3g} behind"
            behind.annotate(text, (edge, row), (-8, 0), textcoords="offset points", ha="right", va="center", fontsize=7.5)
    errors.set_yticks(range(len(entries)), [entry.name.replace("_", " ") for entry in entries])
    errors.set_ylim(len(entries) - 0.5, -0.5)
    for ax in (errors, behind):
        ax.grid(axis="y", visible=False)
    errors.set(xlabel=f"mean absolute error of {metric}, on the link", title="Error (stacking weight beside it)")
    behind.set(xlabel=f"more than {best.name.replace('_', ' ')}, same runs", title=f"Behind the best, {LEVEL:.0%} interval")
    looks = (("tied with the best", style.COLOURS[0], style.COLOURS[0], "o"), ("worse", "white", style.MUTED, "o"))
    looks += (("baseline", "white", style.MUTED, "s"),)
    handles = [Line2D([], [], ls="", marker=m, mfc=f, mec=e, mew=1.3, ms=6, label=label) for label, f, e, m in looks]
    fig.legend(handles=handles, loc="outside lower center", ncols=3)
    cuts = f"after {found.num_cuts} growing cuts in compute"
    style.note(fig, f"{found.num_predicted} runs predicted {cuts}; {len(found.left_out)} laws left out")
    return fig
