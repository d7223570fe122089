"""A study's results as the report reads them: one flat table of runs and one small JSON of facts about the whole.

The study folder holds `sweep/` (plan and records) and `study.json`. Columns of the table, a NumPy array each:

    fingerprint, study (grid, ablation, ...), size, composition, isolation             text
    fraction, seed, num_params_{dense,embedding,active}, num_examples, num_requests,
    train_flops, wall_seconds, learning_rate, hfa_dim, gfa_dim, every `eval/...` metric float64, NaN where a record has none

Keys of study.json, all optional: `preset`, `source` (marketplace or trivago), `domains`, `stationary` (whether the oracle's
loss is irreducible), `oracle` {log_loss, auc_roc}, `volumes` {composition: {requests, samples, positives}}, `wall_seconds`
{stage: seconds, total}, `machine`, `versions`, `columns` {column: dotted key of the record}, and for real logs `real`
{metrics {mrr, ndcg: metric keys}, floor {rule: {mrr, ndcg}}, num_requests}.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unisc.data.schema import COMPOSITIONS
from unisc.errors import InputError
from unisc.sweep.record import read_records

TEXT = ("fingerprint", "study", "size", "composition", "isolation")
NUMBERS = (
    "fraction",
    "seed",
    "num_params_dense",
    "num_params_embedding",
    "num_params_active",
    "num_examples",
    "num_requests",
    "train_flops",
    "wall_seconds",
    "learning_rate",
    "hfa_dim",
    "gfa_dim",
)
_REQUIRED = ("composition", "size", "num_params_dense", "seed")
ISOLATIONS = ("none", "dref", "dapga", "both")


@dataclass(frozen=True, slots=True)
class StudyResult:
    """Hold the run table, column by column (n,), the facts about the study, and the settings that all runs of the grid "
    "share."""

    runs: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_runs(self) -> int:
        return len(self.runs["fingerprint"])

    @property
    def metrics(self) -> list[str]:
        """Names of the metric columns, sorted."""
        return sorted(name for name in self.runs if name.startswith("eval/"))

    @property
    def compositions(self) -> list[str]:
        """Compositions present, in the order in which they build on each other."""
        present = list(dict.fromkeys(self.runs["composition"].tolist()))
        return [name for name in COMPOSITIONS if name in present] + [name for name in present if name not in COMPOSITIONS]

    def select(self, mask: np.ndarray) -> "StudyResult":
        """Return the study with the masked runs (n,) alone."""
        return StudyResult({name: column[mask] for name, column in self.runs.items()}, self.facts, self.settings)

    def grid(self) -> "StudyResult":
        """Return the runs of the size x data x composition grid."""
        return self.select(self.runs["study"] == "grid")

    def matched(self) -> "StudyResult":
        """Return the grid's runs at its largest data fraction."""
        grid = self.grid()
        fraction = grid.runs["fraction"]
        return grid.select(fraction >= fraction.max() - 1e-9) if len(fraction) else grid


def load(study_dir: Path) -> StudyResult:
    """Read a study folder; raises `InputError` where a part is missing or no run has finished."""
    facts_path = study_dir / "study.json"
    if not facts_path.is_file():
        raise InputError(f"{facts_path} is missing; give the folder in which a study was run")
    try:
        facts = json.loads(facts_path.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{facts_path} is not JSON (line {error.lineno}); run the study again to rewrite it") from None
    records = read_records(study_dir / "sweep")
    if not records:
        raise InputError(f"{study_dir / 'sweep'} has no finished run; run the study to its end first")
    return of_records(records, facts)


def of_records(records: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> StudyResult:
    """Arrange records as a run table; raises `InputError` naming a column that no record holds."""
    where = facts.get("columns", {})
    rows = [_row(record, where) for record in records]
    names = [*TEXT, *NUMBERS, *sorted({name for row in rows for name in row if name.startswith("eval/")})]
    for name in _REQUIRED:
        if all(row.get(name) is None for row in rows):
            raise InputError(f"no record holds {name!r}; name its place in study.json under columns.{name}")
    runs: dict[str, np.ndarray] = {}
    for name in names:
        values = [row.get(name) for row in rows]
        if name in TEXT:
            runs[name] = np.array(["" if value is None else str(value) for value in values])
        else:
            runs[name] = np.array([np.nan if value is None else float(value) for value in values])
    runs["study"] = np.where(runs["study"] == "", "grid", runs["study"])
    runs["isolation"] = np.where(runs["isolation"] == "", "both", runs["isolation"])
    runs["fraction"] = np.where(np.isnan(runs["fraction"]), 1.0, runs["fraction"])
    grid = [record for record, study in zip(records, runs["study"], strict=True) if study == "grid"]
    return StudyResult(runs, facts, _shared(grid))


def _shared(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the leaves of the configuration, by dotted key, in which all records agree."""
    rows = [dict(_walk(record.get("config", {}), "")) for record in records]
    return {key: value for key, value in rows[0].items() if all(row.get(key) == value for row in rows)} if rows else {}


def _row(record: Mapping[str, Any], where: Mapping[str, str]) -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    dotted = dict(_walk(record, ""))
    # A leaf's own name finds it unless study.json says where; counts win over configuration, which may hold plans.
    for section in ("counts.", "timing.", "config.", ""):
        for path, value in dotted.items():
            if path.startswith(section) and not path.startswith("metrics."):
                leaves.setdefault(path.rsplit(".", 1)[-1], value)
    row = {name: leaves.get(name) for name in (*TEXT, *NUMBERS)}
    row["fingerprint"] = record.get("fingerprint")
    if row["study"] is None and isinstance(record.get("label"), str) and "/" in record["label"]:
        row["study"] = record["label"].split("/", 1)[0]
    for name, path in where.items():
        if path not in dotted:
            raise InputError(f"study.json places {name} at {path!r}, which record {record.get('fingerprint')} lacks")
        row[name] = dotted[path]
    row |= {name: value for name, value in record.get("metrics", {}).items() if name.startswith("eval/")}
    return row


def _walk(value: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        name = f"{path}.{key}" if path else key
        if isinstance(inner, Mapping):
            yield from _walk(inner, name)
        else:
            yield name, inner
