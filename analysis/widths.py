"""Which width to grow: HFA's, GFA's or both, on exposed and on searchified samples, beside the paper's Figure 4."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analysis import paper
from analysis.effects import BASE, gain_metric
from analysis.laws import LEVEL
from analysis.signs import points
from analysis.study import StudyResult
from unisc.errors import InputError
from unisc.report import style
from unisc.scaling import Cells, contrast

GROWN = {"grow-gfa": ("GFA alone", "hfa_dim"), "grow-hfa": ("HFA alone", "gfa_dim")}
BOTH = "both widths"


def compare(study: StudyResult) -> dict[str, Any]:
    """Return gains by curve over the size that widths were grown from, and contrasts of curves at equal parameters.

    Raises:
      InputError: no width was grown alone, or not from a size of the grid.
    """
    runs, metric = study.runs, gain_metric(study)
    grown = np.isin(runs["study"], list(GROWN))
    if not grown.any():
        raise InputError("no width was grown alone")
    full = (runs["study"] == "grid") & (runs["fraction"] >= runs["fraction"][runs["study"] == "grid"].max() - 1e-9)
    origin = _grown_from(study, full)
    curves = {}
    seeds = set.intersection(*(set(runs["seed"][grown & (runs["size"] == name)]) for name in np.unique(runs["size"][grown])))
    for composition in dict.fromkeys(runs["composition"][grown].tolist()):
        mine = runs["composition"] == composition
        sizes = [
            name
            for name in np.unique(runs["size"][full & mine])
            if seeds <= set(runs["seed"][full & mine & (runs["size"] == name)])
        ]
        curves[f"{BOTH}, {composition}"] = full & mine & np.isin(runs["size"], sizes)
        for label, (name, _) in GROWN.items():
            if (mine & (runs["study"] == label)).any():
                curves[f"{name}, {composition}"] = mine & ((runs["study"] == label) | (full & (runs["size"] == origin)))
    # A size of the grid may lie on three curves, and its runs are counted once.
    label = np.char.add(np.char.add(runs["composition"], "|"), runs["size"])
    used = np.any(list(curves.values()), axis=0)
    cells = points(study, used, label, metric)
    reference = f"{BASE}|{origin}"
    params = {one: float(np.median(runs["num_params_dense"][used & (label == one)])) for one in cells.compositions}
    found: dict[str, Any] = {"reference": origin, "num_params_dense": params[reference], "unit": "AUC-ROC points"}
    found["curves"] = {
        name: [
            {"num_params_dense": params[one], "ratio": params[one] / params[reference]}
            | _gain(cells, {one: 1.0}, {reference: 1.0})
            for one in sorted(set(label[mask]), key=params.__getitem__)
        ]
        for name, mask in curves.items()
    }
    on = {name: {one: params[one] for one in set(label[mask])} for name, mask in curves.items()}
    return found | {"claims": _claims(cells, on)}


def _grown_from(study: StudyResult, full: np.ndarray) -> str:
    """Return the grid's size whose fixed width the grown models have."""
    runs = study.runs
    for label, (_, fixed) in GROWN.items():
        mine = runs["study"] == label
        if mine.any() and fixed in runs:
            kept = np.unique(runs[fixed][mine])
            same = full & np.isin(runs[fixed], kept)
            if len(kept) == 1 and same.any():
                return str(runs["size"][same][0])
    raise InputError("the widths that were grown alone start from no size of the grid")


def _gain(cells: Cells, more: Mapping[str, float], less: Mapping[str, float]) -> dict[str, Any]:
    weights = np.zeros(cells.means.shape)
    for name, weight in more.items():
        weights[0, cells.column(name)] += weight
    for name, weight in less.items():
        weights[0, cells.column(name)] -= weight
    return contrast(cells, "gain", weights, level=LEVEL).to_json()


def _claims(cells: Cells, curves: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Compare the curves on base data at the largest number of parameters that all of them reach."""
    mine = {name.split(",")[0]: sizes for name, sizes in curves.items() if name.endswith(f", {BASE}")}
    out: dict[str, Any] = {}
    for name, (more, less) in {
        "gfa_over_hfa": ("GFA alone", "HFA alone"),
        "both_over_gfa": (BOTH, "GFA alone"),
        "both_over_hfa": (BOTH, "HFA alone"),
    }.items():
        if more in mine and less in mine:
            at = min(max(sizes.values()) for sizes in mine.values())
            ends = [_interpolated(mine[one], at) for one in (more, less)]
            out[name] = _gain(cells, *ends) | {"at": at}
    return out


def _interpolated(sizes: Mapping[str, float], at: float) -> dict[str, float]:
    """Return weights on a curve's cells that interpolate it in the logarithm of the parameters."""
    names = sorted(sizes, key=sizes.__getitem__)
    logs = np.log([sizes[name] for name in names])
    place = float(np.interp(np.log(at), logs, np.arange(len(names))))
    low = min(int(place), len(names) - 1)
    high = min(low + 1, len(names) - 1)
    return {names[low]: 1 - (place - low)} | ({names[high]: place - low} if high > low else {})


_LOOKS = {BOTH: ("-", None), "GFA alone": ("--", "^"), "HFA alone": (":", "v")}


def draw(section: Mapping[str, Any]) -> Figure:
    """Draw our curves with intervals against the ratio of parameters, and the digitised figure in a second panel."""
    fig, (ours, theirs) = style.figure(2, 8.6, 3.9, width_ratios=(1.5, 1))
    count = len(section["curves"])
    for index, (name, rows) in enumerate(section["curves"].items()):
        kind, composition = name.split(", ")
        line, mark = _LOOKS[kind]
        colour = style.colour(composition)
        x = np.array([row["ratio"] for row in rows]) * np.exp(0.03 * (index - (count - 1) / 2))
        y = np.array([row["value"] for row in rows])
        ours.plot(x, y, color=colour, ls=line, marker=mark or style.marker(composition), ms=4.5, label=name)
        for at, row in zip(x, rows, strict=True):
            if row["low"] is not None and row["high"] > row["low"]:
                ours.plot([at, at], [row["low"], row["high"]], color=colour, lw=1, alpha=0.6)
    ours.axhline(0, color=style.MUTED, lw=0.8, zorder=1)
    ours.set_xscale("log")
    style.log_counts(ours.xaxis)
    ours.set(xlabel="dense parameters over those grown from", ylabel="gain, AUC-ROC points", title="This study")
    looks = {
        "HHSFT + ES3": ("-", "searchified", None), "HHSFT, search data": ("-", "exposed", None),
        "only d_G, search": ("--", "exposed", "^"), "only d_H, search": (":", "exposed", "v"),
    }  # fmt: skip
    for name, values in (paper.SCALING | paper.WIDTHS).items():
        line, composition, mark = looks[name]
        colour = style.colour(composition)
        theirs.plot(
            paper.RATIOS,
            values,
            color=colour,
            ls=line,
            marker=mark or style.marker(composition),
            markerfacecolor="white",
            mew=1.2,
        )
        theirs.annotate(name, (4, values[-1]), (0, 6), textcoords="offset points", ha="right", color=colour, fontsize=7.5)
    theirs.set(xlabel="model size ratio", ylabel="gain, AUC %", title="UniScale, Figure 4 (digitised)", ylim=(-0.06, 0.84))
    theirs.set_xticks(paper.RATIOS, [f"{ratio}×" for ratio in paper.RATIOS])
    fig.legend(*ours.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig
