"""The UniScale ablation on real logs as a section of a page, and as a page of its own.

`python -m analysis.real_logs DIR --out OUT`, DIR being where a sweep of `sweeps/uniscale_trivago.py` or
`sweeps/uniscale_retailrocket.py` was run (it holds floors.npz, logs/, samples/ and sweep/).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tyro
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import prose, real_differences
from unisc.errors import run_command
from unisc.report import style
from unisc.report.numbers import short
from unisc.report.page import Page

METRICS = {"mrr": "MRR", "auc_roc": "AUC-ROC"}
"""The first is the headline, fixed beforehand: lists are what a ranker orders. The second is the paper's."""

LIMITS = {
    "trivago": (
        "trivago: the lists are those that were shown, but nothing was recorded of hotels that were not shown, and no list "
        "behind a browse event. So there is no unexposed composition and nothing to searchify; all train lists are searches, "
        "and the isolation ablation is a control. A user is a session, a hotel has no features but its price."
    ),
    "retailrocket": (
        "RetailRocket: no list was recorded. Each is a proposal, last touched items and then item-to-item retrieval, and a "
        "target that is not in it is left out (the share is in the manifest). One row a pair and kind with one time: what was "
        "viewed, carted or bought again is lost, and a view stamped after its cart is taken as it stands, so that a view and a "
        "cart differ more in their history than they would in a log of all events. Items and visitors have no features."
    ),
}


def write(page: Page, section: Mapping[str, Any], figures: Mapping[str, Path]) -> None:
    """Add the section to a page: volumes, floors, differences, limits; `figures` may hold its figure by name."""
    if "reason" in section:
        page.heading("The ablation on real logs")
        page.text(f"Not compared: {section['reason']}.")
        return
    source = str(section["source"])
    page.heading(f"The ablation on real logs: {source}")
    seeds, lists = section["num_seeds"], f"{section['num_requests']:,} test lists"
    expected = (1 - section["level"]) * section["num_intervals"]
    page.text(
        f"{section['num_runs']} runs, {seeds} seed{'s' if seeds != 1 else ''}, {lists}. Differences are between runs of one "
        f"seed on the same lists, in points; brackets are {section['level']:.0%} intervals over seeds and test lists. "
        f"{section['num_resolved']} of {section['num_intervals']} intervals (MRR and AUC-ROC) miss zero, where about "
        f"{expected:.0f} would by chance."
    )
    for entry in section["over_floor"]:
        verb = {"resolved positive": "beats", "resolved negative": "is below"}.get(entry["verdict"], "is not resolved against")
        page.text(
            f"{_words(entry['cell'])} at {short(section['sizes'][-1]['num_params_dense'])} dense parameters {verb} the rule "
            f"“{entry['rule'].replace('_', ' ')}” (MRR {section['floors'][entry['rule']]:.4f}) by "
            f"{prose.interval(entry, 3, True)} points (n = {lists}, {prose.sample(entry)})."
        )
    for metric, name in METRICS.items():
        header = [f"{name} points", *(short(size["num_params_dense"]) for size in section["sizes"])]
        rows = [
            [what, *(f"{prose.interval(entry, 2, True)}{_mark(entry)}" for entry in entries)]
            for what, entries in section["differences"][metric].items()
        ]
        page.table(header, rows, text=range(len(header)))
    page.text(
        "Columns are dense parameters. MRR's intervals cover seeds and test lists, AUC-ROC's seeds alone; an asterisk marks an "
        "interval that misses zero, every other difference is unresolved. Where all train lists of a composition are of one "
        "domain, as those of exposed data are, isolation is a control.",
        kind="note",
    )
    if section["equal_volumes"]:
        page.text("Cut to as many samples as the base has, both modules, MRR points over the base on all its samples:")
        page.items(
            f"{entry['composition']} at {short(entry['num_params_dense'])}: {prose.interval(entry, 2, True)}, "
            f"{entry['verdict']} (n = {lists}, {prose.sample(entry)})."
            for entry in section["equal_volumes"]
        )
    columns = ("train_requests", "train_samples", "train_clicks")
    rows = [[name, *(f"{counts.get(c, 0):,}" for c in columns)] for name, counts in section["volumes"].items()]
    page.table(["composition", "requests", "samples", "positives"], rows)
    if (figure := figures.get(figure_name(section))) is not None:
        page.figure(
            figure,
            f"Left: what other data add to MRR over {section['base']} data under the same isolation. Right: what isolation "
            f"adds on the same data. {section['level']:.0%} intervals, {seeds} seeds, {lists}.",
        )
    shares = [f"{what} {share:.0%}" for what, share in section["found"].items()]
    page.text(
        f"Limits. {LIMITS.get(source, 'Nothing is said of this source.')} One log, one split by time; rates not tuned."
        + (f" Found by the proposal: {', '.join(shares)}." if shares else "")
    )


def _words(cell: str) -> str:
    composition, _, isolation = cell.partition("/")
    return f"HHSFT on {composition} data ({'both modules' if isolation == 'both' else isolation})"


def _mark(entry: Mapping[str, Any]) -> str:
    return "" if entry["verdict"].startswith("unresolved") else " *"


def figure_name(section: Mapping[str, Any]) -> str:
    """Return the name of the section's figure."""
    return f"real_{section['source']}"


def draw(section: Mapping[str, Any]) -> Figure:
    """Draw the MRR differences: what a composition adds under each isolation, and what isolation adds on each composition."""
    table = section["differences"]["mrr"]
    groups = [
        [what for what in table if what.partition(",")[0].endswith(f"− {section['base']}")],
        [what for what in table if " − none, " in what],
    ]
    titles = ("Other data", "Isolation")
    drawn = [(title, rows) for title, rows in zip(titles, groups, strict=True) if rows]
    longest = max(len(rows) for _, rows in drawn)
    fig, axes = style.figure(len(drawn), 4.8 * len(drawn), 1.5 + 0.42 * longest)
    colours = style.shades(len(section["sizes"]))
    for ax, (title, rows) in zip(axes, drawn, strict=True):
        for at, what in enumerate(rows):
            for index, entry in enumerate(table[what]):
                y = at + (index - (len(colours) - 1) / 2) * 0.17
                if entry["low"] is not None:
                    ax.plot([entry["low"], entry["high"]], [y, y], color=colours[index], lw=1.8, alpha=0.6)
                resolved = not entry["verdict"].startswith("unresolved")
                face = colours[index] if resolved else "white"
                ax.plot(entry["value"], y, "o", ms=5, mec=colours[index], mfc=face, mew=1.3)
        ax.axvline(0, color=style.MUTED, lw=0.9, zorder=0)
        ax.set_yticks(range(len(rows)), [what.replace(", ", "\n") for what in rows])
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.grid(axis="y", visible=False)
        ax.set(xlabel="MRR points", title=title)
    handles = [
        Line2D([], [], marker="o", color=colour, mfc=colour, ms=5, label=short(size["num_params_dense"]))
        for colour, size in zip(colours, section["sizes"], strict=True)
    ]
    fig.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        title="dense parameters; hollow: unresolved",
        title_fontsize=8,
    )
    lists = f"{section['num_requests']:,} test lists"
    style.note(fig, f"{section['source']}: {section['num_seeds']} seeds, {lists}, {section['level']:.0%} intervals")
    return fig


def main(sweep: tyro.conf.Positional[Path], /, out: Path = Path("report/real")) -> None:
    """Write the page of an ablation on real logs.

    Args:
        sweep: folder in which the sweep was run, with floors.npz, logs/, samples/ and sweep/.
        out: folder for the page, its figure and its numbers.
    """
    section = real_differences.summarise(real_differences.load(sweep))
    name = figure_name(section)
    out.mkdir(parents=True, exist_ok=True)
    figures = {name: style.save(draw(section), out / "figures", name)["svg"]}
    page = Page("UniScale's ablation on real logs")
    write(page, section, figures)
    print(page.write(out, {"summary.json": section}))


if __name__ == "__main__":
    run_command("analysis.real_logs", lambda: tyro.cli(main))
