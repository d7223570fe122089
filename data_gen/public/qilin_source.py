"""Reads Qilin's requests, CSV or Parquet, into flat lists and entries (see `qilin` for what they mean)."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_gen.public import delimited
from unisc.errors import InputError

_LONGEST_CELL = 1 << 24
_EARLIEST, _LATEST = 946_684_800, 4_102_444_800
_ACTIONS = ("like", "collect", "comment", "share")


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """One kind of request: its columns, and the unit of its entries' times."""

    domain: str
    key: str
    details: str
    time: str
    per_second: int
    columns: pa.Schema


@dataclass(kw_only=True, slots=True)
class Requests:
    """Requests and their entries in columns, and what was dropped, by reason. Times of entries are in milliseconds."""

    lists: dict[str, list[Any]] = field(
        default_factory=lambda: {c: [] for c in ("user", "ts", "domain", "query", "scene", "test")}
    )
    entries: dict[str, list[Any]] = field(default_factory=lambda: {c: [] for c in ("list", "item", "position", "ms", "click")})
    rows: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, Counter[str]] = field(default_factory=dict)
    num_entries: Counter[str] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)
    num_long: int = 0
    seen: set[tuple[str, int]] = field(default_factory=set)

    def add(self, files: list[Path], form: Form, name: str, *, test: bool) -> None:
        """Add the requests of some files, counted under `name`. Raises InputError for a file or cell that cannot be read."""
        dropped = self.dropped.setdefault(name, Counter())
        for file in files:
            for number, row in _rows(file, form.columns):
                self.rows[name] += 1
                key = (form.domain, row[form.key])
                if key in self.seen:
                    dropped[f"repeats a {form.key}"] += 1
                    continue
                self.seen.add(key)
                if not self._add_entries(
                    parse_entries(row[form.details], f"{file}: column {form.details} in row {number}"), form
                ):
                    dropped["no usable entry"] += 1
                    continue
                scene = row.get("query_from_type")
                values = (
                    row["user_idx"],
                    form.domain,
                    row.get("query") or None,
                    int(scene) if scene and 0 < scene < 2**31 else None,
                    test,
                )
                for column, value in zip(("user", "domain", "query", "scene", "test"), values, strict=True):
                    self.lists[column].append(value)

    def _add_entries(self, entries: list[dict[str, Any]], form: Form) -> bool:
        """Append a request's entries in the order they were shown, and its time; False if none can be used."""
        self.num_entries[form.domain] += len(entries)
        dropped = self.dropped.setdefault(f"{form.domain} entries", Counter())
        usable = []
        for entry in entries:
            item, time, position = (_whole(entry.get(name)) for name in ("note_idx", form.time, "position"))
            if item is None or item < 0 or time is None or not _EARLIEST <= time // form.per_second < _LATEST:
                dropped["no note_idx or no time of this century"] += 1
                continue
            slot = position - 1 if position is not None and 1 <= position < 2**15 else None
            usable.append(
                (time * 1000 // form.per_second, slot if slot is not None else 2**15, item, slot, _positive(entry, "click"))
            )
            self.actions.update(name for name in _ACTIONS if _positive(entry, name))
        if not usable:
            return False
        usable.sort(key=lambda e: e[:2])
        first, last = usable[0][0], usable[-1][0]
        self.num_long += last - first > 3_600_000
        place, taken = len(self.lists["ts"]), set()
        self.lists["ts"].append(first // 1000)
        for ms, _, item, slot, click in usable:
            dropped["repeats a note of its list"] += item in taken
            taken.add(item)
            for column, value in zip(self.entries, (place, item, slot, ms, click), strict=True):
                self.entries[column].append(value)
        return True


def parse_entries(cell: Any, where: str) -> list[dict[str, Any]]:
    """Return the results of one request, from Parquet's own lists or from the text that NumPy makes of them.

    That text has no commas between the dictionaries, single quotes and bare nan: `[{'click': 1.0, 'page_time': nan}\\n {...}]`.
    It is turned into JSON, never evaluated. Raises InputError, beginning with `where`.
    """
    if isinstance(cell, str):
        if len(cell) > _LONGEST_CELL:
            raise InputError(f"{where} has {len(cell)} characters, more than any list of results; correct or remove this row")
        text = re.sub(r"\}\s*,?\s*\{", "},{", cell.replace("'", '"'))
        try:
            cell = json.loads(re.sub(r":\s*(?:nan|None)\b", ": null", text))
        except (ValueError, RecursionError):
            cell = None
    if not isinstance(cell, list) or not all(isinstance(entry, dict) for entry in cell):
        raise InputError(f"{where} is no list of results; correct or remove this row")
    return cell


def _rows(file: Path, columns: pa.Schema) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with their numbers, as `delimited` counts them; in Parquet from 1."""
    if file.suffix == ".parquet":
        table, first = read_parquet(file, columns), 1
    else:
        source = delimited.read(file, columns)
        table, first = source.table, source.first_row
    for batch in table.to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            yield first, row
            first += 1


def read_parquet(file: Path, columns: pa.Schema) -> pa.Table:
    """Read some columns of a Parquet file, cast to their declared types but for lists. Raises InputError."""
    try:
        found = pq.read_schema(file)
        if missing := [name for name in columns.names if name not in found.names]:
            raise InputError(f"{file}: column {missing[0]} is missing; give it as {columns.field(missing[0]).type}")
        table = pq.read_table(file, columns=columns.names)
        plain = {f.name: table[f.name] for f in columns}
        cast = [c if pa.types.is_list(c.type) else c.cast(columns.field(name).type) for name, c in plain.items()]
        table = pa.table(cast, names=columns.names)
    except (pa.ArrowException, OSError) as e:
        raise InputError(f"{file}: cannot be read ({' '.join(str(e).split())[:120]}); fetch the file again") from e
    for f in columns:
        if not f.nullable and table[f.name].null_count:
            raise InputError(f"{file}: column {f.name} has {table[f.name].null_count} null(s); remove these rows")
    return table


def _whole(value: Any) -> int | None:
    whole = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53 and value == int(value)
    return int(value) if whole else None


def _positive(entry: dict[str, Any], name: str) -> bool:
    value = entry.get(name)
    return isinstance(value, int | float) and value > 0
