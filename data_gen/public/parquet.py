"""Parquet files of a user's folder as Arrow tables; what cannot be used is named by file, column and row (counted from 1)."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_gen.public.delimited import Source
from unisc.errors import InputError

_EARLIEST, _LATEST = 946_684_800, 4_102_444_800


def read(file: Path, schema: pa.Schema) -> Source:
    """Read the columns of `schema` from a Parquet file and bring them to its types; no value may change by that.

    Numbers become numbers, text text, times times, lists lists, of any width; nothing else is converted. NaN is null. A field
    declared not nullable may hold no null, and no list may hold one.

    Raises:
      InputError: no such file, one that is truncated, damaged or without rows; a column that is missing or there twice or of
        another kind; a value that does not fit the type, or a null where none may be.
    """
    if not file.is_file():
        raise InputError(f"{file}: not found; give the folder that holds this file")
    try:
        # Not read_table, which takes folder names like a=b above the file for further columns.
        with pq.ParquetFile(file, page_checksum_verification=True) as opened:
            found = opened.schema_arrow
            for name in schema.names:
                _check_column(file, found, schema.field(name))
            table = opened.read(columns=schema.names).select(schema.names)
        table.validate(full=True)
    except (pa.ArrowException, OSError) as e:
        raise InputError(f"{file}: cannot be read ({' '.join(str(e).split())[:120]}); fetch the file again") from e
    if not len(table):
        raise InputError(f"{file}: holds no rows; fetch the file again")
    source = Source(file=file, table=table, first_row=1)
    made = pa.table([_converted(source, field) for field in schema], names=schema.names)
    return Source(file=file, table=made, first_row=1)


def columns(file: Path) -> list[str]:
    """Return the names of a file's columns. Raises InputError for a file that is missing or cannot be read."""
    if not file.is_file():
        raise InputError(f"{file}: not found; give the folder that holds this file")
    try:
        return pq.read_schema(file).names
    except (pa.ArrowException, OSError) as e:
        raise InputError(f"{file}: cannot be read ({' '.join(str(e).split())[:120]}); fetch the file again") from e


def refuse_negative(source: Source, *names: str) -> None:
    """Raise InputError for the first row of these columns that is, or as a list holds, a negative number."""
    for name in names:
        column = source[name]
        if _is_list(column.type):
            bad = _rows_with(column, lambda values: pc.less(values, 0))
        else:
            bad = pc.fill_null(pc.less(column, 0), False).to_numpy()
        if bad.any():
            source.fail(name, bad, "a negative id")


def refuse_repeats(source: Source, name: str) -> None:
    """Raise InputError for the first row of a column of ids whose value a row before it has."""
    values = source[name].to_numpy()
    bad = np.ones(len(values), bool)
    bad[np.unique(values, return_index=True)[1]] = False
    if bad.any():
        source.fail(name, bad, "as a row before it does")


def unix_seconds(source: Source, name: str) -> np.ndarray:
    """Return a column of timestamps in whole unix seconds, rounded down; those without a zone are read as UTC.

    Raises:
      InputError: a time outside the years 2000 to 2099.
    """
    values = source[name].cast(pa.timestamp("us", source[name].type.tz)).cast(pa.int64()).to_numpy()
    seconds = values // 1_000_000
    bad = (seconds < _EARLIEST) | (seconds >= _LATEST)
    if bad.any():
        source.fail(name, bad, "not a time of this century")
    return seconds


def _check_column(file: Path, found: pa.Schema, field: pa.Field) -> None:
    count = found.names.count(field.name)
    if count != 1:
        what = "is there more than once" if count else "is missing"
        raise InputError(f"{file}: column {field.name} {what}; give it once, as {_named(field.type)}")
    if _kind(found.field(field.name).type) != _kind(field.type):
        raise InputError(f"{file}: column {field.name} is {found.field(field.name).type}; give it as {_named(field.type)}")


def _converted(source: Source, field: pa.Field) -> pa.ChunkedArray:
    column = source[field.name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    if not field.nullable and column.null_count:
        source.fail(field.name, pc.is_null(column), "but every row needs a value there")
    if _is_list(column.type) and (bad := _rows_with(column, pc.is_null)).any():
        source.fail(field.name, bad, "but a list may hold no nulls")
    try:
        return column.cast(field.type)
    except pa.ArrowInvalid:
        bad = np.zeros(len(column), bool)
        bad[_first_unfit(column, field.type)] = True
        source.fail(field.name, bad, f"which does not fit {_named(field.type)}")


def _first_unfit(column: pa.ChunkedArray, dtype: pa.DataType) -> int:
    """Place of the first value that does not cast, where one does not."""
    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            # Taken out, since the cast of a sliced list may look at what lies outside of the slice.
            column.take(pa.array(np.arange(low, middle))).cast(dtype)
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low


def _rows_with(column: pa.ChunkedArray, test: Any) -> np.ndarray:
    """Mask of the rows whose list holds a value that passes the test."""
    bad = np.zeros(len(column), bool)
    start = 0
    for chunk in column.chunks:
        held = pc.fill_null(test(pc.list_flatten(chunk)), False)
        bad[start + pc.filter(pc.list_parent_indices(chunk), held).to_numpy()] = True
        start += len(chunk)
    return bad


def _is_list(dtype: pa.DataType) -> bool:
    return pa.types.is_list(dtype) or pa.types.is_large_list(dtype) or pa.types.is_fixed_size_list(dtype)


def _kind(dtype: pa.DataType) -> str:
    if pa.types.is_dictionary(dtype):
        return _kind(dtype.value_type)
    if _is_list(dtype):
        return f"lists of {_kind(dtype.value_type)}"
    if pa.types.is_integer(dtype) or pa.types.is_floating(dtype) or pa.types.is_decimal(dtype):
        return "numbers"
    if pa.types.is_string(dtype) or pa.types.is_large_string(dtype):
        return "text"
    return "times" if pa.types.is_timestamp(dtype) else str(dtype)


def _named(dtype: pa.DataType) -> str:
    return f"lists of {dtype.value_type}" if _is_list(dtype) else str(dtype)
