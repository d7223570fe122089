"""Anybody's run table: CSV, Parquet or JSON lines as named columns of numbers, and one clear line for what is wrong with it."""

import difflib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from unisc.errors import InputError

MAX_GAP = 1e5
"""A jump between neighbouring values of a size that is this large means two units in one column."""


@dataclass(frozen=True, slots=True)
class RunTable:
    """A table with a row a run, as read; rows keep their numbers in the file, counted from 0."""

    source: str
    table: pa.Table
    rows: np.ndarray

    @property
    def num_runs(self) -> int:
        return self.table.num_rows

    def numbers(self, name: str) -> np.ndarray:
        """Return a column (n,) as float64.

        Raises:
          InputError: no such column, or a row that holds no finite number, by its text.
        """
        column = self._column(name)
        if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_decimal(column.type)):
            column = self._parsed(name, column)
        values = column.cast(pa.float64(), safe=False).to_numpy()
        if (bad := np.flatnonzero(~np.isfinite(values))).size:
            raise InputError(f"{self.source}: {name} has no finite number in row {self.rows[bad[0]]}; drop or mend that run")
        return values

    def words(self, name: str) -> np.ndarray:
        """Return a column (n,) as text, such as one of cluster names; a missing value is empty."""
        return np.array([("" if v is None else str(v)) for v in self._column(name).to_pylist()], dtype=object)

    def where(self, name: str, value: str) -> "RunTable":
        """Keep the rows whose column reads like `value`, as text or as a number."""
        words = self.words(name)
        keep = np.array([word == value or _equal(word, value) for word in words], bool)
        if not keep.any():
            known = list(dict.fromkeys(words.tolist()))
            raise InputError(f"{self.source}: no row has {name}={value}; it holds {', '.join(map(repr, known[:6]))}")
        return self.take(keep)

    def take(self, keep: np.ndarray) -> "RunTable":
        """Keep the rows (n,) that are marked."""
        return RunTable(self.source, self.table.filter(pa.array(keep)), self.rows[keep])

    def _column(self, name: str) -> pa.ChunkedArray:
        names = self.table.column_names
        if name not in names:
            near = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=1, cutoff=0.4)
            meant = next((n for n in names if near and n.lower() == near[0]), None)
            hint = f"did you mean {meant!r}?" if meant else f"it has {', '.join(map(repr, names[:12]))}"
            raise InputError(f"{self.source}: no column {name!r}; {hint}")
        if names.count(name) > 1:
            raise InputError(f"{self.source}: two columns are called {name!r}; rename one")
        return self.table[name]

    def _parsed(self, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
        if pa.types.is_boolean(column.type):
            return column.cast(pa.int8())
        for row, word in enumerate(column.to_pylist()):
            try:
                float(word) if word is not None else None
            except (TypeError, ValueError):
                raise InputError(
                    f"{self.source}: {name} holds {word!r} in row {self.rows[row]}; write plain numbers, such as 7e9"
                ) from None
        return pc.cast(column, pa.float64())


def read_table(path: Path | str) -> RunTable:
    """Read a run table; the kind of file is told by its ending.

    Raises:
      InputError: no such file, an unknown ending, an unreadable file, or no rows.
    """
    path = Path(path)
    readers = {".csv": _csv, ".tsv": _csv, ".parquet": pa.parquet.read_table, ".jsonl": _lines, ".ndjson": _lines}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: unknown kind of table; give .csv, .tsv, .parquet or .jsonl")
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a run table")
    try:
        table = reader(path)
    except (pa.ArrowInvalid, pa.ArrowKeyError, UnicodeDecodeError, json.JSONDecodeError) as e:
        raise InputError(f"{path}: not readable as {path.suffix[1:]} ({str(e).splitlines()[0]}); mend or convert it") from None
    if not table.num_rows:
        raise InputError(f"{path}: the table has no rows; give at least one run")
    return RunTable(str(path), table, np.arange(table.num_rows))


def refuse_mixed_units(table: RunTable, name: str, values: np.ndarray) -> None:
    """Raise InputError where a size's values (n,) fall into groups so far apart that they must be in two units."""
    ordered = np.unique(values[values > 0])
    gaps = ordered[1:] / ordered[:-1]
    if len(gaps) and gaps.max() >= MAX_GAP:
        place = int(np.argmax(gaps))
        raise InputError(
            f"{table.source}: {name} jumps from {ordered[place]:g} to {ordered[place + 1]:g}; give all runs in one unit"
        )


def refuse_duplicates(table: RunTable) -> None:
    """Raise InputError where two rows are the same in every column."""
    seen: dict[str, int] = {}
    for row, values in zip(
        table.rows, zip(*(table.table[n].to_pylist() for n in table.table.column_names), strict=True), strict=True
    ):
        key = repr(values)
        if key in seen:
            raise InputError(f"{table.source}: rows {seen[key]} and {row} are the same run; drop one")
        seen[key] = int(row)


def _csv(path: Path) -> pa.Table:
    options = pa.csv.ParseOptions(delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    return pa.csv.read_csv(path, parse_options=options)


def _lines(path: Path) -> pa.Table:
    return pa.json.read_json(path)


def _equal(word: str, value: str) -> bool:
    try:
        return float(word) == float(value)
    except ValueError:
        return False
