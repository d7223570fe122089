"""Figures of the phase diagram: planes of overlap x foreign share with their boundaries, and slices of them with the cells."""

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from unisc.report import style
from unisc.report.numbers import short

_MAP = "PuOr"  # diverging, told apart with the common colour deficiencies
_ROWS = {
    "none": "pooling, no isolation",
    "dref": "pooling, DREF",
    "dapga": "pooling, DAPGA",
    "both": "pooling, DREF + DAPGA",
    "isolation": "isolation over none",
}
_LOOKS = {"none": (0, "o"), "dref": (5, "^"), "dapga": (3, "v"), "both": (1, "s"), "isolation": (2, "D")}


def _parts(metric: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {**metric["pooling"], **({"isolation": metric["isolation"]} if "isolation" in metric else {})}


def plane(summary: Mapping[str, Any], name: str) -> Figure:
    """Draw a row of planes for each gain of a metric, a column a size: surface, cells, boundary and where it is unresolved."""
    metric, sizes = summary["metrics"][name], summary["sizes"]
    parts = _parts(metric)
    fig, axes = style.figure(
        len(sizes), 1.4 + 2.6 * len(sizes), 0.9 + 2.1 * len(parts), rows=len(parts), sharex=True, sharey="row"
    )
    cmap, norms = mpl.colormaps[_MAP], []
    for size in sizes:  # a scale a size: gains of the smallest model may be ten times those of others
        reach = max(abs(cell["value"]) for part in parts.values() for cell in part["cells"] if cell["size"] == size)
        norms.append(TwoSlopeNorm(0.0, -reach or -1.0, reach or 1.0))
    for row, (kind, part) in enumerate(parts.items()):
        for column, size in enumerate(sizes):
            ax = axes[row * len(sizes) + column]
            _plane(ax, part, size, norms[column], cmap)
            if row == 0:
                ax.set_title(f"{short(size)} dense parameters", pad=9)
            if row == len(parts) - 1:
                ax.set_xlabel("overlap of the domains' rules")
            if column == 0:
                ax.set_ylabel(f"{_ROWS[kind]}\nshare of foreign samples")
    for column, norm in enumerate(norms):
        below = [axes[row * len(sizes) + column] for row in range(len(parts))]
        label = f"gain, {metric['unit']}".replace(" of log loss", "\nof log loss")
        fig.colorbar(ScalarMappable(norm, cmap), ax=below, label=label, location="bottom", shrink=0.9, aspect=25, pad=0.02)
    marks: list[Any] = [
        Line2D([], [], color=style.INK, lw=1.8),
        Patch(facecolor="none", edgecolor=style.INK, hatch="////", lw=0),
        Line2D([], [], marker="o", ls="", mfc="white", mec=style.INK, ms=7),
        (
            Line2D([], [], marker="o", ls="", mfc="white", mec=style.INK, ms=7),
            Line2D([], [], marker="x", ls="", color=style.INK),
        ),
    ]
    labels = ["gain is zero", f"sign not resolved, {summary['level']:.0%}", "cell, resolved", "cell, not resolved"]
    fig.legend(marks, labels, loc="outside lower center", ncols=4 if len(sizes) > 1 else 2)
    return fig


def _plane(ax: Axes, part: Mapping[str, Any], size: float, norm: TwoSlopeNorm, cmap: mpl.colors.Colormap) -> None:
    lines = [line for line in part["lines"] if line["size"] == size]
    overlap, share = np.array(part["overlap"]), np.array([line["foreign"] for line in lines])
    value, se = (np.array([line[key] for line in lines]) for key in ("value", "se"))
    if len(share) == 1:  # one share alone: a band, so that there is a plane to see
        share = np.array([share[0] - 0.1, share[0] + 0.1])
        value, se = np.repeat(value, 2, axis=0), np.repeat(se, 2, axis=0)
    ax.pcolormesh(overlap, share, value, norm=norm, cmap=cmap, shading="gouraud", rasterized=True)
    with mpl.rc_context({"hatch.linewidth": 0.5, "hatch.color": style.INK}):
        unresolved = np.abs(value) - part["quantile"] * se
        if (unresolved <= 0).any():
            ax.contourf(overlap, share, unresolved, levels=[-1e9, 0], colors="none", hatches=["////"])
    if value.min() < 0 < value.max():
        ax.contour(overlap, share, value, levels=[0], colors=style.INK, linewidths=1.8)
    for cell in part["cells"]:
        if cell["size"] == size:
            colour = cmap(norm(cell["value"]))
            at = (cell["overlap"], cell["foreign"])
            ax.plot(*at, "o", ms=9, color=colour, mec=style.INK, mew=0.9, zorder=4, clip_on=False)
            if not cell["verdict"].startswith("resolved"):
                ax.plot(*at, "x", ms=6, color=style.INK, mew=0.9, zorder=5, clip_on=False)
    ax.set(xlim=(0, 1), ylim=(share[0], share[-1]))
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
    ax.set_yticks(sorted({cell["foreign"] for cell in part["cells"]}))
    ax.grid(visible=False)


def slices(summary: Mapping[str, Any]) -> Figure:
    """Draw every gain over the overlap at the largest share, a row a metric and a column a size."""
    sizes, metrics = summary["sizes"], summary["metrics"]
    fig, axes = style.figure(
        len(sizes), 1.2 + 2.8 * len(sizes), 0.6 + 2.5 * len(metrics), rows=len(metrics), sharex=True, sharey=False
    )
    for row, metric in enumerate(metrics.values()):
        parts = _parts(metric)
        for column, size in enumerate(sizes):
            ax = axes[row * len(sizes) + column]
            for index, (kind, part) in enumerate(parts.items()):
                _slice(ax, part, kind, size, 0.012 * (index - (len(parts) - 1) / 2))
            ax.axhline(0, color=style.MUTED, lw=0.9, zorder=1)
            if row == 0:
                ax.set_title(f"{short(size)} dense parameters")
            if row == len(metrics) - 1:
                ax.set_xlabel("overlap of the domains' rules")
            if column == 0:
                ax.set_ylabel(f"gain, {metric['unit']}".replace(" of log loss", "\nof log loss"))
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels) if len(sizes) > 1 else 1)
    return fig


def _slice(ax: Axes, part: Mapping[str, Any], kind: str, size: float, aside: float) -> None:
    index, marker = _LOOKS[kind]
    colour = style.COLOURS[index]
    line = max((one for one in part["lines"] if one["size"] == size), key=lambda one: one["foreign"])
    value, width = np.array(line["value"]), part["quantile"] * np.array(line["se"])
    ax.plot(part["overlap"], value, color=colour)
    ax.fill_between(part["overlap"], value - width, value + width, color=colour, alpha=0.13, lw=0)
    cells = [cell for cell in part["cells"] if cell["size"] == size and cell["foreign"] == line["foreign"]]
    for cell in cells:
        if cell["low"] is not None:
            ax.plot([cell["overlap"] + aside] * 2, [cell["low"], cell["high"]], color=colour, lw=1, alpha=0.7)
    at, values = [cell["overlap"] + aside for cell in cells], [cell["value"] for cell in cells]
    ax.plot(at, values, marker, color=colour, ms=4.5, label=_ROWS[kind])
