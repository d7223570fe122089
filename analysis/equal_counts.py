"""Volume told from diversity: compositions cut to as many samples as exposed data has, beside exposed data and the whole.

    what a composition gains over exposed data  =  diversity (at equal count)  +  volume (the rest of it)

Training is one pass, so an equal count is an equal number of steps, too.
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analysis.effects import BASE, FULL, POINTS, gain_metric
from analysis.laws import LEVEL
from analysis.study import StudyResult
from unisc.errors import InputError
from unisc.report import style
from unisc.report.numbers import short
from unisc.scaling import Cells, contrast

TOLERANCE = 0.05
PARTS = ("diversity", "volume", "total")


def compare(study: StudyResult) -> dict[str, Any]:
    """Return, by metric and composition, the contrasts diversity, volume and total at each size and over all sizes.

    Raises:
      InputError: no composition was cut to the count of exposed samples, or a count is off by more than `TOLERANCE`.
    """
    runs = study.runs
    cut = runs["study"] == "volume"
    if not cut.any():
        raise InputError("no composition was trained on as many samples as exposed data has")
    sizes = np.unique(runs["size"][cut])
    full = (runs["study"] == "grid") & np.isin(runs["size"], sizes) & (runs["isolation"] == "both")
    full &= runs["fraction"] >= runs["fraction"][runs["study"] == "grid"].max() - 1e-9
    base = full & (runs["composition"] == BASE)
    if not base.any():
        raise InputError(f"the grid has no run on {BASE} data at the sizes of the equal counts")
    count = float(np.median(runs["num_examples"][base]))
    off = np.abs(runs["num_examples"][cut] / count - 1).max()
    if off > TOLERANCE:
        raise InputError(f"the equal counts are off by {off:.0%} from the {count:,.0f} samples of {BASE} data; cut them closer")
    names = [name for name in study.compositions if name != BASE and (runs["composition"][cut] == name).any()]
    section: dict[str, Any] = {"num_examples": count, "largest_gap": float(off), "by_metric": {}}
    metrics = {"auc_roc": gain_metric(study), "full_clicks": FULL["oracle_clicks"], "full_hr": FULL["hr"]}
    for label, metric in metrics.items():
        if metric not in runs:
            continue
        keep = (base | ((cut | full) & np.isin(runs["composition"], names))) & np.isfinite(runs[metric])
        kind = np.where(runs["composition"] == BASE, BASE, np.where(cut, "cut:", "all:"))
        name = np.char.add(kind, np.where(runs["composition"] == BASE, "", runs["composition"]))
        params = {one: float(np.median(runs["num_params_dense"][cut & (runs["size"] == one)])) for one in sizes}
        size = np.array([params.get(one, 0.0) for one in runs["size"]])
        cells = Cells.of(size[keep], name[keep], runs["seed"][keep], runs[metric][keep], scale=POINTS)
        section["by_metric"][label] = {one: _parts(cells, one) for one in names}
    return section


def _parts(cells: Cells, name: str) -> dict[str, Any]:
    columns = {BASE: cells.column(BASE), "cut": cells.column(f"cut:{name}"), "all": cells.column(f"all:{name}")}
    pairs = {"diversity": ("cut", BASE), "volume": ("all", "cut"), "total": ("all", BASE)}
    rows = [np.eye(len(cells.sizes))[row] for row in range(len(cells.sizes))]
    labels = [float(size) for size in cells.sizes]
    out: dict[str, Any] = {"by_size": [], "mean": {}}
    for at, weight in [*zip(labels, rows, strict=True), (None, np.full(len(rows), 1 / len(rows)))]:
        found = {}
        for part, (more, less) in pairs.items():
            weights = np.zeros(cells.means.shape)
            weights[:, columns[more]] += weight
            weights[:, columns[less]] -= weight
            found[part] = contrast(cells, f"{name}, {part}", weights, level=LEVEL).to_json()
        if at is None:
            out["mean"] = found
        else:
            out["by_size"].append({"num_params_dense": at} | found)
    return out


def draw(section: dict[str, Any]) -> Figure:
    """Draw diversity and volume by composition and size, with intervals; one panel a metric."""
    titles = {"auc_roc": "AUC-ROC of shown lists", "full_clicks": "true clicks in the top five of all candidates"}
    shown = [name for name in titles if name in section["by_metric"]]
    fig, axes = style.figure(len(shown), 4.4 * len(shown), 3.4)
    for ax, metric in zip(axes, shown, strict=True):
        table = section["by_metric"][metric]
        place, ticks = 0.0, []
        for name, parts in table.items():
            for row in parts["by_size"]:
                for shift, part, mark in ((-0.15, "diversity", "o"), (0.15, "volume", "s")):
                    one, colour = row[part], style.colour(name) if part == "diversity" else style.MUTED
                    if one["low"] is not None:
                        ax.plot([place + shift] * 2, [one["low"], one["high"]], color=colour, lw=1.5, alpha=0.6)
                    ax.plot(place + shift, one["value"], mark, color=colour, ms=5, label=f"{part}: {_MEANS[part]}")
                ticks.append((place, short(row["num_params_dense"])))
                place += 1
            ax.annotate(
                name, (place - 1 - (len(parts["by_size"]) - 1) / 2, 1.02), xycoords=("data", "axes fraction"), ha="center",
                color=style.colour(name), fontsize=8,
            )  # fmt: skip
            place += 0.6
        ax.axhline(0, color=style.MUTED, lw=0.9, zorder=0)
        ax.set_xticks([at for at, _ in ticks], [label for _, label in ticks])
        ax.grid(axis="x", visible=False)
        ax.set_xlabel("dense parameters")
        ax.set_title(titles[metric], pad=16)
    axes[0].set_ylabel("points")
    handles = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2)
    return fig


_MEANS = {"diversity": "at the count of exposed data", "volume": "the whole of it over that"}
