"""What a run leaves behind: its status while it runs and its record when it is done.

`runs/<fingerprint>/` holds `config.json` (what it is), `status.json` (how it goes), `log.txt` (what it printed), `work/`
(the run's own) and, once done, `record.json`. A record appears whole or not at all and is never replaced; it begins with the
sha256 of the rest, so that what a power cut or a failing disk has left of one is told from a record, whatever is missing.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from unisc.errors import InputError
from unisc.files import dumps, object_in
from unisc.sweep.budget import secs_of
from unisc.sweep.plan import SCHEMA as PLAN_SCHEMA
from unisc.sweep.plan import Run, check_description, other_schema, read_plan, run_store
from unisc.sweep.store import Store, store_of

SCHEMA = 2
"""Version of a record; 1 had no checksum and is still read."""
State = Literal["pending", "running", "done", "failed"]
RESERVED = ("checksum", "schema", "secs", "fingerprint", "experiment", "version", "label", "cost", "compile_key", "config")
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


def write_record(where: Store | Path, run: Run, sections: Mapping[str, Any]) -> bool:
    """Write a finished run's record unless there is one already; return whether this call wrote it.

    Raises:
      InputError: a full disk or an unwritable folder.
    """
    facts = {"label": run.label, "cost": run.cost, "compile_key": run.compile_key}
    return run_store(where, run.fingerprint).create("record.json", seal({**sections, **run.description, **facts}))


def read_record(where: Store | Path, fingerprint: str) -> dict[str, Any] | None:
    """Return a run's record; None where there is none or only a part of one.

    Raises:
      InputError: a whole record of another schema or of another run.
    """
    store = run_store(where, fingerprint)
    return parse_record(store.read("record.json"), store, fingerprint)


def seal(record: Mapping[str, Any]) -> str:
    """Return a record as one line of JSON that begins with the checksum of the rest, the schema and the seconds it took."""
    rest = dumps({key: value for key, value in record.items() if key not in ("schema", "secs")})
    body = f"{_FACTS.decode()}{json.dumps(secs_of(record))},{rest[1:]}"
    return f'{_HEAD.decode()}{hashlib.sha256(body.encode()).hexdigest()}",{body}'


_HEAD = b'{"checksum":"'
_FACTS = f'"schema":{SCHEMA},"secs":'.encode()
_START = len(_HEAD) + 64


def _is_whole(text: bytes) -> bool:
    if not text.startswith(_HEAD) or text[_START : _START + 2] != b'",':
        return False
    return hashlib.sha256(text[_START + 2 :]).hexdigest().encode() == text[len(_HEAD) : _START]


def parse_secs(text: bytes | None, store: Store, fingerprint: str) -> float | None:
    """Return the seconds that a record says its run took, None for no record; cheaper than `parse_record`."""
    if text is None:
        return None
    body = text[_START + 2 :]
    if _is_whole(text) and body.startswith(_FACTS) and f'"fingerprint":"{fingerprint}"'.encode() in body:
        return float(body[len(_FACTS) : body.index(b",", len(_FACTS))])
    record = parse_record(text, store, fingerprint)
    return None if record is None else secs_of(record)


def parse_record(text: bytes | None, store: Store, fingerprint: str) -> dict[str, Any] | None:
    """Return the record that a text is, `store` being its run's; None for none and for every part of one."""
    record = object_in(text)
    if text is None or record is None:
        return None
    schema, path = record.get("schema"), store.show("record.json")
    if isinstance(schema, int) and schema > SCHEMA:
        raise InputError(f"{path}: {other_schema(schema, SCHEMA)}")
    if not _is_whole(text) and (schema != 1 or "checksum" in record):
        return None
    if schema not in (1, SCHEMA) or record.get("fingerprint") != fingerprint:
        raise InputError(
            f"{path}: schema {schema!r}, run {record.get('fingerprint')!r}, where schema {SCHEMA} and its own folder's name are "
            f"needed; move {store.show()} aside and run the sweep again"
        )
    return record if isinstance(record.get("metrics"), dict) else None


def read_records(where: Store | Path) -> list[dict[str, Any]]:
    """Return the records of the plan's finished runs, in plan order; runs outside the plan are left out.

    Raises:
      InputError: no plan, or a run folder or record that another version has written.
    """
    store, records = store_of(where), []
    for run in read_plan(store):
        check_description(store, run.fingerprint, run)
        record = read_record(store, run.fingerprint)
        if record is not None:
            records.append(record)
    return records


def quarantine_broken(where: Store | Path, fingerprint: str) -> str | None:
    """Set a half-written record aside as `record.json.broken-<n>` and return its address; None where there is none.

    Only the holder of the run's lease may call this.
    """
    store = run_store(where, fingerprint)
    text = store.read("record.json")
    if text is None or parse_record(text, store, fingerprint) is not None:
        return None
    number = 1 + sum(name.startswith("record.json.broken-") for name in store.names())
    name = f"record.json.broken-{number}"
    store.replace(name, text.decode(errors="replace"))
    store.remove("record.json")
    return store.show(name)


def write_status(where: Store | Path, fingerprint: str, state: State, **fields: Any) -> None:
    """Replace a run's status: `failures`, `takeovers`, `error` and `tail` so far, `frac_done`, `started_at` (unix seconds)."""
    status = {"schema": PLAN_SCHEMA, "state": state, **fields}
    run_store(where, fingerprint).replace("status.json", dumps(status))


def read_status(where: Store | Path, fingerprint: str) -> dict[str, Any]:
    """Return a run's last status; a missing, broken or foreign one reads as pending, since only the record counts."""
    return parse_status(run_store(where, fingerprint).read("status.json"))


def parse_status(text: bytes | None) -> dict[str, Any]:
    """Return the status that a text is, all its fields there."""
    found = object_in(text)
    if found is None or found.get("schema") != PLAN_SCHEMA or found.get("state") not in get_args(State):
        found = {"state": "pending"}
    empty = {"failures": 0, "takeovers": 0, "error": None, "tail": [], "frac_done": 0.0, "started_at": None}
    return {**empty, **found}


def forgive(where: Store | Path, runs: Sequence[Run]) -> list[Run]:
    """Give runs that have failed their attempts anew, their cause may have been mended; return those runs."""
    store = store_of(where)
    present = set(store.names("runs"))
    begun = [run for run in runs if run.fingerprint in present]
    found = []
    for run, text in zip(begun, store.read_many([f"runs/{run.fingerprint}/status.json" for run in begun]), strict=True):
        status = parse_status(text)
        if status["state"] in ("failed", "pending") and (status["failures"] or status["takeovers"]):
            write_status(store, run.fingerprint, "pending")
            found.append(run)
    return found
