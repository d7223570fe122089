"""Delimited text files of a user's folder as Arrow tables; what cannot be used is named by file, column and row."""

import csv
import gzip
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from unisc.errors import InputError

_BLOCK = 1 << 26
"""Bytes parsed at a time; no row may be longer."""
_EARLIEST, _LATEST = 946_684_800, 4_102_444_800
"""Years 2000 and 2100 in unix seconds: a time outside them is in another unit, or no time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One file's columns; `first_row` is the number of its first data row, counting every row of the file from 1."""

    file: Path
    table: pa.Table
    first_row: int

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        return self.table[name]

    def refuse_empty(self) -> None:
        """Raise InputError if there is no data row."""
        if not len(self.table):
            raise InputError(f"{self.file}: has a header and no rows; fetch the file again")

    def fail(self, name: str, bad: pa.ChunkedArray | np.ndarray, why: str) -> NoReturn:
        """Raise InputError for the first row where `bad` is true."""
        place = int(np.flatnonzero(np.asarray(bad))[0])
        value = str(self.table[name][place].as_py())[:60]
        words = f"column {name} holds {value!r} in row {place + self.first_row}, {why}"
        raise InputError(f"{self.file}: {' '.join(words.split())}; correct or remove this row")

    def seconds(self, name: str, *, per_second: int) -> np.ndarray:
        """Return a time column in whole unix seconds, rounded down; `per_second` is its unit (1000 for milliseconds)."""
        values = self.table[name].to_numpy() / per_second
        bad = ~((values >= _EARLIEST) & (values < _LATEST))
        if bad.any():
            unit = {1: "seconds", 1000: "milliseconds"}[per_second]
            self.fail(name, bad, f"not a time of this century in {unit} since 1970")
        return np.floor(values).astype(np.int64)

    def beijing_days(self, name: str) -> pa.ChunkedArray:
        """Return days ("2023-04-22", a time behind is ignored) as unix seconds of their start in Beijing; 0 where padding."""
        days = pc.list_element(pc.split_pattern(pc.fill_null(self.table[name], "1970-1-1"), " ", max_splits=1), 0)
        parsed = pc.strptime(days, format="%Y-%m-%d", unit="s", error_is_null=True)
        if parsed.null_count:
            self.fail(name, pc.is_null(parsed), "not a day like 2023-04-22")
        return pc.max_element_wise(pc.subtract(parsed.cast(pa.int64()), 8 * 3600), 0)

    def numbers(self, name: str) -> pa.ChunkedArray:
        """Return a column of numbers joined by commas ("12,65") as lists, null where it is null."""
        column = self.table[name]
        good = pc.fill_null(pc.match_substring_regex(column, r"^-?\d{1,9}(,-?\d{1,9})*$"), True)
        if not pc.all(good, min_count=0).as_py():
            self.fail(name, pc.invert(good), "not numbers joined by commas")
        return pc.split_pattern(column, ",").cast(pa.list_(pa.int32()))

    def words(self, name: str) -> pa.ChunkedArray:
        """Return a column of bracketed numbers ("[20, 34, 3]") as text ("20 34 3"), null where it is null or empty."""
        column = self.table[name]
        good = pc.fill_null(pc.match_substring_regex(column, r"^\s*\[[-0-9,.\s]*\]\s*$"), True)
        if not pc.all(good, min_count=0).as_py():
            self.fail(name, pc.invert(good), "not a bracketed list of numbers")
        text = pc.utf8_trim_whitespace(pc.replace_substring_regex(column, r"[^-0-9.]+", " "))
        return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def needed(name: str, dtype: pa.DataType) -> pa.Field:
    """A column that no row may leave empty."""
    return pa.field(name, dtype, nullable=False)


def find(folder: Path, *patterns: str, needed: bool = True) -> list[Path]:
    """Files of a folder that match a pattern, plain or gzip-compressed, by name.

    Raises:
      InputError: none there although `needed`, or one that lies there both plain and compressed.
    """
    found = sorted({p for pattern in patterns for end in ("", ".gz") for p in folder.glob(pattern + end) if p.is_file()})
    for file in found:
        if file.suffix == ".gz" and file.with_suffix("") in found:
            raise InputError(f"{file}: lies beside its uncompressed form, and would count twice; remove one of them")
    if needed and not found:
        raise InputError(f"{folder / patterns[0]}: not found; give the folder that holds this file, plain or as .gz")
    return found


def read(
    file: Path, schema: pa.Schema, *, delimiter: str = ",", quoted: bool = True, names: Sequence[str] | None = None
) -> Source:
    """Read the columns of `schema` from a file, plain or gzip-compressed by its name.

    A field declared not nullable may not be empty; "", "nan", "NaN" and "null" are empty. `names` are the column names of a
    file without a header row.

    Raises:
      InputError: a file that is empty, truncated or not UTF-8, a column missing or there twice, a row of another length, a
        value that does not convert, an empty one where none may be.
    """
    header = list(names) if names is not None else first_row(file, delimiter=delimiter, quoted=quoted)
    for name in schema.names:
        if header.count(name) != 1:
            what = "is missing" if name not in header else "is there more than once"
            raise InputError(f"{file}: column {name} {what}; give it once, as {schema.field(name).type}")
    try:
        table = pa.csv.read_csv(
            file,
            # One thread, since only then do errors know their row.
            read_options=pa.csv.ReadOptions(use_threads=False, block_size=_BLOCK, column_names=names),
            parse_options=pa.csv.ParseOptions(
                delimiter=delimiter, quote_char='"' if quoted else False, newlines_in_values=quoted
            ),
            convert_options=pa.csv.ConvertOptions(
                include_columns=schema.names,
                column_types=dict(zip(schema.names, schema.types, strict=True)),
                null_values=["", "nan", "NaN", "null"],
                strings_can_be_null=True,
            ),
        )
    except (pa.ArrowException, OSError) as e:
        raise InputError(f"{file}: {_in_words(str(e), header)}; correct this row or fetch the file again") from e
    source = Source(file=file, table=table, first_row=1 if names is not None else 2)
    for field in schema:
        if not field.nullable and table[field.name].null_count:
            source.fail(field.name, pc.is_null(table[field.name]), "but every row needs a value there")
    return source


def first_row(file: Path, *, delimiter: str = ",", quoted: bool = True) -> list[str]:
    """Return the first row of a delimited file. Raises InputError for one that is empty or cannot be read."""
    opened = gzip.open if file.suffix == ".gz" else open
    try:
        with opened(file, "rt", encoding="utf-8-sig", errors="replace", newline="") as lines:
            if quoted:
                row = next(csv.reader(lines, delimiter=delimiter), [])
            else:
                line = lines.readline().rstrip("\r\n")
                row = line.split(delimiter) if line else []
    except (OSError, EOFError, zlib.error, csv.Error) as e:
        raise InputError(f"{file}: cannot be read ({' '.join(str(e).split())[:100]}); fetch the file again") from e
    if not row:
        raise InputError(f"{file}: is empty; fetch the file again")
    return row


def _in_words(message: str, header: Sequence[str]) -> str:
    """Put Arrow's message about a file into words: columns by name, one line, of bounded length."""
    if place := re.search(r"In CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to ([^:]*): (.*)", message, re.DOTALL):
        row = f" in row {place[2]}" if place[2] else ""
        message = f"column {header[int(place[1])]} has {place[4]}{row}, not {place[3]}"
    else:
        message = re.sub(
            r"^CSV parse error: Row #(\d+): Expected (\d+) columns, got (\d+).*", r"row \1 has \3 values, not \2", message
        )
    return " ".join(message.split())[:200]
