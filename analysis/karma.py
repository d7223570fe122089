"""KARMA's ablation as a page: `python -m analysis.karma DIR --out OUT`, DIR being that of `sweeps.karma`.

OUT gets `index.html`, `figures/` (PNG, SVG, PDF) and `karma.json`. An objective's difference to the action loss alone is taken
seed by seed, and its interval is Student's over seeds: it covers training, not another shop or another test day. What a measure
of collapse was before training is that of the pretrained language model behind fresh projections.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.boundary import mean_interval, verdict
from analysis.laws import LEVEL
from unisc.errors import InputError, run_command
from unisc.report import style
from unisc.report.numbers import number, short
from unisc.report.page import Page
from unisc.sweep.record import read_records

BASE, FROZEN = "act", "frozen"
OBJECTIVES = {
    "act": "action alone",
    "gen": "+ generation",
    "rec": "+ reconstruction",
    "both": "+ both",
    "visual": "+ both and picture",
    "frozen": "action, model frozen",
}
RECALL = {"hr@200": "HR@200", "hr@50": "HR@50", "gauc": "GAUC"}
"""Shown in points, hundredths of the metric."""
SEMANTICS = {
    "sink_rate": "attention sinks, %",
    "entropy": "entropy over items",
    "cosine": "likeness of users' maps",
    "sensitivity": "sensitivity to contents",
    "category_accuracy": "category read off",
    "brand_accuracy": "brand read off",
    "text_loss": "loss of the text read off",
}


class Estimate(NamedTuple):
    """A mean over seeds with its interval, None where there is one seed."""

    value: float
    low: float | None
    high: float | None
    num_seeds: int

    @property
    def verdict(self) -> str:
        """Say whether the sign is told."""
        return verdict(self.low, self.high)

    def text(self, digits: int = 3, *, signed: bool = False) -> str:
        """Write the mean with its interval."""
        values = [number(x, digits) for x in (self.value, self.low, self.high) if x is not None]
        if signed:
            values = [x if x.startswith("−") else f"+{x}" for x in values]
        return values[0] if len(values) == 1 else f"{values[0]} [{values[1]}, {values[2]}]"


class Cell(NamedTuple):
    """Runs alike but for their seed: an objective, a size and a share of users."""

    objective: str
    size: str
    fraction: float


def load(folder: Path) -> dict[Cell, dict[int, Mapping[str, Any]]]:
    """Read the records of a sweep of KARMA, by cell and seed. Raises InputError where there are none."""
    records = [r for r in read_records(folder / "sweep") if r["experiment"] == "experiments.karma"]
    if not records:
        raise InputError(f"{folder / 'sweep'}: no finished run of KARMA; run `python -m sweeps.karma {folder}` first")
    found: dict[Cell, dict[int, Mapping[str, Any]]] = {}
    for record in records:
        objective, size, _, fraction, _, seed = str(record["label"]).split(" ")
        found.setdefault(Cell(objective, size, float(fraction)), {})[int(seed)] = record
    return found


def estimate(values: Sequence[float]) -> Estimate:
    """Return a mean with its t interval over seeds."""
    found = mean_interval(np.asarray(values, float), LEVEL)
    return Estimate(found["value"], found["low"], found["high"], len(values))


def summarise(cells: Mapping[Cell, Mapping[int, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return every number of the page: the ablation at the size with most objectives, and the scaling of HR@200.

    Raises:
      InputError: no size at which the action loss alone and another objective were run on all users.
    """
    whole = [cell for cell in cells if cell.fraction == 1.0]
    sizes = sorted({cell.size for cell in whole}, key=lambda size: -sum(cell.size == size for cell in whole))
    size = next((s for s in sizes if Cell(BASE, s, 1.0) in cells and sum(c.size == s for c in whole) > 1), None)
    if size is None:
        raise InputError("the runs have no objective beside the action loss alone; run the sweep's ablation")
    names = [name for name in OBJECTIVES if Cell(name, size, 1.0) in cells]
    base = cells[Cell(BASE, size, 1.0)]
    keys = {f"eval/{key}": 100.0 for key in RECALL} | {f"eval/semantics/{key}": 1.0 for key in SEMANTICS}
    table: dict[str, dict[str, Any]] = {}
    for name in names:
        runs = cells[Cell(name, size, 1.0)]
        row: dict[str, Any] = {}
        for key, scale in keys.items():
            if not all(key in run["metrics"] for run in (*runs.values(), *base.values())):
                continue
            row[key.rpartition("/")[2]] = {
                "mean": _mean(runs, key, scale),
                "less": _less(runs, base, key, scale),
                "before": runs[min(runs)]["metrics"].get(key.replace("semantics", "before")) if "semantics" in key else None,
            }
        table[name] = row
    scaling = [
        {
            "objective": cell.objective,
            "num_params": next(iter(runs.values()))["counts"]["num_params_dense"],
            "fraction": cell.fraction,
            "hr": _mean(runs, "eval/hr@200", 100.0),
            "less": None
            if cell.objective == BASE
            else _less(runs, cells.get(cell._replace(objective=BASE), {}), "eval/hr@200", 100.0),
        }
        for cell, runs in cells.items()
    ]
    return {
        "size": size,
        "num_params": next(iter(base.values()))["counts"]["num_params_dense"],
        "num_runs": sum(len(cells[Cell(name, size, 1.0)]) for name in names),
        "num_all_runs": sum(map(len, cells.values())),
        "seeds": sorted(base),
        "num_examples": next(iter(base.values()))["counts"]["num_examples"],
        "popularity": 100 * next(iter(base.values()))["metrics"]["eval/popularity/hr@200"],
        "objectives": table,
        "scaling": sorted(scaling, key=lambda p: (p["objective"], p["fraction"], p["num_params"])),
    }


def _mean(runs: Mapping[int, Mapping[str, Any]], key: str, scale: float) -> Estimate:
    return estimate([scale * runs[seed]["metrics"][key] for seed in sorted(runs)])


def _less(
    runs: Mapping[int, Mapping[str, Any]], base: Mapping[int, Mapping[str, Any]], key: str, scale: float
) -> Estimate | None:
    pairs = [(runs[seed]["metrics"][key], base[seed]["metrics"][key]) for seed in sorted(runs.keys() & base.keys())]
    return estimate([scale * (own - other) for own, other in pairs]) if pairs else None


def answer(summary: Mapping[str, Any]) -> list[str]:
    """Say what the regularisers did to recall and to collapse."""
    of, num_seeds = summary["objectives"], len(summary["seeds"])
    sample = _sample(2 * num_seeds, num_seeds)  # a difference is of two objectives' runs
    out = []
    for name in ("rec", "gen", "both", "visual", "frozen"):
        if name in of and of[name]["hr@200"]["less"] is not None:
            less = of[name]["hr@200"]["less"]
            out.append(
                f"{OBJECTIVES[name]}: HR@200 {less.text(signed=True)} points over the action alone, {less.verdict} ({sample})."
            )
    if "rec" in of:
        moved = [
            f"{label} {of['rec'][key]['less'].text(signed=True)} ({of['rec'][key]['less'].verdict})"
            for key, label in SEMANTICS.items()
            if key in of["rec"] and of["rec"][key]["less"] is not None
        ]
        out.append(f"Reconstruction less the action alone: {'; '.join(moved)} ({sample}).")
    return out


def _sample(num_runs: int, num_seeds: int) -> str:
    return f"n = {num_runs} runs, {num_seeds} seeds, {LEVEL:.0%} intervals"


def ablation(summary: Mapping[str, Any]) -> Figure:
    """Draw the differences to the action loss alone, a panel a metric."""
    names = [name for name in summary["objectives"] if name != BASE]
    keys = [key for key in RECALL if all(key in summary["objectives"][name] for name in names)]
    fig, axes = style.figure(len(keys), 2.0 + 2.4 * len(keys), 0.9 + 0.36 * len(names), sharey=True)
    for ax, key in zip(axes, keys, strict=True):
        shown = [summary["objectives"][name][key]["less"] for name in names]
        _dots(ax, shown)
        # A model held still may fall so far behind that nothing else could be told apart beside it.
        limits = _span([one for name, one in zip(names, shown, strict=True) if name != FROZEN])
        ax.set_xlim(*limits)
        for place, (name, one) in enumerate(zip(names, shown, strict=True)):
            if name == FROZEN and not limits[0] <= one.value <= limits[1]:
                edge, towards = (0.03, "left") if one.value < limits[0] else (0.97, "right")
                arrow = "\u2190 {}" if towards == "left" else "{} \u2192"
                ax.text(
                    edge,
                    place,
                    arrow.format(short(one.value)),
                    transform=ax.get_yaxis_transform(),
                    ha=towards,
                    va="center",
                    size=8,
                )
        ax.axvline(0, color=style.MUTED, lw=0.9, zorder=1)
        ax.set_xlabel(f"{RECALL[key]} over action alone, points")
    axes[0].set_yticks(range(len(names)), [OBJECTIVES[name] for name in names])
    return fig


def semantics(summary: Mapping[str, Any]) -> Figure:
    """Draw the measures of collapse by objective, and what they were before training."""
    names = list(summary["objectives"])
    keys = [key for key in SEMANTICS if all(key in summary["objectives"][name] for name in names)]
    columns = 3
    rows = -(-len(keys) // columns)
    fig, axes = style.figure(columns, 9.0, 0.6 + rows * (0.7 + 0.27 * len(names)), rows=rows, sharey=True)
    for index, ax in enumerate(axes):
        if index >= len(keys):
            ax.set_axis_off()
            continue
        key = keys[index]
        _dots(ax, [summary["objectives"][name][key]["mean"] for name in names])
        before = summary["objectives"][BASE][key]["before"]
        if before is not None:
            ax.axvline(before, color=style.MUTED, lw=1.2, ls="--", zorder=1, label="before training")
        ax.set_title(SEMANTICS[key])
    axes[0].set_yticks(range(len(names)), [OBJECTIVES[name] for name in names])
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center")
    return fig


def scaling(summary: Mapping[str, Any]) -> Figure | None:
    """Draw HR@200 over decoder parameters by share of users, and what is added to the action loss; None without two sizes."""
    points, names = summary["scaling"], _scaled(summary)
    if not names:
        return None
    shares = sorted({p["fraction"] for p in points if p["objective"] in names})
    added = [n for n in names if any(p["less"] for p in points if p["objective"] == n)]
    count = len(names) + len(added)
    fig, axes = style.figure(count, 0.6 + 2.9 * count, 3.2)
    levels, differences = axes[: len(names)], axes[len(names) :]
    for key, panels, drawn in (("hr", levels, names), ("less", differences, added)):
        for ax, name in zip(panels, drawn, strict=True):
            for at, (colour, mark, share) in enumerate(zip(style.shades(len(shares)), style.MARKERS, shares, strict=False)):
                line = [p for p in points if p["objective"] == name and p["fraction"] == share and p[key] is not None]
                # Differences all lie about zero: intervals of one size would hide one another.
                aside = 1.05 ** (at - (len(shares) - 1) / 2) if key == "less" else 1.0
                places = [p["num_params"] * aside for p in line]
                ax.plot(places, [p[key].value for p in line], mark, ls="-", color=colour, label=f"{share:.0%} of users")
                for place, p in zip(places, line, strict=True):
                    if p[key].low is not None:
                        ax.plot([place] * 2, [p[key].low, p[key].high], color=colour, lw=1)
            ax.set(xscale="log", xlabel="dense parameters that serve")
            style.log_counts(ax.xaxis)
            if key == "hr":
                ax.set(title=OBJECTIVES[name], ylabel="HR@200, %")
            else:
                ax.axhline(0, color=style.MUTED, lw=0.9, zorder=1)
                ax.set(title=f"{OBJECTIVES[name]}, less action alone", ylabel="HR@200, points")
    limits = [end for ax in levels for end in ax.get_ylim()]
    for ax in levels:
        ax.set_ylim(min(limits), max(limits))
    handles, labels = levels[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(shares))
    return fig


def _scaled(summary: Mapping[str, Any]) -> list[str]:
    """Return the objectives that were run at several sizes."""
    sizes = {name: {p["num_params"] for p in summary["scaling"] if p["objective"] == name} for name in OBJECTIVES}
    return [name for name, found in sizes.items() if len(found) > 1]


def _span(estimates: Sequence[Estimate]) -> tuple[float, float]:
    """Return limits around zero and all intervals, with some room."""
    ends = [0.0, *(end for one in estimates for end in (one.value, one.low, one.high) if end is not None)]
    room = 0.1 * (max(ends) - min(ends)) or 1.0
    return min(ends) - room, max(ends) + room


def _dots(ax: Axes, estimates: Sequence[Estimate]) -> None:
    for place, one in enumerate(estimates):
        if one.low is not None and one.high is not None:
            ax.plot([one.low, one.high], [place, place], color=style.COLOURS[0], lw=1.4)
        ax.plot(one.value, place, "o", color=style.COLOURS[0])
    ax.set_ylim(len(estimates) - 0.5, -0.5)
    ax.xaxis.set_major_locator(MaxNLocator(4))


def build(folder: Path, out: Path) -> Path:
    """Write the page, its figures and numbers to `out`; return the page's path. Raises InputError as `load`, `summarise`."""
    summary = summarise(load(folder))
    page = Page("Does an interest that stays decodable retrieve better? KARMA's ablation")
    size, served = summary["size"], short(summary["num_params"])
    page.text(
        f"{summary['num_all_runs']} runs; the ablation at size {size} ({served} dense parameters that serve), "
        f"{summary['num_examples']:,} examples a run; popularity has HR@200 {summary['popularity']:.3g} %.",
        kind="facts",
    )
    page.answer(answer(summary))
    sample = _sample(summary["num_runs"], len(summary["seeds"]))
    figures = {"ablation": ablation(summary), "semantics": semantics(summary), "scaling": scaling(summary)}
    num_scaled = sum(p["hr"].num_seeds for p in summary["scaling"] if p["objective"] in _scaled(summary))
    captions = {
        "ablation": f"What is added to the action loss, seed by seed. {sample}.",
        "semantics": f"What is left of what the language model knew; dashed: before training. {sample}.",
        "scaling": "HR@200 by the decoder's size and the share of users trained on; seed by seed less the action loss alone. "
        f"{_sample(num_scaled, len(summary['seeds']))}.",
    }
    for name, fig in figures.items():
        if fig is not None:
            style.save(fig, out / "figures", name)
            page.figure(fig, captions[name])
    rows = []
    for name, row in summary["objectives"].items():
        for key, found in row.items():
            less = found["less"]
            before = number(found["before"]) if found["before"] is not None else ""
            words = ("", "") if name == BASE or less is None else (less.text(signed=True), less.verdict)
            label = {**RECALL, **SEMANTICS}[key]
            rows.append([OBJECTIVES[name], label, found["mean"].text(), before, *words])
    head = ["objective", "measure", "after training", "before", "less action alone", "verdict"]
    page.table(head, rows, text=(0, 1, 2, 4, 5), sortable=True)
    return page.write(out, {"karma.json": _plain(summary)})


def _plain(value: Any) -> Any:
    """Return numbers as JSON has them, estimates by the names of their parts."""
    if isinstance(value, Estimate):
        return {**value._asdict(), "verdict": value.verdict}
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def main() -> None:
    """Write the page of a finished sweep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="DIR", help="folder of `python -m sweeps.karma`")
    parser.add_argument("--out", type=Path, required=True, help="folder of the page")
    args = parser.parse_args()
    print(build(args.root, args.out))


if __name__ == "__main__":
    run_command("karma", main)
