"""Figures of the composition law: exchange rates by metric and isolation, and how they change with the model."""

from matplotlib.figure import Figure

from analysis.exchange import Rates, name_of
from analysis.figures.parts import span, whisker
from analysis.laws import LEVEL
from unisc.report import style
from unisc.scaling import Interval

TITLES = {"oracle_clicks@5": "true clicks, all candidates"}


def title_of(metric: str) -> str:
    """Return how a metric of the law is called on the page."""
    return TITLES.get(name_of(metric), "log loss, shown lists")


def draw(found: list[Rates]) -> Figure:
    """Draw rates with intervals, one panel a metric, isolated models filled and others hollow; then their change with size."""
    metrics = list(dict.fromkeys(one.metric for one in found))
    fig, axes = style.figure(2 * len(metrics), 4.7 * len(metrics), 3.0, sharey=True)
    for at, metric in enumerate(metrics):
        mine = [one for one in found if one.metric == metric]
        kinds = list(dict.fromkeys(kind for one in mine for kind in one.additive.labels[2:]))
        for ax, rising in ((axes[2 * at], False), (axes[2 * at + 1], True)):
            rows: list[tuple[int, int, str, Interval]] = []
            for index, one in enumerate(mine):
                for kind in one.additive.labels[2:]:
                    interval = one.slopes[f"k_{kind}"] if rising else one.boot.interval(f"w_{kind}", LEVEL)
                    rows.append((kinds.index(kind), index, one.isolation, interval))
            low, high = span([row[-1] for row in rows])
            ax.set_xlim(min(low, -0.05), max(high, 0.05 if rising else 1.1))
            for place, index, isolation, interval in rows:
                hollow = {"markerfacecolor": style.PAPER, "mew": 1.3} if isolation == "none" else {}
                y = place + (index - (len(mine) - 1) / 2) * 0.28
                whisker(ax, y, interval, style.colour(kinds[place]), style.marker(kinds[place]), **hollow)
            for worth in (0,) if rising else (0, 1):
                ax.axvline(worth, color=style.MUTED, lw=0.9, ls="-" if worth else ":", zorder=0)
            ax.grid(axis="y", visible=False)
            ax.set_yticks(range(len(kinds)), kinds)
            ax.set_ylim(len(kinds) - 0.5, -0.5)
            ax.set_xlabel("change per e-fold of parameters" if rising else "worth in exposed samples")
            ax.set_title("change with the model" if rising else title_of(metric))
    one = found[0]
    seeds = f"{one.num_seeds} seed{'s' if one.num_seeds != 1 else ''}"
    said = f"{one.additive.num_runs} cells, {one.num_runs} runs, {seeds}; {LEVEL:.0%} intervals"
    style.note(fig, said + ("; hollow: no isolation" if any(o.isolation == "none" for o in found) else ""))
    return fig
