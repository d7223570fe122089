"""Figure: what the laws predicted for the largest runs, which they had not seen, against what was measured."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from unisc.report import style
from unisc.scaling import Backtest

_METHODS = {"law": "law", "log_linear": "log-linear", "carry_forward": "carry forward", "mean": "mean"}


def draw(tested: Mapping[str, Backtest], metric: str = "log loss") -> Figure:
    """Draw held-out runs against the diagonal, and each method's mean absolute error, for backtests by name."""
    metric = metric.replace("_", " ")
    fig, (points, errors) = style.figure(2, 8.6, 3.6, width_ratios=(1, 1.15))
    values = []
    for index, (name, test) in enumerate(tested.items()):
        predicted = test.predictions[test.fit.law.name]
        colour = style.colour(name, index)
        if test.low is not None and test.high is not None:
            ends = [np.maximum(predicted - test.low, 0), np.maximum(test.high - predicted, 0)]
            points.errorbar(test.measured, predicted, ends, fmt="none", ecolor=colour, alpha=0.3, lw=0.9, zorder=1)
        points.plot(
            test.measured, predicted, style.marker(name), color=colour, ms=4.5, mec="white", mew=0.4, label=name, zorder=3
        )
        values += [test.measured, predicted]
        _errors(errors, test, name, index, len(tested))
    everything = np.concatenate(values)
    pad = 0.06 * (everything.max() - everything.min())
    ends = (everything.min() - pad, everything.max() + pad)
    points.plot(ends, ends, color=style.MUTED, lw=1, zorder=0)
    points.set(xlim=ends, ylim=ends, xlabel=f"measured {metric}", ylabel=f"predicted {metric}", title="Held-out largest runs")
    points.set_box_aspect(1)
    points.locator_params(nbins=5)
    points.legend(loc="upper left", handletextpad=0.1)
    errors.set_yticks(range(len(_METHODS)), list(_METHODS.values()))
    errors.invert_yaxis()
    errors.set_xscale("log")
    style.log_counts(errors.xaxis)
    errors.set(xlabel=f"mean absolute error of {metric}", title="Against naive baselines")
    errors.grid(axis="y", visible=False)
    level = max(test.level for test in tested.values())
    style.note(fig, f"{len(everything) // 2} held-out runs; {level:.0%} prediction intervals for a single run")
    return fig


def _errors(ax, test: Backtest, name: str, index: int, count: int) -> None:
    scores = {"law" if key == test.fit.law.name else key: score for key, score in test.scores.items()}
    for row, method in enumerate(_METHODS):
        offset = (index - (count - 1) / 2) * 0.16
        colour = style.colour(name, index)
        ax.plot(scores[method].mean_absolute, row + offset, style.marker(name), color=colour, ms=5.5)
