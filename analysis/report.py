"""Build a study's report: `python -m analysis.report STUDY_DIR [--out report]`.

The output folder holds `index.html` (self-contained), `figures/` (PNG, SVG, PDF), `summary.json` (every number of the page,
its keys described in `summary.schema.md` beside it), `laws.json` (fits with contracts, certificates, intervals, backtests)
and `runs.parquet` (a row a run).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from matplotlib.figure import Figure

from analysis import ablation as ablation_figure
from analysis import (
    effects,
    equal_counts,
    exchange,
    exchange_figure,
    gain,
    isolation,
    laws,
    loss,
    peers,
    predicted,
    real,
    real_differences,
    real_logs,
    sections,
    signs,
    volumes,
    widths,
)
from analysis.study import StudyResult, load
from unisc.errors import InputError, run_command
from unisc.report import style

_SCHEMA_FILE = Path(__file__).with_name("summary.schema.md")


@dataclass(frozen=True, slots=True)
class Findings:
    """Hold the summary, every number of the page, and what the figures draw."""

    summary: dict[str, Any]
    curves: Mapping[str, laws.Curve]
    gains: list[effects.Gain] | None
    rates: list[exchange.Rates]


def build(study: StudyResult, out_dir: Path, draws: int = 500, work: Path | None = None) -> Path:
    """Write the report of a study and return the path of its page.

    `draws` is the number of bootstrap refits a law, `work` the study's folder, from which extra sections are read.
    """
    if not study.num_runs:
        raise InputError("the study has no finished run; run it to its end first")
    findings = analyse(study, draws)
    out_dir.mkdir(parents=True, exist_ok=True)
    figures = {name: style.save(fig, out_dir / "figures", name)["svg"] for name, fig in _draw(findings).items()}
    (out_dir / "summary.schema.md").write_text(_SCHEMA_FILE.read_text())
    pq.write_table(pa.table({name: pa.array(column.tolist()) for name, column in study.runs.items()}), out_dir / "runs.parquet")
    page = sections.write(study, findings.summary, figures, work)
    return page.write(out_dir, {"summary.json": findings.summary, "laws.json": _laws(findings.curves)})


def build_from(study_dir: Path, out_dir: Path) -> Path:
    """Write the report of a study folder, see `build`."""
    study = load(study_dir)
    if (study_dir / real_differences.FLOORS).is_file():
        ablation = _or_reason(lambda: real_differences.summarise(real_differences.load(study_dir)))
        study = StudyResult(study.runs, {**study.facts, "real_ablation": ablation})
    return build(study, out_dir, work=study_dir)


def analyse(study: StudyResult, draws: int = 500) -> Findings:
    """Compute every number of the report; parts that the study cannot support hold a `reason` instead."""
    facts = study.facts
    oracle = _oracle(study)
    curves, reasons = laws.fit_curves(study, draws)
    fits: dict[str, Any] = {name: laws.describe(curve, oracle["log_loss"]) for name, curve in curves.items()}
    fits |= {name: {"reason": reason} | laws.unfitted(reason) for name, reason in reasons.items()}
    gains, gain_table = _gains(study)
    rates, no_rates = exchange.fit_rates(study, draws)
    of_cells, widened = effects.interactions(study), _or_reason(lambda: widths.compare(study))
    wall = facts.get("wall_seconds") or {}
    seconds = wall if isinstance(wall, Mapping) else {"total": wall}
    summary = {
        "schema": 2,
        "preset": facts.get("preset"),
        "source": facts.get("source"),
        "domains": facts.get("domains"),
        "num_runs": study.num_runs,
        "num_seeds": len(np.unique(study.grid().runs["seed"])),
        "num_sizes": len(np.unique(study.grid().runs["size"])),
        "wall_seconds": seconds.get("total", sum(v for v in seconds.values() if isinstance(v, int | float)) or None),
        "stages": {name: value for name, value in seconds.items() if name != "total"},
        "run_seconds": _finite_sum(study.runs["wall_seconds"]),
        "machine": facts.get("machine"),
        "versions": facts.get("versions"),
        "level": laws.LEVEL,
        "metrics": {"loss": laws.loss_metric(study), "gain": effects.gain_metric(study)},
        "oracle": oracle,
        "gain": gain_table,
        "fit": fits,
        "held_out": {name: curve.backtest.to_json() for name, curve in curves.items() if curve.backtest},
        **of_cells,
        "full_lists": _or_reason(lambda: effects.full_lists(study)),
        "composition_law": exchange.summarise(study, rates, no_rates),
        "equal_counts": _or_reason(lambda: equal_counts.compare(study)),
        "ablation": _or_reason(lambda: isolation.ablation(study)),
        "widths": widened,
        "peers": _or_reason(lambda: peers.compare(study)),
        "signs": {
            "scaling": signs.scaling(of_cells["synergy"], widened),
            "ablation": _or_reason(lambda: signs.ablation(study)),
        },
        "volumes": volumes.relative(facts.get("volumes") or {}),
        "real": real.summarise(study),
        "real_ablation": facts.get("real_ablation"),
    }
    return Findings(_plain(summary), curves, gains, rates)


def _oracle(study: StudyResult) -> dict[str, Any]:
    given = study.facts.get("oracle") or {}
    found = {}
    for name in ("log_loss", "auc_roc"):
        value, column = given.get(name), study.runs.get(f"eval/oracle/{name}")
        if value is None and column is not None and np.isfinite(column).any():
            value = float(np.nanmedian(column))
        found[name] = value
    kind = "irreducible" if study.facts.get("stationary") else "lower bound"
    return found | {"kind": kind if found["log_loss"] is not None else None}


def _gains(study: StudyResult) -> tuple[list[effects.Gain] | None, dict[str, Any]]:
    try:
        gains = effects.gains(effects.cells_of(study, effects.gain_metric(study), effects.POINTS))
    except InputError as error:
        return None, {"reason": str(error)}
    base = effects.baseline(study, float(gains[0].params[0]))
    table = {}
    for one in gains:
        rows = zip(one.params.tolist(), one.contrasts, strict=True)
        table[one.composition] = [{"num_params_dense": params} | c.to_json() for params, c in rows]
    section: dict[str, Any] = {"unit": "AUC-ROC points", "by_composition": table}
    if base is not None:
        rows = zip(base.params.tolist(), base.contrasts, strict=True)
        section["baseline"] = [{"num_params_dense": params} | c.to_json() for params, c in rows]
        gains.append(base)
    return gains, section


def _or_reason(make) -> dict[str, Any]:
    try:
        return make()
    except InputError as error:
        return {"reason": str(error)}


def _draw(findings: Findings) -> dict[str, Figure]:
    summary = findings.summary
    drawn: dict[str, Figure | None] = {}
    if findings.gains:
        drawn["gain"] = gain.draw(findings.gains)
    if findings.curves:
        drawn["loss"] = loss.draw(findings.curves, summary["oracle"]["log_loss"], summary["oracle"]["kind"] or "")
        tested = {name: curve.backtest for name, curve in findings.curves.items() if curve.backtest is not None}
        drawn["predicted"] = predicted.draw(tested) if tested else None
    if "curves" in summary["widths"]:
        drawn["widths"] = widths.draw(summary["widths"])
    if findings.rates:
        drawn["exchange"] = exchange_figure.draw(findings.rates)
    if "by_metric" in summary["equal_counts"]:
        drawn["equal_counts"] = equal_counts.draw(summary["equal_counts"])
    if "cells" in summary["ablation"]:
        drawn["ablation"] = ablation_figure.draw(summary["ablation"])
    if any(entry["relative"] for entry in summary["volumes"].values()):
        drawn["volumes"] = volumes.draw(summary["volumes"])
    if "differences" in (on_real := summary["real_ablation"] or {}):
        drawn[real_logs.figure_name(on_real)] = real_logs.draw(on_real)
    return {name: fig for name, fig in drawn.items() if fig is not None}


def _laws(curves: Mapping[str, laws.Curve]) -> dict[str, Any]:
    out = {}
    for name, curve in curves.items():
        backtest = curve.backtest
        out[name] = curve.fit.to_json() | {
            "intervals": dict(laws.summarise(curve.fit, curve.boot, laws.LEVEL)),
            "profile": {"E": curve.floor.to_json() if curve.floor else None},
            "backtest": backtest.to_json() if backtest else None,
            "held_out": None
            if backtest is None
            else {
                "measured": backtest.measured.tolist(),
                "low": None if backtest.low is None else backtest.low.tolist(),
                "high": None if backtest.high is None else backtest.high.tolist(),
                **{method: values.tolist() for method, values in backtest.predictions.items()},
            },
        }
    return _plain(out)


def _finite_sum(column: np.ndarray) -> float | None:
    finite = column[np.isfinite(column)]
    return float(finite.sum()) if len(finite) else None


def _plain(value: Any) -> Any:
    """Turn NumPy values into JSON ones; a number that is not finite becomes null, which JSON can say."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def main(study_dir: tyro.conf.Positional[Path], /, out: Path = Path("report")) -> None:
    """Build the report of a study.

    Args:
        study_dir: folder in which the study was run, with study.json and sweep/.
        out: folder for the page, its figures and its tables.
    """
    print(build_from(study_dir, out))


if __name__ == "__main__":
    run_command("analysis.report", lambda: tyro.cli(main))
