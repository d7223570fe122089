"""Figure: how much each composition adds, relative to exposed data, beside the paper's volume table."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import paper
from unisc.report import style

KINDS = ("requests", "samples", "positives")


def relative(volumes: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Return the `volumes` section: counts, and counts relative to exposed data, per composition."""
    base = volumes.get("exposed", {})
    out: dict[str, Any] = {}
    for name, counts in volumes.items():
        known = {kind: float(counts[kind]) for kind in KINDS if counts.get(kind) is not None}
        ratios = {kind: value / base[kind] for kind, value in known.items() if base.get(kind)}
        published = dict(zip(KINDS, paper.VOLUMES[name], strict=True)) if name in paper.VOLUMES else {}
        out[name] = known | {"relative": ratios, "paper": published}
    return out


def draw(section: Mapping[str, Any]) -> Figure:
    """Draw the `volumes` section: one panel a kind of count, ours bars, the paper's lines across."""
    fig, axes = style.figure(len(KINDS), 8.6, 2.3, sharey=True)
    names = list(section)
    for ax, kind in zip(axes, KINDS, strict=True):
        for at, name in enumerate(names):
            ours, theirs = section[name]["relative"].get(kind), section[name]["paper"].get(kind)
            if ours is not None:
                ax.barh(at, ours, color=style.colour(name, at), height=0.55, alpha=0.85, zorder=2)
                # In the bar: past its end the number would stand beside the paper's line, as if it were the line's.
                look = {"color": "white", "fontweight": "bold", "fontsize": 8, "va": "center"}
                ax.annotate(f"{ours:.2g}×", (0, at), (5, 0), textcoords="offset points", **look)
            if theirs is not None:
                ax.plot([theirs, theirs], [at - 0.36, at + 0.36], color=style.INK, lw=1.6, zorder=3)
        ax.set(title=kind if kind != "positives" else "click positives", xlabel="relative to exposed")
        ax.grid(axis="y", visible=False)
        ax.set_xlim(0, 1.18 * ax.get_xlim()[1])
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    handles = [Line2D([], [], color=style.INK, lw=1.6, label="UniScale's table")]
    fig.legend(handles=handles, loc="outside lower center")
    return fig
