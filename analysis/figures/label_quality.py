"""Figure: loss and AUC-ROC against the precision of attributed labels, a line a family of degradations."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from unisc.report import style

FAMILIES = {"wrong": "labels on wrong items", "window": "other windows", "relevance": "other relevance rules"}
_LOOKS = {"clean": (0, "o"), "wrong": (1, "s"), "window": (2, "^"), "relevance": (3, "D")}


def draw(summary: Mapping[str, Any]) -> Figure:
    """Draw one panel a metric: seeds, means with the interval of their precision, fits, and the data law's levels."""
    metrics = list(summary["metrics"].values())
    rows = -(-len(metrics) // 2)
    fig, axes = style.figure(2, 9.0, 0.6 + 2.9 * rows, rows=rows)
    for ax, metric in zip(axes, metrics, strict=False):
        _panel(ax, summary, metric)
    for ax in axes[len(metrics) :]:
        ax.set_visible(False)
    handles = [_handle("clean", "as intended")]
    handles += [_handle(f, text) for f, text in FAMILIES.items() if any(f in m["families"] for m in metrics)]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    seeds = summary["num_seeds"]
    style.note(fig, f"{summary['num_runs']} runs, {seeds} seed{'s' if seeds != 1 else ''}; {summary['level']:.0%} intervals")
    return fig


def _handle(family: str, label: str) -> Line2D:
    index, mark = _LOOKS[family]
    line = "none" if family == "clean" else "-"
    return Line2D([], [], color=style.COLOURS[index], marker=mark, ls=line, label=label)


def _panel(ax: Axes, summary: Mapping[str, Any], metric: Mapping[str, Any]) -> None:
    sets, values = summary["degradations"], metric["by_seed"]
    for name, by_seed in values.items():
        one = sets[name]
        if one["family"] == "none":
            _level(ax, float(np.mean(by_seed)), "no labels", ":")
            continue
        index, mark = _LOOKS[one["family"]]
        colour, at = style.COLOURS[index], one["click"]["precision"]
        if at["value"] is None:
            continue
        x, y = 100 * at["value"], float(np.mean(by_seed))
        ax.plot(np.full(len(by_seed), x), by_seed, ".", color=colour, ms=3.5, alpha=0.45, zorder=2)
        ax.plot([100 * at["low"], 100 * at["high"]], [y, y], color=colour, lw=1, alpha=0.6, zorder=3)
        ax.plot(x, y, mark, color=colour, ms=7 if name == "clean" else 5, mec="white", mew=0.5, zorder=4)
    for family, entry in metric["families"].items():
        for name, line in (("line", "-"), ("parabola", ":")):
            if name in entry:
                curve = entry[name]
                ax.plot(curve["precision"], curve["value"], line, color=style.COLOURS[_LOOKS[family][0]], lw=1.3, zorder=2)
    for share, value in (metric["data_law"] or {"at_share": {}})["at_share"].items():
        _level(ax, value, f"{float(share):.0%} samples", "--")
    ax.margins(y=0.1)
    ax.set(xlabel="precision of attributed click labels, points", title=metric["name"], ylabel=metric["unit"])


def _level(ax: Axes, value: float, text: str, line: str) -> None:
    """Draw a level and name it beside the panel, where no run can be."""
    ax.axhline(value, color=style.MUTED, ls=line, lw=1.0, zorder=1)
    place = ("axes fraction", "data")
    ax.annotate(text, (1.01, value), xycoords=place, va="center", fontsize=6.5, color=style.MUTED, annotation_clip=False)
