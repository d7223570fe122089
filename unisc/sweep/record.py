"""What a run leaves behind: its status while it runs and its record when it is done.

`runs/<fingerprint>/` holds `config.json` (what it is), `status.json` (how it goes), `log.txt` (what it printed), `work/`
(the run's own) and, once done, `record.json`. A record appears whole or not at all and is never replaced.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from unisc.errors import InputError
from unisc.files import dumps, explained, read_object, replace_quickly, write_once
from unisc.sweep.plan import SCHEMA, Run, check_description, read_plan, run_folder

State = Literal["pending", "running", "done", "failed"]
RESERVED = ("schema", "fingerprint", "experiment", "version", "label", "cost", "compile_key", "config")
"""Sections of a record that the sweep writes; a run may add to `timing` and `environment` and owns every other name."""


def sections_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's result as plain JSON values, NumPy scalars included.

    Raises:
      ValueError: no `metrics`, a reserved section, or a value that JSON cannot hold; names the key.
    """
    if not isinstance(result, Mapping) or not isinstance(result.get("metrics"), Mapping):
        raise ValueError('run() must return a mapping with "metrics"')
    for name in RESERVED:
        if name in result:
            raise ValueError(f"run() must not return the section {name!r}, which the sweep writes")
    return _plain(result, "")


def _plain(value: Any, path: str) -> Any:
    if isinstance(value, Mapping):
        if not all(isinstance(k, str) for k in value):
            raise ValueError(f"{path or 'the result'}: keys must be strings")
        return {k: _plain(v, f"{path}.{k}" if path else k) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{path}[{i}]") for i, v in enumerate(value)]
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{path}: {value} is not a finite number; return None where a metric is undefined")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"{path}: a {type(value).__name__} cannot be recorded; return numbers, strings, lists and mappings")


def write_record(sweep_dir: Path, run: Run, sections: Mapping[str, Any]) -> bool:
    """Write a finished run's record unless there is one already; return whether this call wrote it.

    Raises:
      InputError: a full disk or an unwritable folder.
    """
    record = {**sections, **run.description, "label": run.label, "cost": run.cost, "compile_key": run.compile_key}
    return write_once(run_folder(sweep_dir, run.fingerprint) / "record.json", dumps(record))


def read_record(sweep_dir: Path, fingerprint: str) -> dict[str, Any] | None:
    """Return a run's record; None where there is none or only a part of one.

    Raises:
      InputError: a whole record of another schema or of another run.
    """
    path = run_folder(sweep_dir, fingerprint) / "record.json"
    record = read_object(path)
    if record is None:
        return None
    if record.get("schema") != SCHEMA or record.get("fingerprint") != fingerprint:
        raise InputError(
            f"{path}: schema {record.get('schema')!r}, run {record.get('fingerprint')!r}, where schema {SCHEMA} and its own "
            f"folder's name are needed; move {path.parent} aside and run the sweep again"
        )
    return record if isinstance(record.get("metrics"), dict) else None


def read_records(sweep_dir: Path) -> list[dict[str, Any]]:
    """Return the records of the plan's finished runs, in plan order; runs outside the plan are left out.

    Raises:
      InputError: no plan, or a run folder or record that another version has written.
    """
    records = []
    for run in read_plan(Path(sweep_dir)):
        check_description(run_folder(Path(sweep_dir), run.fingerprint), run)
        record = read_record(Path(sweep_dir), run.fingerprint)
        if record is not None:
            records.append(record)
    return records


def quarantine_broken(sweep_dir: Path, fingerprint: str) -> Path | None:
    """Set a half-written record aside as `record.json.broken-<n>` and return its new path; None where there is none.

    Only the holder of the run's lease may call this.
    """
    path = run_folder(sweep_dir, fingerprint) / "record.json"
    if not path.exists() or read_record(sweep_dir, fingerprint) is not None:
        return None
    taken = len(list(path.parent.glob("record.json.broken-*")))
    aside = path.with_name(f"record.json.broken-{taken + 1}")
    with explained(aside):
        return path.rename(aside)


def write_status(sweep_dir: Path, fingerprint: str, state: State, **fields: Any) -> None:
    """Replace a run's status: `failures` so far, `error`, `frac_done`, `started_at` (unix seconds), as the state needs."""
    status = {"schema": SCHEMA, "state": state, **fields}
    replace_quickly(run_folder(sweep_dir, fingerprint) / "status.json", dumps(status))


def read_status(sweep_dir: Path, fingerprint: str) -> dict[str, Any]:
    """Return a run's last status; a missing, broken or foreign one reads as pending, since only the record counts."""
    found = read_object(run_folder(sweep_dir, fingerprint) / "status.json")
    if found is None or found.get("schema") != SCHEMA or found.get("state") not in get_args(State):
        found = {"state": "pending"}
    return {"failures": 0, "error": None, "frac_done": 0.0, "started_at": None, **found}
