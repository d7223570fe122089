"""Records as one flat table, `runs.parquet`: a row a run, a column a dotted key."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unisc.files import explained


def flatten(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with nested keys joined by dots (`config.model.embed_dim`); lists become JSON text."""
    flat: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(inner, f"{path}.{key}" if path else key)
        else:
            flat[path] = json.dumps(value) if isinstance(value, list) else value

    walk(record, "")
    return flat


def table(records: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return records as a table, columns sorted by name, null where a record lacks one.

    A column holding whole and fractional numbers is float64; one holding numbers and text is text.
    """
    rows = [flatten(record) for record in records]
    columns = {}
    for name in sorted({name for row in rows for name in row}):
        values = [row.get(name) for row in rows]
        kinds = {type(v) for v in values} - {type(None)}
        if kinds == {int, float}:
            values = [None if v is None else float(v) for v in values]
        elif len(kinds) > 1:
            values = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
        elif kinds == {int} and any(v is not None and not -(2**63) <= v < 2**63 for v in values):
            values = [None if v is None else float(v) for v in values]  # more FLOPs than an int64 counts
        columns[name] = pa.array(values)
    return pa.table(columns)


def write_table(records: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Write records to a Parquet file that readers see whole or not at all; return the path."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with explained(path):
        try:
            pq.write_table(table(records), temporary, compression="zstd")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return path
