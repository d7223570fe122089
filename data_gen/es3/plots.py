"""The few kinds of curves that reports on data draw: shares over time, rates with their intervals, shares up to a count."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from data_gen.es3.sql import Rows, bin_start, wilson
from unisc.report.style import COLOURS, LINES, MARKERS, PERCENT

_TIMES = {
    1: "1 s",
    10: "10 s",
    60: "1 min",
    600: "10 min",
    3600: "1 h",
    21600: "6 h",
    86400: "1 d",
    604800: "7 d",
    2592000: "30 d",
}


def cumulative(ax: Axes, bins: Iterable[tuple[int, int]], **style: Any) -> None:
    """Draw the share of counts so far over time; `bins` are (bin of `sql.log_bin`, count)."""
    total, so_far, points = sum(n for _, n in bins), 0, []
    for place, n in sorted(bins):
        points.append((max(bin_start(place), 0.5), so_far / total))
        so_far += n
        points.append((bin_start(place + 1), so_far / total))
    ax.plot(*zip(*points, strict=True), **style)


def times(ax: Axes, low: float, high: float) -> None:
    """Make x a logarithmic axis of seconds with ticks that read as times."""
    ax.set_xscale("log")
    ax.set_xlim(low, high * 1.25)
    some = [t for t in _TIMES if low <= t <= high * 1.25]
    ax.set_xticks(some, [_TIMES[t] for t in some], rotation=45, ha="right")
    ax.xaxis.set_minor_locator(NullLocator())


def rates(ax: Axes, points: Sequence[tuple[int, float, float]], index: int, label: str) -> None:
    """Draw a rate with its Wilson interval at each (x, positives, n); curves of one axes stand slightly apart."""
    if not points:
        return
    x = [p[0] + 0.12 * (index - 1) for p in points]
    y = [k / n for _, k, n in points]
    spans = [wilson(k, n) for _, k, n in points]
    below = [max(0.0, rate - low) for rate, (low, _) in zip(y, spans, strict=True)]
    above = [max(0.0, high - rate) for rate, (_, high) in zip(y, spans, strict=True)]
    fmt = MARKERS[index % 8] + LINES[index % 4]
    ax.errorbar(x, y, [below, above], fmt=fmt, color=COLOURS[index % 8], elinewidth=1, label=label, ms=3.5, lw=1)


def up_to(ax: Axes, rows: Rows, key: str, group: Callable[[Mapping[str, Any]], str]) -> None:
    """Draw, a line a group, the share of `n` whose `key` is at most x."""
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for row in rows:
        counts[group(row)][row[key] or 0] += row["n"]
    for i, name in enumerate(sorted(counts, reverse=True)):
        total, so_far = counts[name].total(), 0
        ticks = sorted(counts[name])
        heights = [(so_far := so_far + counts[name][t]) / total for t in ticks]
        label = f"{name} (n = {total:,})"
        ax.step([ticks[0], *ticks], [0, *heights], where="post", color=COLOURS[i % 8], ls=LINES[i % 4], label=label)
    ax.yaxis.set_major_formatter(PERCENT)
    ax.set_ylim(0, 1.02)
    ax.legend(loc="best")
