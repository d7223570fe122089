"""Lay out the report: which sections there are and in what order; each says what is missing of its part."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis import extra, prose, real_logs
from analysis.sections import closing, method, samples, scaling, tables
from analysis.study import StudyResult
from unisc.report.page import Page


def write(study: StudyResult, summary: Mapping[str, Any], figures: Mapping[str, Path], work: Path | None = None) -> Page:
    """Return the page of a study from its summary, the paths of its SVG figures and, for extra sections, its work folder."""
    on_real = summary["real"] is not None
    page = Page("UniScale on real request logs" if on_real else "Does data scale with the model? The UniScale study")
    page.text(_facts(summary), kind="facts")
    resolved = not on_real or "reason" not in summary["synergy"]
    findings = prose.headline(summary) if resolved else []
    if on_real:
        page.answer([prose.real_sentence(summary["real"]), *findings])
    else:
        page.answer([*findings, *prose.abstract(summary)])
    page.contents()
    if on_real:
        _real(page, summary["real"])
    else:
        method.method(page, study, summary, figures)
    scaling.gain(page, summary, figures)
    scaling.full_lists(page, summary)
    samples.composition_law(page, summary, figures)
    samples.equal_counts(page, summary, figures)
    tables.isolation(page, summary, figures)
    tables.peers(page, summary)
    if summary.get("real_ablation"):
        real_logs.write(page, summary["real_ablation"], figures)
    scaling.loss(page, summary, figures)
    scaling.held_out(page, summary, figures)
    for html in extra.sections(work):
        page.add(html)
    if not on_real:
        closing.negative(page, summary)
        closing.limits(page, summary)
        closing.reproduction(page, summary)
    closing.runs(page, study)
    return page


def _facts(summary: Mapping[str, Any]) -> str:
    parts = [
        f"Preset {summary['preset']}" if summary["preset"] else "",
        f"source {summary['source']}" if summary["source"] else "",
    ]
    seeds, sizes = summary["num_seeds"], summary["num_sizes"]
    parts.append(f"{summary['num_runs']} runs, {sizes} model sizes, {seeds} seed{'s' if seeds != 1 else ''}")
    if summary["wall_seconds"]:
        stages = ", ".join(
            f"{name} {_time(value)}" for name, value in summary["stages"].items() if isinstance(value, int | float)
        )
        parts.append(f"{_time(summary['wall_seconds'])} in all" + (f" ({stages})" if stages else ""))
    machine = summary["machine"]
    if machine:
        parts.append(", ".join(f"{k} {v}" for k, v in machine.items()) if isinstance(machine, Mapping) else str(machine))
    if summary["versions"]:
        parts.append(", ".join(f"{name} {version}" for name, version in summary["versions"].items()))
    return "; ".join(part for part in parts if part) + "."


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.3g} s"


def _real(page: Page, section: Mapping[str, Any]) -> None:
    page.heading("Against rules that need no model")
    if section.get("num_requests"):
        page.text(f"{section['num_requests']:,.0f} test requests.", kind="note")

    def shown(value: float | None) -> str:
        return f"{value:.4f}" if value is not None else "n/a"

    rows = [
        [name.replace("_", " "), shown(floor.get("mrr")), "", shown(floor.get("ndcg")), ""]
        for name, floor in section["floor"].items()
    ]
    for name, entry in section["by_composition"].items():
        cells = [f"HHSFT, {name} data"]
        for metric in ("mrr", "ndcg"):
            one = entry.get(metric, {})
            low, high = one.get("low"), one.get("high")
            cells += [shown(one.get("value")), f"[{low:.4f}, {high:.4f}]" if low is not None else "no interval"]
        rows.append(cells)
    page.table(["ranking", "MRR", "interval", "NDCG", "interval"], rows)
