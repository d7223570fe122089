"""From label quality to loss: `python -m analysis.label_quality DIR --out OUT`, on a sweep of `sweeps/label_quality.py`.

Per degradation: precision and recall of the attributed labels, and what it changes against the clean set. Per family (windows,
relevance, wrong labels): the slope of loss and AUC-ROC on precision, and what a point of precision is worth in samples by the
data law of the clean set. Only wrong labels move precision alone; windows and relevance move the number of labels with it.

A slope is least squares through the sets of a family and the clean one. Its interval is drawn from the pooled error of training
seeds (seeds as blocks) and from the jackknife of the precisions, which the sets of one shop share.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from scipy.special import fdtrc

from analysis import label_text
from analysis.figures import label_quality as figure
from analysis.laws import LEVEL
from unisc.errors import InputError, run_command
from unisc.report import style
from unisc.report.page import Page
from unisc.scaling import Bootstrap, Cells, Contract, bootstrap, contrast, fit
from unisc.scaling.equivalent import equivalent_examples
from unisc.sweep.record import read_records

EXPERIMENT = "experiments.label_quality"
FACTS = "labels.json"
CLEAN = "clean"
FAMILIES = ("wrong", "window", "relevance")
REJECTED = 0.10
"""A form does not fit where its lack of fit is less probable than this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A metric to explain: `scale` turns it into `unit`, and `sign` is -1 where less is better."""

    key: str
    name: str
    unit: str
    scale: float
    sign: int


METRICS = (
    Metric(key="eval/full/log_loss_expected", name="log loss, all candidates", unit="log loss", scale=1.0, sign=-1),
    Metric(key="eval/exposed/log_loss_expected", name="log loss, shown candidates", unit="log loss", scale=1.0, sign=-1),
    Metric(key="eval/full/auc_roc_expected", name="AUC-ROC, all candidates", unit="AUC-ROC points", scale=100.0, sign=1),
    Metric(key="eval/exposed/auc_roc_expected", name="AUC-ROC, shown candidates", unit="AUC-ROC points", scale=100.0, sign=1),
)


@dataclass(frozen=True, slots=True)
class LabelStudy:
    """Hold what each sample set is (`labels.json`) and a table of runs: degradation, fraction, seed, counts, metrics; (n,)."""

    facts: Mapping[str, Any]
    runs: Mapping[str, np.ndarray]

    def full(self) -> Mapping[str, np.ndarray]:
        """Return the runs on all requests of their set."""
        keep = self.runs["fraction"] >= 1 - 1e-9
        return {name: column[keep] for name, column in self.runs.items()}


def load(folder: Path) -> LabelStudy:
    """Read a finished sweep. Raises InputError where a part is missing or no run has finished on the sets that are there."""
    path = folder / FACTS
    if not path.is_file():
        raise InputError(f"{path} is missing; give the folder in which sweeps/label_quality.py was run")
    try:
        facts = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON (line {error.lineno}); run the sweep again to rewrite it") from None
    known = {name: one["samples"] for name, one in facts["degradations"].items()}
    records = [r for r in read_records(folder / "sweep") if r["experiment"] == EXPERIMENT]
    records = [r for r in records if known.get(r["config"]["degradation"]) == r["config"]["run"]["data"]["samples"]]
    if not records:
        raise InputError(f"{folder / 'sweep'} has no finished run on these sample sets; run the sweep to its end first")
    return of_records(records, facts)


def of_records(records: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> LabelStudy:
    """Arrange records as a table of runs."""
    run = [r["config"]["run"] for r in records]
    columns: dict[str, list[Any]] = {
        "degradation": [r["config"]["degradation"] for r in records],
        "fraction": [of["data"]["fraction"] for of in run],
        "seed": [of["train"]["seed"] for of in run],
        "num_examples": [r["counts"]["num_examples"] for r in records],
        "num_params_dense": [r["counts"]["num_params_dense"] for r in records],
    }
    columns |= {m.key: [r["metrics"].get(m.key, np.nan) for r in records] for m in METRICS}
    return LabelStudy(facts, {name: np.array(values) for name, values in columns.items()})


def analyse(study: LabelStudy, draws: int = 2000) -> dict[str, Any]:
    """Compute every number of the section; a metric that no run has is left out.

    Raises:
      InputError: no run of the clean set, or of any other, or a metric of the truth in none.
    """
    full, sets = study.full(), study.facts["degradations"]
    present = [name for name in sets if name in full["degradation"]]
    if CLEAN not in present or len(present) < 2:
        raise InputError(f"the sweep has finished runs of {', '.join(present) or 'no set'}; it needs {CLEAN!r} and another")
    metrics = [m for m in METRICS if np.isfinite(full[m.key]).all()]
    if not metrics:
        raise InputError(
            f"no metric is in every run ({', '.join(m.key for m in METRICS)}); logs without a truth cannot be judged"
        )
    clean = full["degradation"] == CLEAN
    examples = float(np.median(full["num_examples"][clean]))
    summary: dict[str, Any] = {
        "preset": study.facts.get("preset"),
        "level": LEVEL,
        "num_runs": len(study.runs["seed"]),
        "num_seeds": len(np.unique(full["seed"])),
        "num_params_dense": float(np.median(full["num_params_dense"])),
        "num_examples": examples,
        "degradations": {name: _about(sets[name]) for name in present},
        "metrics": {},
    }
    for metric in metrics:
        cells = Cells.of(np.ones(len(full["seed"])), full["degradation"], full["seed"], full[metric.key], scale=metric.scale)
        law = _data_law(study, metric, draws) if metric.sign < 0 else None
        summary["metrics"][metric.key] = {
            "name": metric.name,
            "unit": metric.unit,
            "clean": float(cells.means[0, cells.column(CLEAN)]) * metric.scale,
            "by_seed": {n: (cells.values[0, cells.column(n)] * metric.scale).tolist() for n in cells.compositions},
            "data_law": _law_json(law, examples) if law else None,
            "changes": {n: _change(cells, metric, n, law, examples) for n in cells.compositions if n != CLEAN},
            "families": _families(cells, metric, sets, law, examples, draws),
        }
    return summary


def _about(one: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: one[name] for name in ("family", "title", "counts", "wrong_label_rate") if name in one}
    for kind in ("click", "purchase"):
        if kind in one:
            found[kind] = {name: one[kind][name] for name in ("labels", "labels_per_request")}
            for name in ("precision", "recall"):
                found[kind][name] = {key: one[kind][name][key] for key in ("value", "low", "high", "level")}
    return found


def _data_law(study: LabelStudy, metric: Metric, draws: int) -> Bootstrap | None:
    """Fit the clean set's loss against examples; None where its shares are too few for a law."""
    runs = study.runs
    clean = (runs["degradation"] == CLEAN) & np.isfinite(runs[metric.key])
    if len(np.unique(runs["num_examples"][clean])) < 5:
        return None
    columns = (runs["num_examples"][clean].astype(float), runs[metric.key][clean])
    found = fit("power_floor", *columns, contract=Contract(metric=metric.key), labels=("num_examples",))
    return bootstrap(found, kind="residual", draws=draws)


def _law_json(law: Bootstrap, examples: float) -> dict[str, Any]:
    shares = {share: float(law.fit.predict(share * examples)[0]) for share in (0.5, 0.75)}
    return law.fit.to_json() | {"num_sizes": len(np.unique(law.fit.problem.axes)), "at_share": shares}


def _change(cells: Cells, metric: Metric, name: str, law: Bootstrap | None, examples: float) -> dict[str, Any]:
    """Return what a set changes against the clean one, and which share of the clean examples would give its loss."""
    weights = np.zeros(cells.means.shape)
    weights[0, cells.column(name)], weights[0, cells.column(CLEAN)] = 1, -1
    found = contrast(cells, f"{name} - {CLEAN}", weights, level=LEVEL)
    entry = found.to_json()
    if law is not None and found.standard_error is not None:
        drawn = found.value + found.standard_error * _student(cells.error[1], len(law.draws), seed=1)
        entry["equivalent"] = _finite(equivalent_examples(law, examples, found.value, drawn, level=LEVEL).to_json())
    return entry


def _families(
    cells: Cells, metric: Metric, sets: Mapping[str, Any], law: Bootstrap | None, examples: float, draws: int
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for family in FAMILIES:
        names = [CLEAN, *(n for n in cells.compositions if sets[n]["family"] == family)]
        if len(names) < 2 or any(sets[n]["click"]["precision"]["value"] is None for n in names):
            continue
        entry, per_point = slopes(cells, names, [sets[n]["click"]["precision"] for n in names], metric, draws)
        if law is not None and per_point is not None:
            ratio = equivalent_examples(law, examples, -entry["worth"]["value"], -per_point, level=LEVEL).to_json()
            entry["samples"] = _percent(_finite(ratio))
        found[family] = entry
    return found


def _finite(ratio: Mapping[str, Any]) -> dict[str, Any]:
    """Say as a missing value what JSON cannot: that no number of samples would do."""
    never = {} if np.isfinite(ratio["value"]) else {"value": None, "note": "no number of samples: under the law's floor"}
    return {**ratio, **never}


def _percent(ratio: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the ratio of examples that give a point's gain into percent of samples that a point is worth."""
    ends = {name: None if ratio[name] is None else 100 * (ratio[name] - 1) for name in ("value", "low", "high")}
    return dict(ratio) | ends | {"unit": "% of samples", "verdict": _verdict(ends["low"], ends["high"])}


def slopes(
    cells: Cells, names: Sequence[str], precision: Sequence[Mapping[str, Any]], metric: Metric, draws: int = 2000
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Fit a metric against the precision of some sets, the clean one first; return what a point of precision is worth.

    `worth` is the gain for one point more, positive where precision pays, by the line through all sets: where the line does not
    fit it is the mean over their span, and its interval is as wide as the lack of fit. With four sets or more a parabola then
    says what a point is worth `at_clean`. Also returned are draws (m,) of the worth, None without a second seed.
    """
    columns = [cells.column(name) for name in names]
    means, points = cells.means[0, columns] * cells.scale, np.array([one["value"] for one in precision]) * 100
    drawn = _precision_draws(precision, draws)
    lines, worth, per_point = _form(cells, means, points, drawn, 1, metric)
    entry = {"num_sets": len(names), "precision_from": float(points.min()), "precision_to": float(points.max())}
    entry |= {"lack_of_fit": lines, "line_rejected": lines is not None and lines < REJECTED, "worth": worth}
    entry["line"] = _curve(points, means, 1)
    if entry["line_rejected"] and len(names) > 3:
        entry["at_clean"], entry["parabola"] = _form(cells, means, points, drawn, 2, metric)[1], _curve(points, means, 2)
    return entry, per_point


def _form(
    cells: Cells, means: np.ndarray, points: np.ndarray, drawn: np.ndarray, degree: int, metric: Metric
) -> tuple[float | None, dict[str, Any], np.ndarray | None]:
    """Return the probability of a form's lack of fit, the slope at the clean set, and draws of it (m,).

    `means` and `points` (sets,) are in the metric's unit and in points, `drawn` (m, sets) draws of the points.
    """
    seeds, (variance, degrees) = len(cells.seeds), cells.error
    variance *= cells.scale**2
    design = _design(points, degree)
    residual = means - design @ np.linalg.lstsq(design, means, rcond=None)[0]
    spare, p_value = len(points) - degree - 1, None
    if spare > 0 and degrees and variance > 0:
        lack = seeds * float((residual**2).sum()) / spare
        p_value = float(fdtrc(spare, degrees, lack / variance))
        if p_value < REJECTED:
            variance, degrees = lack, spare
    value = metric.sign * float(_weights(points, degree) @ means)
    worth: dict[str, Any] = {"value": value, "low": None, "high": None, "level": LEVEL, "unit": metric.unit}
    slope = None
    if seeds > 1:
        weights = np.stack([_weights(one, degree) for one in drawn])
        noise = np.sqrt(variance / seeds * (weights**2).sum(axis=1)) * _student(degrees, len(drawn), seed=2)
        slope = metric.sign * (weights @ means + noise)
        worth["low"], worth["high"] = (float(q) for q in np.quantile(slope, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    worth |= {"num_runs": len(points) * seeds, "num_seeds": seeds, "verdict": _verdict(worth["low"], worth["high"])}
    return p_value, worth, slope


def _design(points: np.ndarray, degree: int) -> np.ndarray:
    """Powers of the distance to the clean set, the first, in points of precision."""
    return (points - points[0])[:, None] ** np.arange(degree + 1)


def _weights(points: np.ndarray, degree: int) -> np.ndarray:
    """What of each set's mean goes into the slope at the clean set."""
    return np.linalg.pinv(_design(points, degree))[1]


def _curve(points: np.ndarray, means: np.ndarray, degree: int) -> dict[str, list[float]]:
    along = np.linspace(points.min(), points.max(), 40)
    found = np.linalg.lstsq(_design(points, degree), means, rcond=None)[0]
    return {"precision": along.tolist(), "value": ((along - points[0])[:, None] ** np.arange(degree + 1) @ found).tolist()}


def _precision_draws(precision: Sequence[Mapping[str, Any]], draws: int) -> np.ndarray:
    """Draw precisions (draws, sets) with the covariance of their jackknife replicates, in points."""
    values = np.array([one["value"] for one in precision])
    replicates = np.array([one["replicates"] for one in precision])
    groups = replicates.shape[1]
    away = (replicates - replicates.mean(axis=1, keepdims=True)) * np.sqrt((groups - 1) / groups)
    return 100 * (values + np.random.default_rng(3).standard_normal((draws, groups)) @ away.T)


def _student(degrees: int, count: int, *, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(degrees, size=count)


def _verdict(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "unresolved (no interval)"
    return "resolved positive" if low > 0 else "resolved negative" if high < 0 else "unresolved"


def section(page: Page, folder: Path, figures: Path) -> dict[str, Any]:
    """Add the section to a page, its figure to `figures`; return its numbers. Raises InputError as `load` and `analyse`."""
    summary = analyse(load(folder))
    paths = style.save(figure.draw(summary), figures, "label_quality")
    label_text.write(page, summary, paths["svg"])
    return summary


def main(folder: tyro.conf.Positional[Path], /, out: Path = Path("label-quality")) -> None:
    """Write a page of what a right label is worth.

    Args:
        folder: folder in which sweeps/label_quality.py was run, with labels.json and sweep/.
        out: folder for the page, its figure and its numbers.
    """
    page = Page("What a right label is worth")
    summary = section(page, folder, out / "figures")
    print(page.write(out, {"summary.json": summary}))


if __name__ == "__main__":
    run_command("analysis.label_quality", lambda: tyro.cli(main))
