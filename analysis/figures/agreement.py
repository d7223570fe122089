"""Figure: online lift of rankers against their offline metrics, with the rank correlation."""

from matplotlib.figure import Figure

from analysis.online import LEVEL, OFFLINE
from analysis.online_agreement import PANELS, RESAMPLES, Judged, rank_correlation
from unisc.report import style

_TITLES = {
    "eval/exposed/auc_roc": "AUC-ROC, shown lists",
    "eval/exposed/gauc": "GAUC, shown lists",
    "eval/exposed/log_loss_calibrated": "calibrated log loss, shown lists",
    "eval/full/auc_roc": "AUC-ROC, full lists",
}


def offline_online(judged: Judged, *, seed: int = 0) -> Figure:
    """Draw a panel for each offline metric: a ranker is a point with its online interval; better offline is to the right."""
    names = [name for name in PANELS if name in judged.offline]
    fig, axes = style.figure(min(2, len(names)), 8.8, 0.9 + 2.9 * -(-len(names) // 2), rows=-(-len(names) // 2), sharey=True)
    families = sorted(set(judged.families))
    lifts = judged.lifts()
    for ax, name in zip(axes, names, strict=False):
        for index, family in enumerate(families):
            lap, place = divmod(index, len(style.COLOURS))
            colour, mark = style.COLOURS[place], style.MARKERS[(place + 3 * lap) % len(style.MARKERS)]
            of = [k for k, f in enumerate(judged.families) if f == family]
            x, y = [judged.offline[name][k] for k in of], [lifts[k].value for k in of]
            bars = [[lifts[k].value - lifts[k].low for k in of], [lifts[k].high - lifts[k].value for k in of]]
            ax.errorbar(x, y, bars, fmt=mark, color=colour, ecolor=colour, elinewidth=0.9, ms=4.5, label=family)
        low, high = ax.get_ylim()
        if low < 0 < high:
            ax.axhline(0, color=style.MUTED, lw=0.8, zorder=0)
        ax.yaxis.set_major_formatter(style.PERCENT)
        rho = rank_correlation(judged, name, seed=seed)
        ax.set_title(f"Spearman {rho.value:+.2f} [{rho.low:+.2f}, {rho.high:+.2f}]")
        ax.set_xlabel(_TITLES[name] + ("" if OFFLINE[name] > 0 else " (axis turned: better to the right)"))
        if OFFLINE[name] < 0:
            ax.invert_xaxis()
    for ax in axes[:: min(2, len(names))]:
        ax.set_ylabel(f"{judged.metric} a request\nmore than {judged.control_name}")
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(6, len(families)))
    style.note(
        fig,
        f"{len(judged.names)} rankers, {len(judged.requests):,} users, {judged.requests.sum():,.0f} requests in charge, common"
        f" random numbers\n{LEVEL:.0%} intervals: of lifts clustered by user, of correlations over rankers and users"
        f" ({RESAMPLES:,} resamples)",
    )
    return fig
