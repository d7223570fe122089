"""The report on a samples directory: whether to trust it, what each expansion added, and what its files hold."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_gen.es3 import curves, faults
from data_gen.es3.attribution import REASONS
from data_gen.es3.facts import write_facts
from data_gen.es3.label_sections import QUERY_LEVELS
from data_gen.es3.sections import compose
from data_gen.es3.sql import connect
from data_gen.es3.verdicts import judge
from unisc.data import manifest
from unisc.data.schema import COMPOSITIONS
from unisc.errors import InputError

_FATES = ("events", *REASONS)


def report(directory: Path, out: Path | None = None, *, logs: Path | None = None) -> tuple[Path, dict[str, Any]]:
    """Write the report that fits a directory, samples or logs by its manifest; return its folder and its numbers.

    Raises:
      InputError: as `write_report` and `write_facts`.
    """
    path = directory / manifest.NAME
    if not path.is_file():
        raise InputError(f"{directory}: no {manifest.NAME}; give a directory of samples, or of logs in their common form")
    try:
        kind = json.loads(path.read_text()).get("kind")
    except (ValueError, AttributeError) as e:
        raise InputError(f"{path}: not a manifest ({e}); make the directory again") from e
    where = out or directory.absolute().with_name(directory.absolute().name + ".report")
    if kind in ("logs", "events"):
        return where, write_facts(directory, where)
    return where, write_report(directory, where, logs=logs)


def write_report(samples: Path, out: Path | None = None, *, logs: Path | None = None) -> dict[str, Any]:
    """Write `index.html` and `quality.json` about a samples directory into `out` (default: `<samples>.report` beside it).

    Returns:
      what quality.json holds, see `examine`.

    Raises:
      InputError: as `examine`, and a folder that cannot be written.
    """
    samples = samples.absolute()
    about, numbers = examine(samples, logs=logs)
    compose(about, numbers).write(out or samples.with_name(samples.name + ".report"), {"quality.json": numbers})
    return numbers


def examine(samples: Path, *, logs: Path | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a samples directory's manifest and the numbers of its report.

    `logs`, the directory the samples were made from, allows labels and features to be looked up there. The numbers are
    `verdicts` (check, number, rule, verdict), `build` (the manifest's own counts), `measured` (`curves.measure`) and `faults`
    (`faults.measure`, with `logs` from `measure_against`).

    Raises:
      InputError: no finished list-wise samples of a build there, files that cannot be read, other logs.
    """
    about = in_order(manifest.read(samples, kind="samples"))
    if about["composition"] not in COMPOSITIONS:
        raise InputError(
            f"{samples}: {about['composition']} samples, which no build made; the manifest says what there is of them"
        )
    with connect(samples) as db:
        view = curves.Samples(db, samples)
        measured = curves.measure(view, about)
        found = faults.measure(view, about)
        if logs is not None:
            found["logs"] = faults.measure_against(view, about, logs)
    return about, {
        "samples": about["fingerprint"],
        "composition": about["composition"],
        "verdicts": judge(about, measured, found),
        "build": about.get("quality", {}),
        "measured": measured,
        "faults": found,
    }


def in_order(about: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest with its quality in the order of stages, levels and fates, which JSON with sorted keys has lost."""
    quality = dict(about.get("quality", {}))
    for section in ("volumes", "volume_ratios"):
        if section in quality:
            quality[section] = _sorted(quality[section], COMPOSITIONS)
    if "attribution" in quality:
        quality["attribution"] = {kind: _sorted(row, _FATES) for kind, row in quality["attribution"].items()}
    if "attribution_by_domain" in quality:
        quality["attribution_by_domain"] = {
            kind: {domain: _sorted(row, _FATES) for domain, row in _sorted(rows, about["domains"]).items()}
            for kind, rows in quality["attribution_by_domain"].items()
        }
    if "searchification" in quality:
        pseudo = _sorted(quality["searchification"], ("clicks", "searchified"))
        pseudo["query_level"] = _sorted(pseudo.get("query_level", {}), QUERY_LEVELS)
        quality["searchification"] = pseudo
    return about | {"quality": quality}


def _sorted(row: dict[str, Any], first: Sequence[str]) -> dict[str, Any]:
    return {name: row[name] for name in (*(n for n in first if n in row), *(n for n in row if n not in first))}
