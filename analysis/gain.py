"""Figure: gain of AUC-ROC against dense parameters per composition, beside the paper's Figure 4."""

import numpy as np
from matplotlib.figure import Figure

from analysis import paper
from analysis.effects import Gain
from unisc.report import style


def _line(gain: Gain) -> str:
    return "-" if style.is_composition(gain.composition) else "--"


def draw(gains: list[Gain]) -> Figure:
    """Draw our gains with seed points, means and intervals, and the digitised figure in a second panel."""
    fig, (ours, theirs) = style.figure(2, 8.6, 3.7, width_ratios=(1.65, 1))
    spread = 0.012 * np.log(gains[0].params.max() / gains[0].params.min())
    for index, gain in enumerate(gains):
        colour = style.colour(gain.composition) if style.is_composition(gain.composition) else style.MUTED
        # A little to the side, so that intervals of one size do not hide each other.
        x = gain.params * np.exp(spread * (index - (len(gains) - 1) / 2))
        values = np.array([c.value for c in gain.contrasts])
        ours.plot(
            x, values, color=colour, marker=style.marker(gain.composition), ls=_line(gain), label=gain.composition, zorder=3
        )
        if gain.by_seed.shape[1] > 1:
            ours.plot(x, gain.by_seed, ".", color=colour, markersize=3.5, alpha=0.45, zorder=2)
            # The first cell of the base is the reference: zero by definition, and without an interval.
            bars = [(i, c.low, c.high) for i, c in enumerate(gain.contrasts) if c.low is not None and c.high is not None]
            rows = [i for i, low, high in bars if high > low]
            low, high = (np.array([bars[i][k] for i in rows]) for k in (1, 2))
            ours.errorbar(
                x[rows], values[rows], [values[rows] - low, high - values[rows]], fmt="none", ecolor=colour, capsize=2, lw=1
            )
    ours.set_xscale("log")
    ours.set(xlabel="dense parameters", ylabel="gain, AUC-ROC points", title="This study")
    style.log_counts(ours.xaxis)
    ours.axhline(0, color=style.MUTED, lw=0.8, zorder=1)
    ours.margins(y=0.08)
    for (name, values), composition in zip(paper.SCALING.items(), ("searchified", "exposed"), strict=True):
        mark, colour = style.marker(composition), style.colour(composition)
        theirs.plot(paper.RATIOS, values, color=colour, marker=mark, markerfacecolor="white", mew=1.3)
        theirs.annotate(
            name, (paper.RATIOS[-1], values[-1]), (0, 7), textcoords="offset points", ha="right", color=colour, fontsize=8
        )
    theirs.set(xlabel="model size ratio", ylabel="gain, AUC %", title="UniScale, Figure 4 (digitised)", ylim=(-0.06, 0.84))
    theirs.set_xticks(paper.RATIOS, [f"{ratio}×" for ratio in paper.RATIOS])
    fig.legend(*ours.get_legend_handles_labels(), loc="outside lower center", ncols=len(gains))
    return fig
