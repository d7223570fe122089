"""The phase diagram's numbers and page: `python -m analysis.phase DIR --out OUT`, DIR being that of `sweeps.phase`.

OUT gets `index.html`, `figures/` (PNG, SVG, PDF) and `phase.json`, every number of the page. `section` adds the same to another
page. The gain of pooling is that of own and foreign samples over own ones alone, same shop, size, isolation and seed; the gain
of isolation is that of both modules over none, same shop, size, seed and samples; its net gain is what of that is not there on
search samples alone.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis import phase_text
from analysis.boundary import Boundary, Surface, cell_means, mean_interval, verdict
from analysis.figures import phase as figures
from analysis.laws import LEVEL
from unisc.errors import InputError, run_command
from unisc.report import style
from unisc.report.numbers import short
from unisc.report.page import Page
from unisc.sweep.record import read_records

METRICS = {
    "auc_roc": ("eval/exposed/auc_roc_expected", 100.0, "AUC-ROC points"),
    "log_loss": ("eval/exposed/log_loss_expected", -1000.0, "thousandths of a nat of log loss saved"),
}
"""Metrics by name: key of the record, factor that turns a difference into a gain, and the gain's unit. Both are expectations
over the oracle's probabilities; the log loss is of calibrated scores."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """Hold the runs of the shops that are complete: K shops, I isolations, Z sizes by dense parameters, F shares from 0 up.

    `values` (K, I, Z, F) by metric; `control` (K, Z) those of two passes over the search samples alone, where they were run.
    """

    overlaps: np.ndarray
    seeds: np.ndarray
    isolations: tuple[str, ...]
    sizes: np.ndarray
    shares: np.ndarray
    values: Mapping[str, np.ndarray]
    control: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]


def load(folder: Path) -> Results:
    """Read the records of a sweep of the phase diagram.

    Raises:
      InputError: no such runs, no share of 0 to compare with, or no shop whose runs are all there.
    """
    records = [r for r in read_records(folder / "sweep") if r["experiment"] == "experiments.phase"]
    if not records:
        raise InputError(
            f"{folder / 'sweep'}: no finished run of the phase diagram; run `python -m sweeps.phase {folder}` first"
        )
    return arrange(records)


def arrange(records: Sequence[Mapping[str, Any]]) -> Results:
    """Arrange records by shop, isolation, size and share, leaving out shops that lack a run. Raises InputError as `load`."""
    found = {_key(record): record for record in records}
    main = [key for key in found if key[0] == "phase"]
    shops = sorted({key[1:3] for key in main})
    names = sorted({key[3] for key in main}, key=("none", "dref", "dapga", "both").index)
    params = {key[4]: found[key]["counts"]["num_params_dense"] for key in main}
    sizes = sorted(params, key=params.__getitem__)
    shares = sorted({key[5] for key in main})
    if not shares or shares[0] != 0 or len(shares) < 2:
        raise InputError("the runs have no foreign share of 0 beside others; run the baseline of search samples alone")
    whole = [s for s in shops if all(("phase", *s, i, z, f) in found for i in names for z in sizes for f in shares)]
    if not whole:
        raise InputError(f"none of {len(shops)} shops has all its runs; type the sweep's command again to finish it")
    passes = [s for s in whole if all(("control", *s, names[0], z, 0.0) in found for z in sizes)]

    def table(metric: str) -> np.ndarray:
        rows = [
            [[[found["phase", *s, i, z, f]["metrics"][metric] for f in shares] for z in sizes] for i in names] for s in whole
        ]
        return np.array(rows, float)

    def again(metric: str) -> np.ndarray:
        rows = [[found["control", *s, names[0], z, 0.0]["metrics"][metric] for z in sizes] for s in passes]
        return np.array(rows, float)

    full = [found["phase", *s, names[0], sizes[0], shares[-1]] for s in whole]
    own, foreign = (np.array([r["counts"][f"num_examples_{kind}"] for r in full], float) for kind in ("own", "foreign"))
    return Results(
        overlaps=np.array([overlap for overlap, _ in whole]),
        seeds=np.array([seed for _, seed in whole]),
        isolations=tuple(names),
        sizes=np.array([params[size] for size in sizes], float),
        shares=np.array(shares, float),
        values={name: table(metric) for name, (metric, *_) in METRICS.items()},
        control={name: again(metric) for name, (metric, *_) in METRICS.items()} if len(passes) == len(whole) else {},
        facts={
            "num_runs": len(whole) * len(names) * len(sizes) * len(shares),
            "num_control_runs": len(passes) * len(sizes),
            "num_shops": len(whole),
            "num_shops_left_out": len(shops) - len(whole),
            "queries": full[0]["config"]["data"]["queries"],
            "num_examples_own": float(np.median(own)),
            "foreign_per_own": float(np.median(foreign / own)),
        },
    )


def _key(record: Mapping[str, Any]) -> tuple[str, float, int, str, str, float]:
    config = record["config"]
    data = config["data"]
    study = str(record["label"]).split("/", 1)[0]
    return study, data["overlap"], config["train"]["seed"], config["model"]["isolation"], config["size"], data["foreign"]


def summarise(results: Results, *, level: float = LEVEL) -> dict[str, Any]:
    """Return every number of the page.

    Raises:
      InputError: fewer shops than an error can be told from.
    """
    metrics: dict[str, dict[str, Any]] = {}
    for name, (_, scale, unit) in METRICS.items():
        values = results.values[name] * scale
        pooling = {
            isolation: _part(results, values[:, i, :, 1:] - values[:, i, :, :1], results.shares[1:], level, rising=True)
            for i, isolation in enumerate(results.isolations)
        }
        metrics[name] = {"unit": unit, "pooling": pooling}
        if {"none", "both"} <= set(results.isolations):
            none, both = (values[:, results.isolations.index(i)] for i in ("none", "both"))
            paid = both - none
            metrics[name]["isolation"] = _part(results, paid, results.shares, level, rising=False)
            metrics[name]["net"] = _part(results, paid[..., 1:] - paid[..., :1], results.shares[1:], level, rising=False)
            for kind in ("isolation", "net"):
                metrics[name][kind]["num_runs"] = int(both.size + none.size)
        if results.control:
            more = results.control[name] * scale - values[:, 0, :, 0]
            metrics[name]["control"] = [mean_interval(column, level) for column in more.T]
    return {
        **results.facts,
        "num_seeds": len(np.unique(results.seeds)),
        "level": level,
        "overlaps": np.unique(results.overlaps).tolist(),
        "shares": results.shares.tolist(),
        "sizes": results.sizes.tolist(),
        "metrics": metrics,
    }


def _part(results: Results, gains: np.ndarray, shares: np.ndarray, level: float, *, rising: bool) -> dict[str, Any]:
    """Return cells, fitted lines and boundaries of one gain (K, Z, F) over overlap, size and share."""
    surface = Surface.fit(
        results.overlaps, gains, sizes=results.sizes, shares=shares, through_zero=bool(shares[0] > 0), level=level
    )
    points, means, half, degrees = cell_means(results.overlaps, gains, level=level)
    cells, lines, bounds = [], [], []
    line = np.linspace(0, 1, 41)
    for z, size in enumerate(results.sizes):
        for f, share in enumerate(shares):
            fitted, _ = surface.at(points, size, share)
            for p, overlap in enumerate(points):
                mean, width = float(means[p, z, f]), float(half[p, z, f])
                low, high = (mean - width, mean + width) if degrees else (None, None)
                cell = {"size": float(size), "foreign": float(share), "overlap": float(overlap), "value": mean}
                cells.append(cell | {"low": low, "high": high, "verdict": verdict(low, high), "fit": float(fitted[p])})
        for share in np.unique([*shares, *np.linspace(shares[0], shares[-1], 25)]):
            value, se = surface.at(line, size, share)
            lines.append({"size": float(size), "foreign": float(share), "value": value.tolist(), "se": se.tolist()})
            found = _boundary(surface, size, share, rising).to_json()
            ends = [surface.interval(*(float(a[0]) for a in surface.at([x], size, share))) for x in (0.0, 1.0)]
            bounds.append({"size": float(size), "foreign": float(share), **found, "at_0": ends[0], "at_1": ends[1]})
    left = np.array([cell["value"] - cell["fit"] for cell in cells])
    missed = sum(cell["low"] is not None and not cell["low"] <= cell["fit"] <= cell["high"] for cell in cells)
    return {
        "num_runs": gains.size + gains.size // len(shares),
        "cells": cells,
        "cell_degrees": degrees,
        "overlap": line.tolist(),
        "lines": lines,
        "quantile": surface.quantile,
        "degrees": surface.degrees,
        "boundary": bounds,
        "change": [{"size": float(size), **surface.change(size, shares[-1])} for size in results.sizes],
        "residual": {
            "rms": float(np.sqrt((left**2).mean())),
            "num_cells": len(cells),
            "num_terms": surface.beta.size,
            "num_missed": int(missed),
        },
    }


def _boundary(surface: Surface, size: float, share: float, rising: bool) -> Boundary:
    """Return the boundary of the expected kind, or one of the other kind where that alone is resolved."""
    expected, other = (surface.boundary(size, share, rising=kind) for kind in (rising, not rising))
    return other if expected.verdict == "unresolved" and other.verdict != "unresolved" else expected


def section(page: Page, folder: Path, *, heading: str = "Where pooling hurts and isolation pays") -> dict[str, Any] | None:
    """Add the phase diagram of a folder to a page and return its numbers; None, and nothing added, where there are no runs.

    Raises:
      InputError: runs that cannot be compared, see `load` and `summarise`.
    """
    if not any(r["experiment"] == "experiments.phase" for r in read_records(folder / "sweep")):
        return None
    summary = summarise(load(folder))
    page.heading(heading)
    _write(page, summary)
    return summary


def study_section(work: Path) -> str | None:
    """Return the phase diagram of a study's folder `phase/` as HTML, None where there is none."""
    page = Page("")
    folder = work / "phase"
    return page.body() if (folder / "sweep").is_dir() and section(page, folder) else None


def _write(page: Page, summary: Mapping[str, Any]) -> None:
    page.text(phase_text.facts(summary), kind="facts")
    page.answer(phase_text.answer(summary))
    page.figure(figures.plane(summary, "auc_roc"), phase_text.plane_caption(summary))
    page.figure(figures.slices(summary), phase_text.slices_caption(summary))
    page.items(phase_text.details(summary))
    for name, one in summary["metrics"].items():
        page.text(f"Boundaries by {phase_text.NAMES[name]}, as shares of the rules that domains have in common:")
        rows = []
        for kind, part in phase_text.parts(one):
            for bound in phase_text.at_shares(part, summary["shares"]):
                ends = (phase_text.gain(bound["at_0"]), phase_text.gain(bound["at_1"]))
                words = (phase_text.where(bound), bound["verdict"])
                rows.append([kind, short(bound["size"]), f"{bound['foreign']:g}", *ends, *words])
        head = ["gain of", "dense parameters", "foreign share", "at overlap 0", "at overlap 1", "boundary", "verdict"]
        page.table(head, rows, text=(0, 3, 4, 5, 6), sortable=True)
    page.text(phase_text.method(summary), kind="note")


def build(folder: Path, out: Path) -> Path:
    """Write the phase diagram's own page, figures and numbers to `out`; return the page's path. Raises InputError as `load`."""
    summary = summarise(load(folder))
    page = Page("Where pooling foreign samples hurts, and where isolation pays")
    _write(page, summary)
    for name in METRICS:
        style.save(figures.plane(summary, name), out / "figures", f"plane_{name}")
    style.save(figures.slices(summary), out / "figures", "slices")
    return page.write(out, {"phase.json": summary})


def main() -> None:
    """Write the page of a finished sweep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="DIR", help="folder of `python -m sweeps.phase`")
    parser.add_argument("--out", type=Path, required=True, help="folder of the page")
    args = parser.parse_args()
    print(build(args.root, args.out))


if __name__ == "__main__":
    run_command("phase", main)
