"""Figure: composition x isolation, with intervals, beside the paper's module ablation."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from analysis import paper
from analysis.study import ISOLATIONS
from unisc.report import style

_LABELS = {"none": "no isolation", "dref": "DREF", "dapga": "DAPGA", "both": "DREF + DAPGA"}


def draw(section: Mapping[str, Any]) -> Figure:
    """Draw the `ablation` section of the summary as points with intervals; the paper's values stand in a second panel."""
    fig, (ours, theirs) = style.figure(2, 8.6, 3.3, width_ratios=(1.5, 1), sharey=True)
    table = section["cells"]
    for index, (composition, row) in enumerate(table.items()):
        colour = style.colour(composition, index)
        offset = (index - (len(table) - 1) / 2) * 0.17
        for at, isolation in enumerate(ISOLATIONS):
            if isolation not in row:
                continue
            cell, y = row[isolation], at + offset
            if cell["low"] is not None and cell["high"] > cell["low"]:
                ours.plot([cell["low"], cell["high"]], [y, y], color=colour, lw=1.8, alpha=0.55, solid_capstyle="round")
            ours.plot(cell["value"], y, style.marker(composition), color=colour, label=composition, ms=5.5)
    for (composition, isolation), (auc_roc, *_) in paper.ABLATION.items():
        y = ISOLATIONS.index(isolation)
        theirs.plot(
            auc_roc,
            y,
            style.marker(composition),
            color=style.colour(composition),
            markerfacecolor="white",
            mew=1.4,
            label=composition,
        )
    for ax in (ours, theirs):
        ax.axvline(0, color=style.MUTED, lw=0.9, zorder=0)
        ax.grid(axis="y", visible=False)
        ax.margins(x=0.1)
    ours.set_yticks(range(len(ISOLATIONS)), [_LABELS[name] for name in ISOLATIONS])
    ours.set_ylim(len(ISOLATIONS) - 0.5, -0.5)
    base, isolation = section["reference"].split("/")
    ours.set(xlabel=f"AUC-ROC points over {base} data, {_LABELS[isolation]}", title="This study")
    theirs.set(xlabel="AUC % over search data, HHFI only", title="UniScale, module ablation")
    unique = dict(zip(*reversed(ours.get_legend_handles_labels()), strict=True))
    fig.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=4)
    return fig
