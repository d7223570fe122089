"""The page of a fit: what `unisc fit TABLE --report DIR` writes, concerns first, then numbers and figures.

The folder holds `index.html`, self-contained, and `fit.json`, every number of it under the keys of `unisc.scaling.command`,
with the options of the fit: `unisc report fit.json` reads the table again and writes the same page.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from analysis import figures, predicted
from unisc.config import from_plain
from unisc.errors import InputError
from unisc.report.numbers import number, percent, short
from unisc.report.page import Page
from unisc.scaling import Runs, bootstrap, compute_optimal, profiles, robustness
from unisc.scaling.command import FitOptions, Outcome, fit_table
from unisc.scaling.compute_optimal import ComputeOptimal

MAX_DRAWS = 300
"""Resamples of what the page adds to the fit: the band without the held-out runs, and the approaches to an optimal size."""
_KINDS = {
    "run": "without one run",
    "size": "without one size",
    "data": "without one data size",
    "budget": "without one budget",
    "trim": "without the worst runs",
    "objective": "under another objective",
}
"""Refits of the robustness panel in words."""


def build(found: Outcome, out: Path) -> Path:
    """Write the page of a fit into a folder and return its path."""
    result = found.to_json()
    optimal = _optimal(found)
    page = Page(f"{found.fit.law.name.replace('_', ' ').capitalize()} law of {Path(found.prepared.table.source).name}")
    _head(page, found)
    _numbers(page, found)
    _law(page, found)
    if found.fit.law.name.startswith("composition"):
        page.heading("What an example is worth")
        page.figure(
            figures.composition_curves(found.fit, found.boot, level=found.prepared.options.level),
            "Left: what one example of an origin is worth. Then: all runs over the data so counted; where the law holds, "
            "runs of one size fall on one line whatever their mix.",
        )
    _backtest(page, found)
    if found.ranking is not None:
        page.heading("Laws compared")
        metric = found.fit.contract.metric
        page.figure(
            figures.tournament_ranking(found.ranking, metric=metric),
            "Laws and baselines by how they predict the budgets beyond those they were fitted to.",
        )
        if found.ranking.left_out:
            page.items(f"{law} was left out: {reason}." for law, reason in found.ranking.left_out.items())
    _trust(page, found, result)
    if found.plan is not None:
        page.heading("Next runs")
        page.figure(
            figures.next_runs(found.plan),
            "The runs that shrink the interval at the target most for the budget, and what other ways to spend it would buy.",
        )
        page.items(found.plan.notes)
    if optimal is not None:
        _compute_optimal(page, found, optimal)
        result["compute_optimal"] = optimal.to_json()
    page.heading("Residuals")
    page.figure(
        figures.residuals(found.fit),
        "What the law leaves, in the space in which it was fitted. A trend is a law that does not hold; runs are numbered "
        "from 0 as they were fitted.",
    )
    return page.write(out, {"fit.json": result})


def build_from(path: Path, out: Path) -> Path:
    """Fit again what a fit's JSON describes, and write its page.

    Raises:
      InputError: no such file, or one that `unisc fit --json` did not write.
    """
    try:
        said = json.loads(path.read_text())
        source, options = said["table"]["source"], said["options"]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give a study's folder, or the JSON that `unisc fit --json` wrote") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: not what `unisc fit --json` writes; make it again, or give a study's folder") from None
    return build(fit_table(Path(source), from_plain(FitOptions, options)), out)


def _head(page: Page, found: Outcome) -> None:
    fit, contract, table = found.fit, found.fit.contract, found.prepared
    named = ", ".join(f"{label} is {column}" for label, column in table.columns.items())
    knee = f" (delta {contract.huber_delta:g})" if contract.loss == "huber" else ""
    trimmed = "" if contract.trimming == "none" else f", without {contract.trimming}"
    page.text(
        f"{table.table.source}: {fit.num_runs} of {table.num_read} runs; {named}. Minimised: the sum of {contract.loss}{knee} "
        f"residuals of {contract.metric} in {contract.space} space{trimmed}.",
        kind="facts",
    )
    if found.concerns:
        count = len(found.concerns)
        page.answer([f"Not to be taken at its word: {count} {'reason' if count == 1 else 'reasons'}.", *found.concerns])
    else:
        page.answer(["Nothing was found that speaks against this fit."])


def _numbers(page: Page, found: Outcome) -> None:
    page.heading("Predictions and parameters")
    if found.predictions:
        rows = []
        for (at, interval), widened in zip(found.predictions, found.widened, strict=True):
            place = ", ".join(f"{label} = {short(value)}" for label, value in at.items())
            rows.append([place, *_interval(interval.to_json())])
            if widened is not None:
                rows.append(["the same, with what extrapolations on this table missed", *_interval(widened.to_json())])
        page.table(["prediction at", found.fit.contract.metric, "low", "high", "interval"], rows, text=(0, 4))
    rows = [[name, *_interval(interval)] for name, interval in found.intervals.items()]
    derived = found.fit.to_json()["derived"]
    rows += [[name, _shown(value), "", "", "follows from the parameters"] for name, value in derived.items()]
    page.table(["parameter", "value", "low", "high", "interval"], rows, text=(0, 4))
    certificate = found.fit.certificate
    page.text(
        f"{percent(certificate.agreement)} of {certificate.num_starts} starts reach the objective {found.fit.objective:.6g}; "
        f"gradient {certificate.gradient_norm:.1e}, condition number {number(certificate.condition_number)}, bounds hit: "
        f"{', '.join(certificate.bounds_hit) or 'none'}.",
        kind="note",
    )


def _interval(interval: Mapping[str, Any]) -> list[Any]:
    said = (
        f"{interval['level']:.0%} {interval['method']}" if interval["method"] not in ("none", "fixed") else interval["method"]
    )
    note = f"{said}; {interval['note']}" if interval["note"] and said != "none" else said
    unknown = "" if interval["method"] == "none" else "unbounded"
    ends = [unknown if interval[end] is None else _shown(interval[end]) for end in ("low", "high")]
    return [_shown(interval["value"]), *ends, note]


def _shown(value: float) -> tuple[str, float]:
    """Write a number that may be of any size."""
    return f"{value:.4g}" if abs(value) >= 1e6 else number(value, 4), value


def _law(page: Page, found: Outcome) -> None:
    options, seeds = found.prepared.options, found.num_clusters
    page.heading("The law")
    drawn = figures.law_curves(
        found.fit, found.boot, targets=found.predictions, level=options.level, flops_factor=options.flops_factor
    )
    clusters = "" if seeds is None else f" Resampled by {seeds} clusters."
    page.figure(drawn, f"Runs and law. Marks and lines of one shade go together: runs nearest to that much data.{clusters}")


def _backtest(page: Page, found: Outcome) -> None:
    page.heading("Largest runs held out")
    back, options = found.backtest, found.prepared.options
    if back is None:
        page.text(f"No backtest: {found.no_backtest}.")
        return
    rows = [
        [name.replace("_", " "), (f"{s.mean_absolute:.4g}", s.mean_absolute), percent(s.relative), number(s.bias)]
        for name, s in back.scores.items()
    ]
    page.table(["method", "mean error", "relative", "bias"], rows)
    if back.coverage is not None:
        inside = f"{percent(back.coverage)} of {len(back.measured)} held-out runs lie inside the {back.level:.0%} interval."
        page.text(inside, kind="note")
    page.figure(
        predicted.draw({back.fit.law.name.replace("_", " "): back}, found.fit.contract.metric),
        "Left: the runs of the largest budgets, predicted by the law fitted without them. Right: beside naive baselines.",
    )
    boot = None
    clusters = None if found.prepared.clusters is None else found.prepared.clusters[~back.held]
    few = clusters is not None and len(np.unique(clusters)) < 3
    if found.boot is not None and back.fit.num_runs > back.fit.num_free and not few:
        boot = bootstrap(back.fit, clusters=clusters, draws=min(options.bootstrap, MAX_DRAWS), seed=options.seed)
    held = (found.fit.problem.axes[:, back.held], back.measured)
    page.figure(
        figures.law_curves(back.fit, boot, held=held, level=back.level, flops_factor=options.flops_factor),
        "The law as fitted without the held-out runs, and where those came to lie.",
    )


def _trust(page: Page, found: Outcome, result: dict[str, Any]) -> None:
    """Add the profiles, and the runs that the first target, or else the largest run, hangs on."""
    fit, level = found.fit, found.prepared.options.level
    if fit.num_runs <= fit.num_free:
        return
    page.heading("How far it is known")
    free = [name for name, low, high in zip(fit.law.names, fit.lower, fit.upper, strict=True) if low < high]
    page.figure(
        figures.profile_curves(profiles(fit, level=level), free, num_runs=fit.num_runs),
        "How much worse the best refit gets as a parameter is held elsewhere: it is known as far as the curve stays below the "
        "limit.",
    )
    largest = fit.problem.axes[:, np.argmax(np.prod(fit.law.size_and_data(fit.problem.axes), axis=0))]
    at = dict(found.predictions[0][0]) if found.predictions else dict(zip(fit.labels, map(float, largest), strict=True))
    panel = robustness(fit, targets=[at], boot=found.boot, level=level)
    result["robustness"] = panel.to_json()
    now = None if found.boot is None else found.boot.prediction(*at.values(), level=level)
    page.figure(figures.influence(panel, now), "How the prediction moves when one run is left out.")
    moved = {kind: ends["prediction"] for kind, ends in panel.ranges().items() if "prediction" in ends}
    page.table(["refitted", "lowest prediction", "highest"],
               [[_KINDS.get(kind, kind), *map(_shown, ends)] for kind, ends in moved.items()])  # fmt: skip


def _optimal(found: Outcome) -> ComputeOptimal | None:
    """Ask the three approaches, where the fit is of loss by size and data in the common way."""
    fit, options = found.fit, found.prepared.options
    contract = fit.contract
    if fit.labels != ("N", "D") or contract.better == "higher" or contract.upper is not None or options.fix:
        return None
    size, data = fit.problem.axes
    try:
        runs = Runs.of(size=size, data=data, loss=fit.problem.loss, flops_factor=options.flops_factor)
        draws = min(options.bootstrap, MAX_DRAWS)
        return compute_optimal(runs, contract=contract, draws=draws, level=options.level, seed=options.seed)
    except InputError:
        return None


def _compute_optimal(page: Page, found: Outcome, optimal: ComputeOptimal) -> None:
    level = found.prepared.options.level
    page.heading("Compute-optimal size")
    page.figure(
        figures.approaches(optimal, level=level),
        "What each approach asks for, at the table's largest compute and ten times that. None of them is the truth.",
    )
    if optimal.isoflop is not None and len(optimal.isoflop.valleys) <= 16:
        page.figure(
            figures.isoflop_valleys(optimal.isoflop, level=level, metric=found.fit.contract.metric),
            "Left: the best run of each size at each budget. Right: the bottoms of the valleys and their power.",
        )
    page.items(f"{name.replace('_', ', ')}: {reason}." for name, reason in optimal.failed.items())
