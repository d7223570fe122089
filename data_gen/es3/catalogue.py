"""The tables that describe things (items, users, queries): every part checked, row by row, before anything is computed."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unisc.data.schema import TableSchema
from unisc.errors import InputError

TS_LIMIT = 2**40
"""Far beyond any date in seconds, and before any in milliseconds, which is what a larger value usually is."""


def part_files(directory: Path, schema: TableSchema) -> list[Path]:
    """Return a table's part files. Raises InputError if there is none."""
    files = sorted((directory / schema.name).glob("part-*.parquet"))
    if not files:
        raise InputError(f"{directory / schema.name}: no part-*.parquet, so table {schema.name} is missing; add it")
    return files


def check_columns(files: list[Path], schema: TableSchema) -> set[str]:
    """Check every part's columns and types; return the optional columns that are absent.

    Raises:
      InputError: a file that is no Parquet; a column missing, foreign or of another type; parts that differ.
    """
    absent: set[str] | None = None
    for file in files:
        try:
            found = pq.read_schema(file)
        except (pa.ArrowException, OSError) as e:
            raise InputError(f"{file}: not a readable Parquet file ({' '.join(str(e).split())[:120]}); write it again") from e
        missing = set(schema.columns.names) - set(found.names)
        if required := sorted(missing - schema.optional):
            raise InputError(f"{file}: column {required[0]} is missing; add it as {schema.columns.field(required[0]).type}")
        for field in found:
            if field.name not in schema.columns.names or found.names.count(field.name) > 1:
                raise InputError(f"{file}: column {field.name} is not one of {schema.name}'s; remove it")
            declared = schema.columns.field(field.name).type
            if _plain(field.type) != declared:
                raise InputError(f"{file}: column {field.name} is {field.type}, not {declared}; convert it")
        if absent is not None and missing != absent:
            raise InputError(f"{file}: has other columns than {files[0].name}; write every part of {schema.name} alike")
        absent = missing
    return absent or set()


def count_rows(files: list[Path]) -> int:
    """Rows of a table by its files' footers."""
    return sum(pq.read_metadata(file).num_rows for file in files)


def read_catalogue(files: list[Path], schema: TableSchema) -> pa.Table:
    """Read and check a catalogue table; absent optional columns are null.

    Raises:
      InputError: a null, negative or non-finite value where none may be; an id that is repeated, or ids that are not dense.
    """
    parts = []
    for file in files:
        try:
            part = pq.read_table(file)
            part.validate(full=True)  # among other things, that text is UTF-8
        except (pa.ArrowException, OSError) as e:
            raise InputError(f"{file}: cannot be read ({' '.join(str(e).split())[:120]}); write it again") from e
        # Parts may spell a type differently, and numbers stored as a dictionary would pass the checks below.
        part = _as_declared(part, schema)
        for name in part.column_names:
            column = part[name].combine_chunks()
            for what, bad in _faults(schema, name, column):
                if rows := int(pc.sum(bad).as_py() or 0):
                    row = int(pc.index(bad, True).as_py())
                    raise InputError(
                        f"{file}: row {row}: column {name} is {what} ({rows} such in this file); correct or remove them"
                    )
        parts.append(part)
    table = pa.concat_tables(parts)
    ids = table[schema.key[0]].to_numpy()
    order = np.argsort(ids, kind="stable")
    wrong = np.flatnonzero(ids[order] != np.arange(len(ids)))
    if len(wrong):
        place, key = order[wrong[0]], schema.key[0]
        file, row = _where(parts, files, int(place))
        if wrong[0] and ids[order][wrong[0]] == ids[order][wrong[0] - 1]:
            raise InputError(f"{file}: row {row}: duplicate {key} {ids[place]}; keep one of them")
        raise InputError(
            f"{file}: row {row}: column {key} has {ids[place]} where {wrong[0]} should follow, so it is not dense; "
            "number the rows from 0 without gaps"
        )
    columns = [table[f.name] if f.name in table.column_names else pa.nulls(len(table), f.type) for f in schema.columns]
    return pa.table(columns, schema=schema.columns)


def copy_part(file: Path, target: Path, schema: TableSchema) -> None:
    """Copy a part byte for byte, or written anew where it spells a type in another way than readers of samples expect."""
    types = {field.name: field.type for field in pq.read_schema(file)}
    if all(types[name] == schema.columns.field(name).type for name in types):
        shutil.copyfile(file, target)
    else:
        pq.write_table(_as_declared(pq.read_table(file), schema), target)


def _as_declared(part: pa.Table, schema: TableSchema) -> pa.Table:
    part = part.select([name for name in schema.columns.names if name in part.column_names])
    return part.cast(pa.schema([schema.columns.field(name) for name in part.column_names]))


def _faults(schema: TableSchema, name: str, column: pa.Array) -> list[tuple[str, pa.Array]]:
    faults = [] if name in schema.nullable or name in schema.optional else [("null", pc.is_null(column))]
    if pa.types.is_floating(column.type):
        faults.append(("NaN or infinite", pc.invert(pc.fill_null(pc.is_finite(column), True))))
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        faults.append(("negative", pc.fill_null(pc.less(column, pa.scalar(0, column.type)), False)))
    if pa.types.is_list(column.type):
        wrong = pc.list_flatten(column)
        wrong = pc.or_(pc.is_null(wrong), pc.less(pc.fill_null(wrong, 0), 0))
        rows = np.zeros(len(column), bool)
        rows[pc.list_parent_indices(column).filter(wrong).to_numpy()] = True
        faults.append(("a list with a null or negative id", pa.array(rows)))
    if name == "created_ts":
        faults.append(("too large for unix seconds", pc.fill_null(pc.greater_equal(column, TS_LIMIT), False)))
    return faults


def _where(parts: list[pa.Table], files: list[Path], row: int) -> tuple[Path, int]:
    for part, file in zip(parts, files, strict=True):
        if row < len(part):
            return file, row
        row -= len(part)
    raise AssertionError("row lies beyond the parts")


def _plain(found: pa.DataType) -> pa.DataType:
    """Reduce spellings of a type that mean the same values on disk."""
    if pa.types.is_large_string(found) or pa.types.is_string_view(found):
        return pa.string()
    if pa.types.is_dictionary(found):
        return _plain(found.value_type)
    if pa.types.is_list(found) or pa.types.is_large_list(found):
        return pa.list_(_plain(found.value_type))
    return found
