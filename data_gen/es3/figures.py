"""Figures of the ES3 report, each drawn from one section of `curves.measure` or of the build's own counts."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from data_gen.es3.plots import cumulative, rates, times, up_to
from data_gen.es3.sql import Rows, bin_start
from unisc.report.numbers import number
from unisc.report.style import COLOURS, INK, LINES, MARKERS, MUTED, PERCENT, figure

PAPER = {
    "requests": {"exposed": 1, "unexposed": 1, "attributed": 1, "searchified": 2},
    "samples": {"exposed": 1, "unexposed": 3, "attributed": 3, "searchified": 5},
    "clicks": {"exposed": 1, "unexposed": 1, "attributed": 2, "searchified": 4},
}
"""UniScale's volumes by stage relative to the first, as a review of it reports them."""

_DARK = (COLOURS[0], COLOURS[1], COLOURS[2], COLOURS[6], COLOURS[7])


def volumes(ratios: Mapping[str, Mapping[str, float | None]]) -> Figure:
    """Draw volumes by stage relative to the first: ours as bars, the paper's as strokes."""
    kinds = [kind for kind in (*PAPER, "purchases") if any(row.get(kind) for row in ratios.values())]
    fig, axes = figure(len(kinds), height=1.1 + 0.36 * len(ratios), sharey=True)
    for ax, kind in zip(axes, kinds, strict=True):
        for at, (name, row) in enumerate(ratios.items()):
            ours, theirs = row.get(kind) or 0.0, PAPER.get(kind, {}).get(name, 0)
            ax.barh(at, ours, color=COLOURS[0], height=0.6)
            end = (max(ours, theirs), at)
            ax.annotate(f"{ours:.2f}×", end, (5, 0), textcoords="offset points", va="center", fontsize=8)
            if theirs:
                ax.plot([theirs, theirs], [at - 0.38, at + 0.38], color=INK, lw=1.8)
        ax.set(title=kind)
        ax.grid(axis="y", visible=False)
        ax.set_xlim(0, 1.3 * ax.get_xlim()[1])
    axes[0].set_yticks(range(len(ratios)), list(ratios))
    axes[0].invert_yaxis()
    return fig


def fates(rows: Mapping[str, Mapping[str, int]]) -> Figure:
    """Draw where events went: one bar a kind, its fates as shares."""
    names = list(dict.fromkeys(name for row in rows.values() for name, n in row.items() if n))
    fig, (ax,) = figure(1, height=1.1 + 0.42 * len(rows))
    for at, row in enumerate(rows.values()):
        total, start = sum(row.values()), 0.0
        for i, name in enumerate(names):
            share, colour = row.get(name, 0) / max(1, total), COLOURS[i % 8]
            ax.barh(at, share, left=start, color=colour, height=0.6, label=name.replace("_", " ") if not at else None)
            if share > 0.05:
                ink = "white" if colour in _DARK else INK
                ax.text(start + share / 2, at, f"{share:.0%}", ha="center", va="center", color=ink, fontsize=8)
            start += share
    ax.set_yticks(range(len(rows)), [f"{name} (n = {sum(row.values()):,})" for name, row in rows.items()])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter(PERCENT)
    ax.grid(axis="y", visible=False)
    fig.legend(loc="outside lower center", ncols=4)
    return fig


def lags(rows: Rows, windows: Mapping[str, int]) -> Figure | None:
    """Draw the share of labels whose event came within a time of the request; a panel a kind, a colour a level."""
    kinds = [kind for kind in windows if any(row["kind"] == kind for row in rows)]
    if not kinds:
        return None
    fig, axes = figure(len(kinds), width=9.0 if len(kinds) > 1 else 6.0, height=3.6, sharey=True)
    origins = list(dict.fromkeys(row["origin"] for row in rows))
    for ax, kind in zip(axes, kinds, strict=True):
        some = [row for row in rows if row["kind"] == kind]
        for row in some:
            label = f"level {row['level']}, {row['origin']} (n = {row['n']:,})"
            style = LINES[origins.index(row["origin"]) % 4]
            cumulative(ax, row["bins"], label=label, color=COLOURS[(row["level"] - 2) % 8], ls=style)
        ax.axvline(windows[kind], color=MUTED, lw=1)
        ax.set(title=f"{kind}s", xlabel="from the request to the event")
        times(ax, 1, max(windows[kind], *(row["longest"] or 1 for row in some)))
        ax.legend(loc="upper left", fontsize=7)
    axes[0].set_ylabel("share of labels so far")
    axes[0].yaxis.set_major_formatter(PERCENT)
    return fig


def positions(rows: Rows) -> Figure:
    """Draw the click rate by shown slot with Wilson intervals: the page's own clicks in train and test, and all labels."""
    curves = {
        "train, clicks on the page": ("train", lambda r: r["clicks"]),
        "train, all click labels": ("train", lambda r: r["clicks"] + r["clicks_from_elsewhere"]),
        "test, clicks on the page": ("test", lambda r: r["clicks"]),
    }
    if not any(r["clicks_from_elsewhere"] for r in rows):
        del curves["train, all click labels"]
    fig, (ax,) = figure(1, width=7.5, height=3.2)
    for i, (name, (split, count)) in enumerate(curves.items()):
        some = [r for r in rows if r["split"] == split and r["position"] is not None]
        rates(ax, [(r["position"], count(r), r["n"]) for r in some], i, f"{name} (n = {sum(r['n'] for r in some):,})")
    ax.set(xlabel="shown slot, from 0", ylabel="click rate", ylim=(0, None))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter(PERCENT)
    ax.legend()
    return fig


def ranks(rows: Rows) -> Figure | None:
    """Draw rates of click and purchase labels by pre-rank, exposed and unexposed, weighted to the full lists."""
    tasks = [task for task in ("clicks", "purchases") if any(row[task] for row in rows)]
    if not tasks:
        return None
    fig, axes = figure(len(tasks), width=9.0 if len(tasks) > 1 else 6.0, height=3.8)
    curves = {
        "train, exposed, labels of the page": ("train", True, "{}_on_page"),
        "test, exposed, labels of the page": ("test", True, "{}_on_page"),
        "train, exposed, all labels": ("train", True, "{}"),
        "train, unexposed, all labels": ("train", False, "{}"),
    }
    if all(row[task] == row[f"{task}_on_page"] for row in rows for task in tasks):
        del curves["train, exposed, all labels"]
    bins = sorted({row["rank_bin"] for row in rows})
    for ax, task in zip(axes, tasks, strict=True):
        for i, (name, (split, exposed, column)) in enumerate(curves.items()):
            points = []
            for row in rows:
                if (row["split"], row["exposed"]) == (split, exposed) and row["weighted"]:
                    effective = row["weighted"] ** 2 / row["squared"]
                    points.append((row["rank_bin"], row[column.format(task)] / row["weighted"] * effective, effective))
            # None has no place on a logarithmic axis; the intervals of its neighbours say how little that means.
            rates(ax, [p for p in points if p[1] > 0], i, name)
        ax.set_xticks(bins, [_span(2**b - 1, 2 ** (b + 1) - 2) for b in bins], rotation=45, ha="right")
        ax.set(xlabel="pre-rank, from 0", ylabel=f"rate of {task[:-1]} labels", yscale="log")
        ax.yaxis.set_major_formatter(PERCENT)
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if _decades(ax) < 2 else (1.0,)))
        ax.yaxis.set_minor_locator(NullLocator())
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=2)
    return fig


def histories(lengths: Rows, ages: Rows) -> Figure:
    """Draw how many earlier events requests carry, and how old these are, by domain."""
    fig, (left, right) = figure(2, height=3.0)
    up_to(left, lengths, "length", lambda r: r["split"])
    left.set(xlabel="at most so many events in the history", ylabel="share of requests")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for row in ages:
        counts[row["origin"]][row["bin"]] += row["n"]
    for i, (name, bins) in enumerate(counts.items()):
        cumulative(right, bins.items(), label=f"{name} (n = {bins.total():,})", color=COLOURS[i % 8], ls=LINES[i % 4])
    right.set(xlabel="age of the event at the request", ylabel="share of events so far")
    right.yaxis.set_major_formatter(PERCENT)
    if ages:
        times(right, 1, bin_start(max(row["bin"] for row in ages) + 1))
        right.legend(loc="upper left")
    return fig


def draws(lengths: Rows, probabilities: Rows) -> Figure:
    """Draw candidates a request, and the chance with which train's unexposed candidates came into the sample."""
    some = [r for r in probabilities if r["split"] == "train" and not r["exposed"] and r["probability"] is not None]
    fig, axes = figure(2 if some else 1, width=9.0 if some else 6.0, height=3.0)
    up_to(axes[0], lengths, "length", lambda r: r["split"] if r["made"] == "logged" else f"{r['split']}, pseudo")
    axes[0].set(xlabel="at most so many candidates in the sample", ylabel="share of requests")
    if some:
        total = sum(r["n"] for r in some)
        axes[1].bar([r["probability"] for r in some], [r["n"] / total for r in some], width=0.01, color=COLOURS[0])
        axes[1].set(xlabel="probability of being in the sample", ylabel="share of unexposed candidates", xlim=(0, 1.02))
        axes[1].yaxis.set_major_formatter(PERCENT)
        axes[1].set_title(f"train, unexposed, n = {total:,}")
    return fig


def prices(rows: Rows) -> Figure | None:
    """Draw the distribution of price over exposed, unexposed and clicked train candidates."""
    known = [r for r in rows if r["split"] == "train" and r["bin"] is not None and r["bin"] >= 0]
    if not known:
        return None
    groups = {
        "exposed": lambda r: r["exposed"],
        "unexposed": lambda r: not r["exposed"],
        "clicked": lambda r: r["clicked"],
    }
    fig, (ax,) = figure(1, width=6.5, height=2.8)
    for i, (name, of) in enumerate(groups.items()):
        bins: Counter[int] = Counter()
        for row in filter(of, known):
            bins[row["bin"]] += row["n"]
        if total := bins.total():
            x, y = [2 ** ((b + 0.5) / 2) - 1 for b in sorted(bins)], [bins[b] / total for b in sorted(bins)]
            ax.plot(x, y, MARKERS[i] + LINES[i], color=COLOURS[i], label=f"{name} (n = {total:,})")
    ax.set(xscale="log", xlabel="price, half-octave bins", ylabel="share of candidates")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: number(round(x, 2))))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(PERCENT)
    ax.legend()
    return fig


def truth(sections: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figure | None:
    """Draw the oracle's mean probability of labelled candidates by level, beside that of unlabelled ones."""
    known = {kind: {n: r for n, r in rows.items() if r.get("mean_probability") is not None} for kind, rows in sections.items()}
    known = {kind: rows for kind, rows in known.items() if rows}
    if not known:
        return None
    fig, axes = figure(len(known), height=1.4 + 0.26 * max(len(rows) for rows in known.values()))
    for ax, (kind, rows) in zip(axes, known.items(), strict=True):
        for at, row in enumerate(rows.values()):
            ax.plot(row["mean_probability"], at, "o", color=COLOURS[0], ms=6)
        for i, name in enumerate(("exposed", "unexposed")):
            mean = sections[kind].get("unlabelled", {}).get(name, {}).get("mean_probability")
            if mean is not None:
                ax.axvline(mean, color=COLOURS[i + 1], ls=LINES[i + 1], label=f"unlabelled, {name}")
        ax.set_yticks(range(len(rows)), [f"{name} ({row.get('labels', 0):,})" for name, row in rows.items()])
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.set(title=f"{kind} labels", xlabel="mean true probability", xlim=(0, None))
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        fig.legend(handles, labels, loc="outside lower center", ncols=2)
    return fig


def _decades(ax: Axes) -> float:
    low, high = ax.get_ylim()
    return math.log10(high / low)


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"
